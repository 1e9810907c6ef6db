"""Masks for virtual try-on of an upper garment: `python examples/04_tryon_masks.py [PHOTO]`.

agnostic: where a new garment may be painted, wider than the old one, so that nothing of it shows;
keep: what must not change (head, hands, legs, shoes); garment: the old one, cut out.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from hp_sdk import Parser, Result
from hp_sdk.result import Mask


def hands(result: Result) -> Mask:
    """The outermost face height of each bare arm: a hand is about as long as a face.

    CIHP has no hands of its own.  Distance is from the clothes, so under a sleeve that ends at the
    wrist the whole arm is a hand.  Without a face to measure with, whole arms count.
    """
    found = np.zeros(result.labels.shape, bool)
    clothed = result.mask("upper", "full-body").astype(np.uint8)
    away_px = cv2.distanceTransform(1 - clothed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    top, bottom = result.boxes().get("face", (0, 0, 0, result.labels.shape[0]))[1::2]
    for arm in ("left-arm", "right-arm"):
        where = result.mask(arm)
        if where.any():
            found |= where & (away_px > away_px[where].max() - (bottom - top))
    return found | result.mask("glove")


def wider(mask: Mask, by_px: int) -> Mask:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by_px + 1, 2 * by_px + 1))
    return cv2.dilate(mask.astype(np.uint8), disc) > 0


photo = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("astronaut.jpg")
out = Path("out/04_tryon_masks")
out.mkdir(parents=True, exist_ok=True)
with Parser.load("cihp", tta="flip") as parser:
    result = parser.predict(photo)
assert result.image is not None  # results keep their photo
keep = result.mask("head", "lower", "legs", "feet") | hands(result)
garment = result.mask("upper", "full-body")
around = garment | result.mask("arms", "torso-skin")
agnostic = wider(around, by_px=max(around.shape) // 64) & ~keep
greyed = np.where(agnostic[..., None], np.uint8(128), result.image)
cut = result.cutout("upper", "full-body", background=(255, 255, 255), feather_px=2)[..., :3]
kept = np.where(keep[..., None], result.image, np.uint8(255))

rgba = result.cutout("upper", "full-body", feather_px=2)
cv2.imwrite(str(out / "garment.png"), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
cv2.imwrite(str(out / "agnostic_mask.png"), agnostic * np.uint8(255))
cv2.imwrite(str(out / "keep_mask.png"), keep * np.uint8(255))
sheet = cv2.cvtColor(np.hstack([result.image, greyed, cut, kept]), cv2.COLOR_RGB2BGR)
cv2.imwrite(str(out / "sheet.jpg"), sheet)
print(f"garment {garment.mean():.1%}, agnostic {agnostic.mean():.1%}, kept {keep.mean():.1%}")
print("garment.png, agnostic_mask.png, keep_mask.png and sheet.jpg are in", out)
