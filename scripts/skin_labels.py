"""Write weak labels of bare skin for photographs that are labelled in PASCAL's body parts.

    python scripts/skin_labels.py --from DATA/ccp --to DATA/pascal_person_part -o OUT
        [--parts upper-arms,lower-arms,upper-legs,lower-legs]

The colours are learned from the `train` photographs of --from (labels in `ccp`), the labels are
written for those of --to (labels in `pascal`): OUT/<id>.png, `skin` of ccp or 255. OUT appears when
all are written. See hp_trainer.skin.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hp_sdk.domains import load_domain
from hp_sdk.errors import HpError
from hp_sdk.files import write_bytes, write_folder
from hp_sdk.png import write_labels as write_png
from hp_trainer.layouts import PhotoSet
from hp_trainer.skin import colour_evidence, garments, skin_labels

CCP, PASCAL = load_domain("ccp"), load_domain("pascal")
SKIN = CCP.index("skin")
ABOUT = "about.json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--to", dest="target", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    limbs = ",".join(PASCAL.names[part] for part in PASCAL.indices("arms", "legs"))
    parser.add_argument("--parts", default=limbs, help=f"that may be bare; default: {limbs}")
    try:
        write_labels(parser.parse_args())
    except HpError as exc:
        sys.exit(f"skin_labels: {exc}")


def write_labels(args: argparse.Namespace) -> None:
    """Learn the colours, and write one label map for every photograph."""
    bare = PASCAL.indices(*args.parts.split(","))
    evidence = colour_evidence(garments(args.source))
    photos = PhotoSet(args.target, {"pascal": "labels"}, "train")
    names = {"from": args.source.name, "to": args.target.name}
    told = {"labels": "ccp", **names, "images": len(photos)}
    with write_folder(args.output, marker=ABOUT) as folder:
        rng = np.random.default_rng(0)
        for index in tqdm(range(len(photos)), unit="photo", disable=None):
            image, labels = photos.load(index, rng)
            parts = np.where(np.isin(labels["pascal"], bare), labels["pascal"], 0).astype(np.uint8)
            found = skin_labels(image, parts, evidence, skin_id=SKIN)
            write_png(folder / f"{photos.ids[index]}.png", found, CCP.palette)
        write_bytes(folder / ABOUT, (json.dumps(told, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
