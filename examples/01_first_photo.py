"""Parse one photo: `python examples/01_first_photo.py [PHOTO]`."""

import sys
from pathlib import Path

import cv2

from hp_sdk import Parser

photo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg")
out = Path("out/01_first_photo")
out.mkdir(parents=True, exist_ok=True)

with Parser.load("cihp") as parser:
    result = parser.predict(photo)

for part, area_px in result.areas().items():
    print(f"{part:14} {area_px:7} px  box {result.boxes()[part]}")
print("hair covers", f"{result.mask('hair').mean():.1%}", "of the photo")

result.save(out / "labels.png")  # indexed: viewers show colours, the ids can be read back
overlay = result.overlay(legend=True)  # (H, W, 3) uint8 RGB; OpenCV writes BGR
cv2.imwrite(str(out / "overlay.png"), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
print("labels.png and overlay.png are in", out)
