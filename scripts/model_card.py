"""Put a model card together from what was measured: scores, data descriptions, configurations.

    python scripts/model_card.py --data DATA --configs A.toml B.toml --runs RUN_A RUN_B \
        --checkpoint adjusted.pt --scores scores/*.json --sides scores/sides/*.json \
        --front scores/front/*.json --json card.json --markdown docs/model_card.md

Nothing in the card is typed by hand but the two paragraphs on intended use and limits below;
numbers come from hp-eval's JSON files, licences from the `labels.json` of each data set. --sides
are scores on the labels of scripts/side_labels.py, --front on those of scripts/front_labels.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hp_sdk.files import write_bytes
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.config import Config, load_config
from hp_trainer.sides import read_strokes

INTENDED = (
    "Trying the SDK, prototypes, tests of integrations, photographs of one or a few people who "
    "fill a good part of the picture."
)
LIMITS = (
    "A small network trained from scratch, for fourteen hours on two CPU cores, on a few "
    "thousand photographs; a start, not a finished model. Person IoU is far lower on "
    "photographs of several people in any pose (pascal) than on one standing person (ccp), see "
    "the scores. What 48 photographs looked at one by one show: people who are small (below a "
    "fifth of the picture), lie down, ride or wear costumes are taken apart or missed; hands "
    "and objects close to the camera, animals and dark furniture beside people are sometimes "
    "called person; in photographs unlike fashion ones the cihp head mixes coat and "
    "upper-clothes within one garment and does not know skirts and dresses. Bare arms are "
    "mostly found, but their side is often wrong where people hug, hold a child or shake hands "
    "(a sixth of the limb and shoe pixels on cihp_samples), and so is that of a fifth of the "
    "shoes whose owner crosses the legs. Rare garments (glove, scarf, socks, most of the 59 ccp "
    "tags) are mostly missed. The cihp, lip and atr heads learned from labels derived by rule "
    "from ccp, fashion photographs of one standing person, and from sides of limbs told by eye; "
    "bare skin was found by its colour, which finds dark skin less often, though 342 arms that "
    "colour had missed were added by eye. Not for identification, not for judging people, not "
    "for anything where a wrong label does harm. Train on your own data for production."
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--configs", type=Path, nargs="+", required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="what was exported")
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument("--sides", type=Path, nargs="+", required=True, help="scores of told sides")
    parser.add_argument("--front", type=Path, nargs="+", required=True, help="told to face us")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, required=True)
    args = parser.parse_args()
    configs = [load_config(path) for path in args.configs]
    card = {
        "intended_use": INTENDED,
        "limits": LIMITS,
        "training_data": training_data(configs, args.data),
        "recipe": [recipe(path, run) for path, run in zip(args.configs, args.runs, strict=True)],
        "background_shift": read_checkpoint(args.checkpoint).train.get("background_shift", {}),
        "protocol": "original resolution, 255 ignored, background included, no augmentation",
        "metrics": [json.loads(path.read_text("utf-8")) for path in args.scores],
        "sides": [json.loads(path.read_text("utf-8")) for path in args.sides],
        "front": [json.loads(path.read_text("utf-8")) for path in args.front],
        "told": {
            "bare limbs, pascal_person_part": told(args.data / "pascal_person_part"),
            "all limbs, pascal_person_part": told(args.data / "pascal_person_part", "pascal_limbs"),
            "limbs and shoes, ccp": told(args.data / "ccp"),
        },
    }
    write_bytes(args.json, (json.dumps(card, indent=1) + "\n").encode())
    write_bytes(args.markdown, markdown(card).encode())


def training_data(configs: list[Config], data: Path) -> list[dict[str, Any]]:
    """Every folder trained on, with the licence its description names; and the paper dolls."""
    names: dict[str, str] = {}
    for config in configs:
        for entry in config.data.sets:
            if entry.root:
                names.setdefault(Path(entry.root).name, entry.split)
    found = []
    for name, split in names.items():
        about = json.loads((data / name / "labels.json").read_text("utf-8"))
        images = len((data / name / f"{split}.txt").read_text("utf-8").split())
        found.append(
            {"name": name, "split": split, "images": images}
            | {key: about.get(key, "") for key in ("source", "licence", "label_kind")}
        )
    if any(entry.dolls for config in configs for entry in config.data.sets):
        found.append(
            {
                "name": "paper dolls",
                "split": "",
                "images": 0,
                "licence": "Apache-2.0",
                "source": "synthetic, hp_trainer.paperdolls",
                "label_kind": "exact",
            }
        )
    return found


def told(root: Path, strokes_file: str = "") -> int:
    """Number of training photographs of a set with sides told by eye."""
    strokes = read_strokes(Path(__file__).parent / "sides" / f"{strokes_file or root.name}.txt")
    return len(strokes.keys() & (root / "train.txt").read_text("utf-8").split())


def recipe(path: Path, run: Path) -> dict[str, Any]:
    """What one stage did, from the configuration it ran with and its log."""
    rows = [line.split(",") for line in (run / "metrics.csv").read_text("utf-8").splitlines()]
    step_ms = [float(value) for _, name, value in rows if name == "step_ms"]
    stored = json.loads((run / "config.json").read_text("utf-8"))
    used, data = stored["train"], stored["data"]
    return {
        "config": path.name,
        "steps": min(used["steps"], int(rows[-1][0])),
        "batch": data["batch"],
        "crop_hw": data["augment"]["crop_hw"],
        "seed": used["seed"],
        "device": _device(used["device"], used["threads"]),
        "median_step_ms": sorted(step_ms)[len(step_ms) // 2],
    }


def _device(device: str, threads: int) -> str:
    if device != "auto":
        return device
    return "CPU, 1 core" if threads == 1 else "CPU, 2 cores"


def markdown(card: dict[str, Any]) -> str:
    """The card as a page."""
    lines = ["# Model card: `universal`", "", "Generated by `scripts/model_card.py`.", ""]
    lines += ["**For** " + card["intended_use"], "", "**Limits** " + card["limits"], ""]
    lines += ["## Scores", "", f"Protocol: {card['protocol']}; whole list, `hp-eval`.", ""]
    lines += [
        "| data | split | labels | head | images | mIoU | classes present | person IoU "
        "| left/right confused | of people seen from the front |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for m in card["metrics"]:
        lines.append(
            f"| {m['data']} | {m['split']} | {m['labels']} | {m['domain']} | {m['images']} "
            f"| {m['miou']:.3f} | {m['miou_present']:.3f} | {m['person_iou']:.3f} "
            f"| {_per_cent(m['left_right_confusion']['overall'])} "
            f"| {_per_cent(m['left_right_confusion']['frontal']['overall'])} |"
        )
    lines += [
        "",
        "mIoU averages the classes found in truth or prediction; *classes present* those "
        "in the truth. *Seen from the front* is who, in the truth, has the left parts on the "
        "picture's right (`hp_trainer.frontal`).",
        "",
        "### IoU per class",
        "",
    ]
    for m in card["metrics"]:
        known = {k: v for k, v in m["per_class_iou"].items() if v is not None}
        listed = ", ".join(f"{name} {100 * v:.0f}" for name, v in known.items())
        lines += [f"* **{m['data']} / {m['domain']}**: {listed}"]
    lines += [
        "",
        "### Left and right told by eye",
        "",
        "People of the validation lists whose sides were told by eye "
        "(`scripts/side_labels.py`): of pascal_person_part all bare limbs, in any pose; of ccp all "
        "limbs and shoes of those people whose legs or shoes the derived labels leave undecided, "
        "many of them crossed.",
        "",
        *_confusion(card["sides"]),
        "",
        "People seen from the front, as two of three readers said who looked at every arm, leg and "
        "shoe of 80 pixels and more (`scripts/front_labels.py`):",
        "",
        *_confusion(card["front"]),
    ]
    lines += ["", "## Training data", "", "| set | split | images | labels | source | licence |"]
    lines += ["|---|---|---|---|---|---|"]
    for d in card["training_data"]:
        images = d["images"] or "drawn anew"
        lines.append(
            f"| {d['name']} | {d['split']} | {images} | {d['label_kind']} | {d['source']} "
            f"| {d['licence']} |"
        )
    lines += [
        "",
        "Besides, sides told by eye (`scripts/sides/`): "
        + "; ".join(f"{what}: {count} photographs" for what, count in card["told"].items()),
        "",
        "## Recipe",
        "",
        "`scripts/train_default.sh`, from scratch; how it went: [training log](training_log.md).",
        "",
    ]
    for r in card["recipe"]:
        height, width = r["crop_hw"]
        lines.append(
            f"* `{r['config']}`: {r['steps']} steps of {r['batch']} crops of {height}×"
            f"{width}, seed {r['seed']}, {r['device']}, {r['median_step_ms'] / 1e3:.2f} s "
            "per step (median)"
        )
    if shifts := card["background_shift"]:
        listed = ", ".join(f"{name} {shift:g}" for name, shift in shifts.items())
        lines.append(
            "* then a constant was taken from the background's logit of each head, chosen for the "
            f"person IoU on training photographs: {listed} (`scripts/adjust_background.py`)"
        )
    return "\n".join([*lines, ""])


def _confusion(scores: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of a table: left and right confused, over all and by part."""
    yield "| data | head | photographs | left/right confused | arms | legs | shoes |"
    yield "|---|---|---|---|---|---|---|"
    for m in scores:
        found = m["left_right_confusion"]
        pairs = [found["pairs"][f"left-{p} / right-{p}"] for p in ("arm", "leg", "shoe")]
        shares = " | ".join(_per_cent(share) for share in (found["overall"], *pairs))
        yield f"| {m['data']} | {m['domain']} | {m['images']} | {shares} |"


def _per_cent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
