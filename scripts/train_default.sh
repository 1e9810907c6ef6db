#!/usr/bin/env bash
# Train, score and bundle the default model `universal`.
#   HP_DATA=/path/to/data scripts/train_default.sh [WORK_FOLDER]
# HP_DATA holds pascal_person_part/ and ccp/ in the neutral layout (images/, labels*/, train.txt, val.txt).
# Takes about fourteen hours on 2 CPU cores (on a GPU: not measured); started again, it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${HP_DATA:?set HP_DATA to the folder of the labelled photographs}"
work=${1:-runs/default}
configs=trainer/hp_trainer/configs
size=${SIZE:-352x352}

hp-train $configs/bundled-low.toml --output "$work/low" --resume auto
hp-train $configs/bundled.toml --output "$work/full" --resume auto "train.init=\"$work/low/last.pt\""
# once more from there, with more views of whole photographs, as the network meets them when it parses
hp-train $configs/bundled.toml --output "$work/again" --resume auto "train.init=\"$work/full/last.pt\"" train.seed=3 \
    train.steps=3000 data.augment.person_crop=0.5 'data.augment.scale=[0.6,1.5]'
# the lean network that ships, from the weights that fit: first small views, then those of its own size
hp-train $configs/bundled-lean.toml --output "$work/lean" --resume auto "train.init=\"$work/again/last.pt\""
hp-train $configs/bundled-lean.toml --output "$work/large" --resume auto "train.init=\"$work/lean/last.pt\"" train.seed=5 \
    train.steps=4200 train.lr=1.2e-3 train.schedule=cosine 'data.augment.crop_hw=[288,288]' data.augment.nominal_px=400 \
    data.augment.person_crop=0.5 'train.input_hw=[416,416]' train.eval_every=0
# longer, with more pasted people (data.sets.2) and more weight on what the labels of other domains admit
hp-train $configs/bundled-lean.toml --output "$work/longer" --resume auto "train.init=\"$work/large/last.pt\"" train.seed=6 \
    train.steps=6500 train.lr=1.2e-3 train.schedule=cosine 'data.augment.crop_hw=[288,288]' data.augment.nominal_px=400 \
    data.augment.person_crop=0.5 train.eval_every=0 aux.partial=0.5 data.sets.2.weight=1.3
# two blocks deeper and with Muon; first the two heads that say most about bodies, at a constant rate
export HP_SKIN; HP_SKIN=$(realpath -m "$work/skin")
hp-train $configs/bundled-deep.toml --output "$work/two" --resume auto "train.init=\"$work/longer/last.pt\"" train.seed=7 \
    train.steps=6580 train.schedule=step train.decay_at=1.0 'aux.domain_weights={pascal=2.0}' 'domains=["pascal","cihp"]' \
    'data.sets.0.labels={pascal="labels"}' 'data.sets.1.labels={cihp="labels_cihp"}' 'data.sets.2.labels={cihp="labels_cihp"}' \
    'data.augment.scale=[0.6,1.5]' data.augment.rotate_deg=8.0 data.augment.colour=0.4 data.augment.grey=0.05 data.augment.cutmix=0.0
# then all five, with stronger augmentation, and bare skin of the pascal photographs by its colour
[ -d "$HP_SKIN" ] || python scripts/skin_labels.py --from "$HP_DATA/ccp" --to "$HP_DATA/pascal_person_part" -o "$HP_SKIN" \
    --parts head,upper-arms,lower-arms,upper-legs,lower-legs
hp-train $configs/bundled-deep.toml --output "$work/deep" --resume auto "train.init=\"$work/two/last.pt\""
# and without those labels, which taught that hair of ordinary photographs is face
hp-train $configs/bundled-deep.toml --output "$work/last" --resume auto "train.init=\"$work/deep/last.pt\"" train.seed=9 \
    train.steps=1300 train.lr=5e-4 train.warmup=50 'data.sets.0.labels={pascal="labels"}'
# The mean of the weights of steps that share a start is better than each. Five more from such means: with stronger
# augmentation; with weaker, more weight on the cihp head and skin of limbs by its colour; the first two heads three times again.
mean() { out=$1; shift; python scripts/average_checkpoints.py "$@" -o "$work/$out.pt"; }
mean mean "$work/two/last.pt" "$work/last/last.pt"
hp-train $configs/bundled-deep.toml --output "$work/strong" --resume auto "train.init=\"$work/mean.pt\"" train.seed=10 \
    train.steps=6000 train.lr=1e-3 train.ema=0.999 'data.sets.0.labels={pascal="labels"}' data.augment.cutmix=0.5 \
    data.augment.rotate_deg=15.0 data.augment.colour=0.6 data.augment.blur=0.1 data.augment.cutout=0.2 'data.augment.scale=[0.5,1.8]'
export HP_SKIN; HP_SKIN=$(realpath -m "$work/limbs")
[ -d "$HP_SKIN" ] || python scripts/skin_labels.py --from "$HP_DATA/ccp" --to "$HP_DATA/pascal_person_part" -o "$HP_SKIN"
hp-train $configs/bundled-deep.toml --output "$work/limb-skin" --resume auto "train.init=\"$work/mean.pt\"" train.seed=12 \
    train.steps=4200 train.lr=8e-4 train.ema=0.999 'aux.domain_weights={pascal=4.0,cihp=3.0,lip=0.5,ccp=0.5}' \
    data.augment.cutmix=0.15 data.augment.rotate_deg=8.0 data.augment.colour=0.4 data.augment.grey=0.05 'data.augment.scale=[0.6,1.5]'
mean mean2 "$work/mean.pt" "$work/strong/last.pt"
two() { # name start seed steps, and what else differs
    name=$1 start=$2 seed=$3 steps=$4; shift 4
    hp-train $configs/bundled-deep.toml --output "$work/$name" --resume auto "train.init=\"$work/$start.pt\"" train.seed="$seed" \
        train.steps="$steps" train.lr=1e-3 train.schedule=step train.decay_at=1.0 'domains=["pascal","cihp"]' \
        'data.sets.0.labels={pascal="labels"}' 'data.sets.1.labels={cihp="labels_cihp"}' 'data.sets.2.labels={cihp="labels_cihp"}' \
        'data.augment.scale=[0.6,1.5]' data.augment.rotate_deg=8.0 data.augment.colour=0.4 data.augment.grey=0.05 data.augment.cutmix=0.0 "$@"
}
again='aux.domain_weights={pascal=2.0}'
[ -f "$work/mean3.pt" ] || two two-again mean2 13 3500 train.ema=0.999 "$again"
[ -f "$work/mean3.pt" ] || mean mean3 "$work/mean.pt" "$work/two-again/last.pt" "$work/strong/last.pt" "$work/limb-skin/last.pt"
two two-again mean2 13 4000 train.ema=0.999 "$again"
two two-third mean3 14 2500 "$again"
two two-fourth mean3 15 1757 aux.partial=0.2 'aux.domain_weights={pascal=2.0,cihp=2.0}'
mean mean4 "$work/mean3.pt" "$work/two-again/last.pt" "$work/two-third/last.pt" "$work/two-fourth/last.pt"
# Sides of limbs and shoes told by eye. Three heads from that mean: without these labels, then twice with them; from the mean of all
# four twice with garments on limbs whose colour is no skin, and more of crossed feet; from the mean with those twice more.
export HP_SIDES
sided() { # name start seed steps, and what else differs
    name=$1 start=$2 seed=$3 steps=$4; shift 4
    hp-train $configs/bundled-sides.toml --output "$work/$name" --resume auto "train.init=\"$work/$start.pt\"" train.seed="$seed" \
        train.steps="$steps" "$@"
}
body='root="$HP_DATA/pascal_person_part",cache_px=448,labels={pascal="labels"}'
limbs='root="$HP_SIDES/pascal_person_part",cache_px=448,labels={pascal="$HP_DATA/pascal_person_part/labels",atr="labels_atr",cihp="labels_cihp"}'
derived='root="$HP_SIDES/ccp",cache_px=448,labels={atr="$HP_DATA/ccp/labels_atr",cihp="$HP_DATA/ccp/labels_cihp"}'
fashion='root="$HP_SIDES/ccp",cache_px=448,labels={atr="labels_atr",cihp="labels_cihp"}'
sets() { # weight of limbs, of fashion with sides, number of dolls
    echo "data.sets=[{$body},{$limbs,split=\"sided\",weight=$1},{$fashion},{$fashion,onto={$body}}," \
        "{$fashion,split=\"sided\",weight=$2},{dolls=$3,size_hw=[224,224]}]"
}
HP_SIDES=$(realpath -m "$work/sides")
[ -d "$HP_SIDES" ] || python scripts/side_labels.py --data "$HP_DATA" -o "$HP_SIDES"
sided three mean4 20 2200 \
    "data.sets=[{$body,weight=1.5},{$derived},{$derived,onto={$body}},{$derived,split=\"sided\",weight=1.5},{dolls=300,size_hw=[224,224]}]"
sided sides mean4 21 2881 "$(sets 1.5 1.5 300)"
sided sides-again mean4 22 2836 "$(sets 2.0 3.0 900)"
mean mean5 "$work/mean4.pt" "$work/three/last.pt" "$work/sides/last.pt" "$work/sides-again/last.pt"
HP_SIDES=$(realpath -m "$work/dressed")
[ -d "$HP_SIDES" ] || python scripts/side_labels.py --data "$HP_DATA" --checkpoint "$work/mean4.pt" --size "$size" -o "$HP_SIDES"
sided crossed mean5 31 2823
sided crossed-again mean5 32 2842 data.sets.1.weight=1.5 data.sets.4.weight=1.5 data.sets.5.weight=20.0
mean mean6 "$work/crossed/last.pt" "$work/crossed-again/last.pt" "$work/mean5.pt"
sided merged mean6 33 3280 data.sets.1.weight=2.0
sided merged-again mean6 34 3267 data.sets.1.weight=3.0 data.sets.4.weight=1.5 data.sets.5.weight=20.0
# the heads lip and ccp have not been trained since mean4: they come along
mean mean7 "$work/merged/last.pt" "$work/merged-again/last.pt" "$work/crossed/last.pt" "$work/crossed-again/last.pt" --heads-from "$work/mean6.pt"
# Twice more, once with photographs whose proportions are not kept; from the mean with these, a head for the sides of all limbs,
# bare or covered, twice; and twice more with these labels under pasted people too.
wide='data.augment.keep_ratio=false'
sided stretched mean7 41 1383 data.sets.1.weight=3.0 $wide 'data.augment.scale=[0.65,1.4]'
sided fashion mean7 42 1382 data.sets.1.weight=2.5 data.sets.2.weight=1.5 data.sets.3.weight=1.2 data.sets.5.weight=6.0
mean mean8 "$work/mean7.pt" "$work/stretched/last.pt" "$work/fashion/last.pt"
told='labels={pascal="$HP_DATA/pascal_person_part/labels",pascal_sides="labels_pascal_sides",atr="labels_atr",cihp="labels_cihp"}'
people='root="$HP_SIDES/pascal_person_part",cache_px=448,'$told
four() { # name start seed steps, and what else differs
    sided "$@" 'domains=["pascal","atr","cihp","$HP_SIDES/pascal_sides.json"]' 'aux.domain_weights={pascal=3.0,pascal_sides=2.0}' $wide
}
four limbs mean8 51 1687 'data.augment.scale=[0.65,1.4]' "data.sets.0.$told" "data.sets.1.$told" data.sets.1.weight=2.0 data.sets.5.weight=8.0
four limbs-again mean8 52 1700 'data.augment.scale=[0.65,1.4]' "data.sets.0.$told" "data.sets.1.$told" data.sets.1.weight=2.0 \
    data.sets.2.weight=1.5 data.sets.3.weight=1.2 data.sets.5.weight=6.0 aux.partial=1.0
mean mean9 "$work/limbs/last.pt" "$work/limbs-again/last.pt" "$work/mean8.pt"
scenes=("data.sets.0.$told" "data.sets.1.$told" "data.sets.3.onto={$people}" "data.sets.4.onto={$people}" data.sets.5.weight=10.0)
four scenes mean9 61 2105 "${scenes[@]}" data.sets.1.weight=2.0 'data.augment.scale=[0.65,1.4]' data.augment.rotate_deg=12.0 data.augment.cutout=0.2
four scenes-again mean9 62 2107 "${scenes[@]}" data.sets.1.weight=3.0 'data.augment.scale=[0.65,1.4]' \
    data.sets.2.weight=1.5 data.sets.3.weight=1.2 aux.partial=1.0
mean final "$work/scenes/last.pt" "$work/scenes-again/last.pt" "$work/mean8.pt" "$work/mean9.pt"
# lip and ccp at last, alone: what they read has changed since they were trained. Without the head for sides, which has done its work
hp-train $configs/bundled-heads.toml --output "$work/heads" --resume auto "train.init=\"$work/final.pt\""
python scripts/adjust_background.py "$work/heads/last.pt" -o "$work/adjusted.pt" --size "$size" --json "$work/shifts.json" \
    --list "$HP_DATA/pascal_person_part:pascal:labels:train:400" --list "$HP_DATA/ccp:cihp:labels_cihp:train:80" \
    --list "$HP_DATA/ccp:atr:labels_atr:train:80" --list "$HP_DATA/ccp:lip:labels_lip:train:80" \
    --list "$HP_DATA/ccp:ccp:labels:train:80"
hp-export "$work/adjusted.pt" -o "$work/bundle" --name universal --size "$size"

score() { # data domain labels split
    hp-eval "$work/bundle" --data "$HP_DATA/$1" --domain "$2" --labels "$3" --split "$4" --json "$work/scores/$1.$2.json"
}
mkdir -p "$work/scores/sides" "$work/scores/front"
score pascal_person_part pascal labels val
score ccp cihp labels_cihp val
score ccp atr labels_atr val
score ccp lip labels_lip val
score ccp ccp labels val
# never trained on: their terms are non-commercial or unknown
score cihp_samples cihp labels all
score atr_samples atr labels all

# the sides that labels leave open on the validation lists, told by eye
[ -d "$work/told" ] || python scripts/side_labels.py --data "$HP_DATA" --split val -o "$work/told"
for data in pascal_person_part ccp; do
    hp-eval "$work/bundle" --data "$work/told/$data" --domain cihp --labels labels_cihp --split sided --json "$work/scores/sides/$data.json"
done

# who is seen from the front, told by eye
front() { # set, where it is, domain labels split
    [ -d "$work/front/$1" ] || python scripts/front_labels.py --data "$2/$1" --domain "$3" --labels "$4" --split "$5" -o "$work/front/$1"
    hp-eval "$work/bundle" --data "$work/front/$1" --domain "$3" --labels labels --split all --json "$work/scores/front/$1.json"
}
front pascal_person_part "$work/told" cihp labels_cihp sided
front cihp_samples "$HP_DATA" cihp labels all
front atr_samples "$HP_DATA" atr labels all

python scripts/model_card.py --data "$HP_DATA" \
    --configs $configs/bundled-low.toml $configs/bundled.toml $configs/bundled.toml $configs/bundled-lean.toml $configs/bundled-lean.toml $configs/bundled-lean.toml \
    $configs/bundled-deep.toml $configs/bundled-deep.toml $configs/bundled-deep.toml \
    $configs/bundled-deep.toml $configs/bundled-deep.toml $configs/bundled-deep.toml $configs/bundled-deep.toml $configs/bundled-deep.toml \
    $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml \
    $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml \
    $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-sides.toml $configs/bundled-heads.toml \
    --runs "$work/low" "$work/full" "$work/again" "$work/lean" "$work/large" "$work/longer" "$work/two" "$work/deep" "$work/last" \
    "$work/strong" "$work/limb-skin" "$work/two-again" "$work/two-third" "$work/two-fourth" "$work/three" "$work/sides" \
    "$work/sides-again" "$work/crossed" "$work/crossed-again" "$work/merged" "$work/merged-again" \
    "$work/stretched" "$work/fashion" "$work/limbs" "$work/limbs-again" "$work/scenes" "$work/scenes-again" "$work/heads" \
    --checkpoint "$work/adjusted.pt" --scores "$work"/scores/*.json --sides "$work"/scores/sides/*.json --front "$work"/scores/front/*.json --json "$work/card.json" --markdown docs/model_card.md
hp-export "$work/adjusted.pt" -o hp_sdk/bundles/universal --name universal --size "$size" --card "$work/card.json"
