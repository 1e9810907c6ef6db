"""Write labels of the sides of limbs and shoes that were told by hand.

    python scripts/side_labels.py --data DATA --skin SKIN -o OUT

DATA holds pascal_person_part/ and ccp/ in the neutral layout, SKIN the labels of bare skin on the
limbs of the former by scripts/skin_labels.py. The strokes are in scripts/sides/.

OUT/pascal_person_part: labels_atr, labels_cihp, labels_lip with arms and legs that are bare, all
else undecided. OUT/ccp: the derived labels, with the sides they left undecided. `sided.txt` lists
the photographs with strokes (of ccp: on legs or shoes), `train.txt` all. Images are a link to those
of DATA. OUT appears when all is written. See hp_trainer.sides.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from hp_sdk.domains import load_domain
from hp_sdk.errors import DataError, HpError
from hp_sdk.files import write_bytes, write_folder
from hp_trainer.augment import IGNORED
from hp_trainer.layouts import PhotoSet
from hp_trainer.sides import Stroke, connected, read_strokes, side_map

STROKES = Path(__file__).parent / "sides"
PASCAL, CCP = load_domain("pascal"), load_domain("ccp")
ARMS, LEGS = PASCAL.indices("arms"), PASCAL.indices("legs")
SKIN, SHOES = CCP.index("skin"), CCP.indices(
    "shoes", "boots", "flats", "heels", "loafers", "pumps", "sandals", "sneakers", "wedges", "clogs"
)  # fmt: skip
TARGETS = {name: load_domain(name) for name in ("atr", "cihp", "lip")}
SIDED = [f"{side}-{part}" for part in ("arm", "leg", "shoe") for side in ("left", "right")]

Maps = dict[str, np.ndarray]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--skin", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    ccp = {"ccp": "labels"} | {name: f"labels_{name}" for name in TARGETS}
    pascal = {"pascal": "labels", "ccp": str(args.skin.resolve())}
    try:
        with write_folder(args.output, marker="about.json") as folder:
            limbs = PhotoSet(args.data / "pascal_person_part", pascal, "train")
            fashion = PhotoSet(args.data / "ccp", ccp, "train")
            told = {
                "pascal_person_part": write_set(limbs, folder, bare_limbs, SIDED),
                "ccp": write_set(fashion, folder, undecided, SIDED[2:]),
            }
            write_bytes(folder / "about.json", (json.dumps(told, indent=1) + "\n").encode())
    except HpError as exc:
        sys.exit(f"side_labels: {exc}")


def write_set(
    photos: PhotoSet, output: Path, parts: Callable[[Maps], np.ndarray], wanted: list[str]
) -> int:
    """Labels of all photographs; returns how many have a stroke of a class that is `wanted`."""
    root = Path(photos.root)
    strokes = read_strokes(STROKES / f"{root.name}.txt")
    folder = output / root.name
    folder.mkdir()
    (folder / "images").symlink_to((root / "images").resolve())
    rng = np.random.default_rng(0)
    for index in tqdm(range(len(photos)), desc=root.name, unit="photo", disable=None):
        photo = photos.ids[index]
        _, labels = photos.load(index, rng)
        mine = strokes.get(photo, [])
        try:
            told = {name: sides(parts(labels), mine, name) for name in TARGETS}
        except DataError as exc:
            raise DataError(f"{root.name} {photo}: {exc}") from exc
        for name, known in told.items():
            before = labels.get(name, np.full_like(known, IGNORED))
            merged = np.where(before == IGNORED, known, before)
            place = folder / f"labels_{name}"
            place.mkdir(exist_ok=True)
            write_bytes(place / f"{photo}.png", cv2.imencode(".png", merged)[1].tobytes())
    sided = [p for p in photos.ids if any(s.name in wanted for s in strokes.get(p, ()))]
    write_bytes(folder / "train.txt", "".join(f"{p}\n" for p in photos.ids).encode())
    write_bytes(folder / "sided.txt", "".join(f"{p}\n" for p in sided).encode())
    return len(sided)


def sides(parts: np.ndarray, strokes: list[Stroke], domain: str) -> np.ndarray:
    """What the strokes say, in the ids of a domain."""
    return side_map(parts, strokes, {name: TARGETS[domain].index(name) for name in SIDED})


def bare_limbs(labels: Maps) -> np.ndarray:
    """Bare arms and legs of labels in `pascal` with skin in `ccp`, numbered."""
    skin, limb = labels["ccp"] == SKIN, labels["pascal"]
    return connected([skin & np.isin(limb, ARMS), skin & np.isin(limb, LEGS)], gap=7)


def undecided(labels: Maps) -> np.ndarray:
    """Skin and shoes of labels in `ccp` that neither derived label decides, numbered."""
    tags, open_ = labels["ccp"], (labels["cihp"] == IGNORED) & (labels["atr"] == IGNORED)
    return connected([open_ & (tags == SKIN), open_ & np.isin(tags, SHOES)], gap=3)


if __name__ == "__main__":
    main()
