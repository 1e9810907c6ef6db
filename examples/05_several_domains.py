"""Several label sets from one pass: `python examples/05_several_domains.py [PHOTO]`."""

import sys
from pathlib import Path

import cv2
import numpy as np

from hp_sdk import Parser

WANTED = ["cihp", "lip", "pascal"]

photo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg")
out = Path("out/05_several_domains")
out.mkdir(parents=True, exist_ok=True)

with Parser.load("universal", tta="flip") as parser:
    print("the model answers", ", ".join(parser.heads))
    results = parser.predict(photo, domains=WANTED)  # {domain: Result}

for domain, result in results.items():
    print(f"{domain}, {result.domain.num_classes} classes: {', '.join(result.parts)}")
    result.save(out / f"{domain}.labels.png")

# The domains differ: garments in one are limbs in the other.
clothed, limbs = results["cihp"].mask("clothes"), results["pascal"].mask("arms")
print(f"{(clothed & limbs).mean():.1%} of the photo are clothed arms")

overlays = [result.overlay(legend=True) for result in results.values()]
sheet = cv2.cvtColor(np.hstack(overlays), cv2.COLOR_RGB2BGR)
cv2.imwrite(str(out / "sheet.jpg"), sheet)
print("a label map per domain, and sheet.jpg, are in", out)
