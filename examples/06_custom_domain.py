"""Answer in labels of your own: `python examples/06_custom_domain.py [PHOTO]`.

Labels the network tells apart can be renamed and joined without training.  For parts it does not
know, train a head on the same domain file: `domains = ["mine.toml"]` in hp-train's configuration.
"""

import sys
from pathlib import Path

import cv2

from hp_sdk import Parser, load_domain

MINE = """
names   = ["background", "hair", "face", "outfit", "skin", "shoes"]
palette = [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 114, 178], [204, 121, 167], [0, 158, 115]]
groups  = {head = ["hair", "face"], body = ["outfit", "skin", "shoes"]}
"""
# Part or group of CIHP -> part of mine; a later line wins.  Equal names need no line.
DECISIONS = {
    "clothes": "outfit",
    "shoes": "shoes",
    "arms": "skin",
    "legs": "skin",
    "torso-skin": "skin",
}

photo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg")
out = Path("out/06_custom_domain")
out.mkdir(parents=True, exist_ok=True)
(out / "mine.toml").write_text(MINE, encoding="utf-8")
mine = load_domain(out / "mine.toml")

with Parser.load("cihp") as parser:
    result = parser.predict(photo)

undecided = result.remap(mine)
print("without decisions:", "; ".join(str(loss) for loss in undecided.losses) or "nothing lost")
answer = result.remap(mine, choose=DECISIONS)
print("with decisions:   ", "; ".join(str(loss) for loss in answer.losses) or "nothing lost")

print("parts:", ", ".join(f"{name} {px} px" for name, px in answer.areas().items()))
print("body covers", f"{answer.mask('body').mean():.1%}", "of the photo")
answer.save(out / "labels.png")
overlay = cv2.cvtColor(answer.overlay(legend=True), cv2.COLOR_RGB2BGR)
cv2.imwrite(str(out / "overlay.png"), overlay)
print("mine.toml, labels.png and overlay.png are in", out)
