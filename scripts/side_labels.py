"""Write labels of the sides of limbs and shoes that were told by eye.

    python scripts/side_labels.py --data DATA -o OUT [--checkpoint CHECKPOINT --size 352x352]
        [--split train]

DATA holds pascal_person_part/ and ccp/ in the neutral layout; the strokes are in scripts/sides/.

OUT/pascal_person_part: labels_atr and labels_cihp with the arms and legs that are told,
bare by their colour or by eye; limbs that are covered by their colour have the garment that the
network of CHECKPOINT finds likeliest, if one is given, PASCAL's part admits it and it is no shoe;
all else is undecided. labels_pascal_sides has the sides of all limbs that are told, covered or
bare, in the domain that OUT/pascal_sides.json names.
OUT/ccp: the derived labels, with the sides that both of them left undecided.
`<split>.txt` lists all photographs, `sided.txt` those with strokes (of ccp: on legs or shoes),
`crossed.txt` those whose left shoe is on the picture's left. Images are a link to those of DATA.
OUT appears when all is written. See hp_trainer.sides and .skin.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hp_sdk.domains import Domain, admissible, load_domain
from hp_sdk.errors import ConfigError, DataError, HpError
from hp_sdk.files import write_bytes, write_folder
from hp_sdk.png import read_labels as read_png
from hp_sdk.png import write_labels as write_png
from hp_trainer.augment import IGNORED
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint
from hp_trainer.cli.evaluate import size_hw
from hp_trainer.evaluate import Predictor, input_spec, network_predictor
from hp_trainer.layouts import PhotoSet
from hp_trainer.limbs import limb_side_map, limb_sides
from hp_trainer.models.sst import SST
from hp_trainer.sides import connected, naming, read_strokes, side_map
from hp_trainer.skin import bare_and_covered, colour_evidence, garments

STROKES = Path(__file__).parent / "sides"
PASCAL, CCP = load_domain("pascal"), load_domain("ccp")
ARMS, LEGS = PASCAL.indices("arms"), PASCAL.indices("legs")
SKIN, SHOES = CCP.index("skin"), CCP.indices(
    "shoes", "boots", "flats", "heels", "loafers", "pumps", "sandals", "sneakers", "wedges", "clogs"
)  # fmt: skip
TARGETS = {name: load_domain(name) for name in ("atr", "cihp")}
SIDED = [f"{side}-{part}" for part in ("arm", "leg", "shoe") for side in ("left", "right")]
PLACES = {name: place for place, name in enumerate(SIDED)}
NO_GARMENT = (*SIDED[:4], "torso-skin", "face", "hair", "bag", "background")

Maps = dict[str, np.ndarray]
PartsOf = Callable[[np.ndarray, Maps], tuple[np.ndarray, Maps]]
"""Image and its labels → numbered parts, and by domain what is known of the other pixels."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--size", type=size_hw, default=(352, 352))
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        dress = predictors(args.checkpoint, args.size) if args.checkpoint else {}
        write_labels(args.data, args.split, dress, args.output)
    except HpError as exc:
        sys.exit(f"side_labels: {exc}")


def write_labels(data: Path, split: str, dress: dict[str, Predictor], output: Path) -> None:
    """Both sets; `dress` says by domain which garment is likeliest."""
    ccp = {"ccp": "labels"} | {name: f"labels_{name}" for name in TARGETS}
    body = PhotoSet(data / "pascal_person_part", {"pascal": "labels"}, split)
    fashion = PhotoSet(data / "ccp", ccp, split)
    limbs = Limbs(colour_evidence(garments(data / "ccp")), dress)
    with write_folder(output, marker="about.json") as folder:
        told = {
            "pascal_person_part": write_set(body, split, folder, limbs, SIDED),
            "ccp": write_set(fashion, split, folder, undecided, SIDED[2:]),
        }
        told["limbs"] = write_limbs(body, folder)
        write_bytes(folder / "about.json", (json.dumps(told, indent=1) + "\n").encode())


def write_set(
    photos: PhotoSet, split: str, output: Path, parts_of: PartsOf, wanted: Sequence[str]
) -> int:
    """Labels of all photographs; returns how many have a stroke of a class that is `wanted`."""
    root = Path(photos.root)
    strokes = read_strokes(STROKES / f"{root.name}.txt")
    check_ids(strokes, root)
    folder = output / root.name
    folder.mkdir()
    (folder / "images").symlink_to((root / "images").resolve())
    for name in TARGETS:
        (folder / f"labels_{name}").mkdir()
    rng = np.random.default_rng(0)
    crossed = []
    for index in tqdm(range(len(photos)), desc=root.name, unit="photo", disable=None):
        photo = photos.ids[index]
        parts, known = parts_of(*photos.load(index, rng))
        with naming(f"{root.name} {photo}"):
            told = side_map(parts, strokes.get(photo, []), PLACES)
        for name, domain in TARGETS.items():
            for side, place in PLACES.items():
                known[name][told == place] = domain.index(side)
            write_png(folder / f"labels_{name}" / f"{photo}.png", known[name], domain.palette)
        if has_crossed_feet(known["cihp"], TARGETS["cihp"]):
            crossed.append(photo)
    sided = [p for p in photos.ids if any(s.name in wanted for s in strokes.get(p, ()))]
    for name, ids in ((split, photos.ids), ("sided", sided), ("crossed", crossed)):
        write_bytes(folder / f"{name}.txt", "".join(f"{photo}\n" for photo in ids).encode())
    return len(sided)


def write_limbs(photos: PhotoSet, output: Path) -> int:
    """Sides of covered and bare limbs; returns how many photographs have one that is told.

    `output` holds what `write_set` wrote of the same photographs: bare limbs told there, but not
    among the pieces of limbs, are added; where the two disagree a pixel is undecided.
    """
    domain, cihp = limb_sides(), TARGETS["cihp"]
    root = Path(photos.root)
    strokes = read_strokes(STROKES / "pascal_limbs.txt")
    check_ids(strokes, root)
    write_bytes(output / f"{domain.name}.json", json.dumps(domain.to_dict()).encode())
    source = output / root.name / "labels_cihp"
    folder = output / root.name / f"labels_{domain.name}"
    folder.mkdir()
    rng, told = np.random.default_rng(0), 0
    for index in tqdm(range(len(photos)), desc=domain.name, unit="photo", disable=None):
        photo = photos.ids[index]
        body = photos.load(index, rng)[1]["pascal"]
        with naming(f"{root.name} {photo}"):
            labels = limb_side_map(body, strokes.get(photo, []))
        bare = read_png(source / f"{photo}.png")
        for name in domain.names[3:]:
            side, part, limb = name.split("-")
            there = body == PASCAL.index(f"{part}-{limb}s")
            there &= bare == cihp.index(f"{side}-{limb}")
            mine, other = domain.index(name), domain.flip_perm[domain.index(name)]
            labels[there & (labels == IGNORED)] = mine
            labels[there & (labels == other)] = IGNORED
        told += bool(np.isin(labels, range(3, domain.num_classes)).any())
        write_png(folder / f"{photo}.png", labels, domain.palette)
    return told


def check_ids(photos: Iterable[str], root: Path) -> None:
    """Refuse strokes of photographs that no list names."""
    lists = [path.read_text("utf-8").split() for path in sorted(root.glob("*.txt"))]
    if strange := set(photos).difference(*lists):
        raise DataError(
            f"strokes name {', '.join(sorted(strange)[:5])}, which no list of {root} has; "
            "correct the strokes"
        )


def has_crossed_feet(labels: np.ndarray, domain: Domain) -> bool:
    """Whether the left shoe of a label map (H, W) is, on average, left of the right one.

    Shoes of up to 20 pixels do not count. It is also true of people seen from behind.
    """
    left, right = (np.nonzero(labels == domain.index(shoe))[1] for shoe in SIDED[4:])
    return min(len(left), len(right)) > 20 and bool(left.mean() < right.mean())


class Limbs:
    """Arms and legs of labels in `pascal`: numbered, and dressed where colours say so."""

    def __init__(self, evidence: np.ndarray, dress: dict[str, Predictor]) -> None:
        self.evidence, self.dress = evidence, dress

    def __call__(self, image: np.ndarray, labels: Maps) -> tuple[np.ndarray, Maps]:
        """Bare arms, bare legs, and what else each part of a limb has; garments on covered ones."""
        body = labels["pascal"]
        limb = np.where(np.isin(body, ARMS + LEGS), body, 0).astype(np.uint8)
        bare, covered = bare_and_covered(image, limb, self.evidence)
        kinds = [
            bare & np.isin(body, ARMS),
            bare & np.isin(body, LEGS),
            *(~bare & (body == part) for part in ARMS + LEGS),
        ]
        known = {name: np.full_like(body, IGNORED) for name in TARGETS}
        for name, predict in self.dress.items() if covered.any() else ():
            worn = predict(image)
            shoes = [TARGETS[name].index(shoe) for shoe in SIDED[4:]]
            for part, allowed in enumerate(admissible("pascal", name) or ()):
                fits = np.isin(worn, allowed) & ~np.isin(worn, shoes) & (body == part)
                known[name][covered & fits] = worn[covered & fits]
        return connected(kinds, gap=7), known


def predictors(checkpoint: Path, size: tuple[int, int]) -> dict[str, Predictor]:
    """What the heads of a checkpoint see if everything is a garment or a shoe."""
    saved = read_checkpoint(checkpoint)
    net = build_from_checkpoint(saved)
    heads = [domain.name for domain in saved.domains]
    if not isinstance(net, SST) or not set(TARGETS) <= set(heads):
        raise ConfigError(
            f"{checkpoint} is {saved.family} with heads {', '.join(heads)}; name a checkpoint of "
            f"SST with {' and '.join(TARGETS)}"
        )
    for name, domain in TARGETS.items():
        others = [domain.index(bare) for bare in NO_GARMENT if bare in domain.names]
        bias = net.get_parameter(f"heads.{name}.bias")
        bias.data[others] = -1e4
    spec = input_spec({**saved.input, "size_hw": list(size)})
    return {name: network_predictor(net, name, spec) for name in TARGETS}


def undecided(image: np.ndarray, labels: Maps) -> tuple[np.ndarray, Maps]:
    """Skin and shoes of labels in `ccp` that neither derived label decides; the derived labels."""
    del image
    tags, open_ = labels["ccp"], (labels["cihp"] == IGNORED) & (labels["atr"] == IGNORED)
    parts = connected([open_ & (tags == SKIN), open_ & np.isin(tags, SHOES)], gap=3)
    return parts, {name: labels[name] for name in TARGETS}


if __name__ == "__main__":
    main()
