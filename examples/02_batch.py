"""Parse a folder of photos of any sizes: `python examples/02_batch.py [FOLDER]`."""

import csv
import sys
from pathlib import Path

import cv2

from hp_sdk import InputError, Parser
from hp_sdk.sources import expand


def sample_folder(folder: Path) -> Path:
    """Photos of three sizes, and one file that is no photo."""
    folder.mkdir(parents=True, exist_ok=True)
    image = cv2.imread(str(Path(__file__).with_name("astronaut.jpg")))
    assert image is not None
    cv2.imwrite(str(folder / "1-portrait.jpg"), image[:, 64:448])
    cv2.imwrite(str(folder / "2-large.jpg"), cv2.resize(image, (768, 768)))
    cv2.imwrite(str(folder / "3-wide.jpg"), image[40:340])
    (folder / "4-broken.jpg").write_bytes(b"not a photo")
    return folder


out = Path("out/02_batch")
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else sample_folder(out / "photos")
items = list(expand(folder))  # names only: nothing is read yet

out.mkdir(parents=True, exist_ok=True)
with Parser.load("cihp") as parser, (out / "parts.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["photo", "part", "area_px"])
    # Decodes, infers and labels at the same time, in bounded memory; the order stays.
    answers = parser.stream(items, on_error="return")
    for item, answer in zip(items, answers, strict=True):
        if isinstance(answer, InputError):
            print("left out:", answer)
            continue
        answer.save(out / f"{item.stem}.labels.png")
        overlay = cv2.cvtColor(answer.overlay(), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(out / f"{item.stem}.overlay.jpg"), overlay)
        table.writerows((item.name, *part) for part in answer.areas().items())
        height, width = answer.labels.shape
        print(f"{item.stem}: {width} x {height} px, {', '.join(answer.parts)}")
print("label maps, overlays and parts.csv are in", out)
