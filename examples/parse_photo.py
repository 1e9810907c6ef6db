"""Parse one photo: `python examples/parse_photo.py [PHOTO]`."""

import sys
from pathlib import Path

from hp_sdk import Parser

photo = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg")

with Parser.load("cihp") as parser:
    result = parser.predict(photo)

print("parts:", ", ".join(result.parts))
print("hair covers", int(result.mask("hair").sum()), "pixels")
result.save("photo.labels.png")
