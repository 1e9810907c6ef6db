"""Write labels in which only people seen from the front have arms, legs and shoes.

    python scripts/front_labels.py --data DATA/cihp_samples --domain cihp -o OUT
    python scripts/front_labels.py --data TOLD/pascal_person_part --domain cihp \
        --labels labels_cihp --split sided -o OUT
    hp-eval MODEL --data OUT --domain cihp --labels labels --split all

TOLD is what scripts/side_labels.py --split val writes: the sides of bare limbs, told by eye.

For every connected piece of an arm, a leg or a shoe, of 80 pixels and more, it was told by eye
whether the chest of its owner is turned to the camera, by 45 degrees or less; by three readers
independently, who did not see what a network answers. Two of them had to agree (all three did for
787 of 864 pieces). scripts/sides/front_<set>.txt has a point of each piece. All others become
undecided (255), so that the confusion of left and right that `hp-eval` prints is that of people
seen from the front. `hp_trainer.frontal` guesses the same from the labels, but judges people who
touch as one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import DataError, HpError
from hp_sdk.files import write_bytes, write_folder
from hp_sdk.png import write_labels as write_png
from hp_trainer.augment import IGNORED
from hp_trainer.layouts import PhotoSet
from hp_trainer.sides import Stroke, connected, naming, read_strokes, side_map

STROKES = Path(__file__).parent / "sides"
FRONT = {"front": 0}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domain", required=True)
    parser.add_argument("--labels", default="labels", help="folder with the label maps")
    parser.add_argument("--split", default="all")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        photos = PhotoSet(args.data, {args.domain: args.labels}, args.split)
        write_labels(photos, load_domain(args.domain), args.output)
    except HpError as exc:
        sys.exit(f"front_labels: {exc}")


def write_labels(photos: PhotoSet, domain: Domain, output: Path) -> None:
    """OUT/labels, OUT/images and OUT/all.txt; `output` appears when all is written."""
    root = Path(photos.root)
    strokes = read_strokes(STROKES / f"front_{root.name}.txt")
    if strange := sorted(set(strokes).difference(photos.ids)):
        raise DataError(
            f"strokes name {', '.join(strange[:5])}, which the list of {root} does not; "
            "correct the strokes or choose another --split"
        )
    rng = np.random.default_rng(0)
    with write_folder(output, marker="all.txt") as folder:
        (folder / "images").symlink_to((root / "images").resolve())
        (folder / "labels").mkdir()
        for index, photo in enumerate(photos.ids):
            labels = photos.load(index, rng)[1][domain.name]
            with naming(f"{root.name} {photo}"):
                seen = front_only(labels, domain, strokes.get(photo, []))
            write_png(folder / "labels" / f"{photo}.png", seen, domain.palette)
        write_bytes(folder / "all.txt", "".join(f"{photo}\n" for photo in photos.ids).encode())


def front_only(labels: np.ndarray, domain: Domain, strokes: list[Stroke]) -> np.ndarray:
    """Labels (H, W) uint8 less the pieces of classes with sides that no stroke names."""
    sided = [k for pair in domain.flip_pairs for k in pair]
    told = side_map(connected([labels == k for k in sided], gap=1), strokes, FRONT)
    hidden = np.isin(labels, sided) & (told != FRONT["front"])
    return np.where(hidden, np.uint8(IGNORED), labels)


if __name__ == "__main__":
    main()
