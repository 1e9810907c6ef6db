"""Bare skin told from garments by its colour: weak labels for photographs labelled in body parts.

    ccp (skin and garments by hand) ─► histogram log p(colour | skin) / p(colour | garment)
    pascal limb or head ─ colours ─► mean over the neighbourhood ─► skin, or undecided (255)

PASCAL's parts say where an arm is, not whether a sleeve covers it. What these labels add is one
class, and only where the colour is clear; everything else stays undecided.

Source: Statistical Color Models with Application to Skin Detection, IJCV 46(1), 2002, Section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from hp_sdk.domains import load_domain
from hp_trainer.augment import IGNORED
from hp_trainer.layouts import PhotoSet

BINS = 32
"""Steps of each of R, G and B."""
SPREAD = 1.0
"""Standard deviation, in steps, by which the counts are smoothed."""
WINDOW = 9
"""Side of the neighbourhood, in pixels, whose evidence is averaged."""
REPEATED = cv2.BORDER_REPLICATE
CLEAR = 1.5
"""Mean log-ratio above which a pixel is called skin; below minus that it is a garment."""


def colour_evidence(
    samples: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> np.ndarray:
    """How much likelier a colour is on skin than on garments: (BINS, BINS, BINS) float32, R first.

    Values are log p(colour | skin) - log p(colour | garment).

    `samples`: image (H, W, 3) uint8 RGB, where it shows skin and where garments, (H, W) bool.
    A colour that was never seen says nothing: 0.
    """
    counts = np.zeros((2, BINS**3))
    for image, skin, garment in samples:
        cells = _cells(image)
        for row, where in zip(counts, (skin, garment), strict=True):
            row += np.bincount(cells[where], minlength=BINS**3)
    smooth = [_smoothed(row.reshape(BINS, BINS, BINS)) for row in counts]
    skin, garment = (each / max(each.sum(), 1.0) + BINS**-3 * 1e-2 for each in smooth)
    return np.log(skin / garment).astype(np.float32)


def garments(root: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Training photographs of a set labelled in `ccp`, and where they show skin and garments.

    Yields (H, W, 3) uint8 RGB and twice (H, W) bool.

    Raises:
        DataError: the set cannot be read.
    """
    ccp = load_domain("ccp")
    skin = ccp.index("skin")
    neither = (0, IGNORED, skin, *ccp.indices("hair"))
    photos = PhotoSet(root, {"ccp": "labels"}, "train")
    rng = np.random.default_rng(0)
    for index in range(len(photos)):
        image, labels = photos.load(index, rng)
        yield image, labels["ccp"] == skin, ~np.isin(labels["ccp"], neither)


def skin_labels(
    image: np.ndarray, parts: np.ndarray, evidence: np.ndarray, *, skin_id: int
) -> np.ndarray:
    """Label map (H, W) uint8: `skin_id` where a part's colour is clearly that of skin, else 255.

    `image` (H, W, 3) uint8 RGB; `parts` (H, W) uint8, 0 where no part may be bare.
    """
    bare, _ = bare_and_covered(image, parts, evidence)
    return np.where(bare, skin_id, IGNORED).astype(np.uint8)


def bare_and_covered(
    image: np.ndarray, parts: np.ndarray, evidence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where (H, W) bool the colours of parts are clearly those of skin, and where of garments.

    `image` (H, W, 3) uint8 RGB; `parts` (H, W) uint8, 0 where there is none.
    The evidence is averaged over the pixels of the same part nearby.
    """
    ratio = evidence.reshape(-1)[_cells(image)]
    bare, covered = np.zeros((2, *parts.shape), bool)
    for part in np.unique(parts[parts > 0]):
        inside = (parts == part).astype(np.float32)
        total, count = (cv2.blur(plane, (WINDOW, WINDOW)) for plane in (ratio * inside, inside))
        clear = CLEAR * np.maximum(count, WINDOW**-2 / 2)
        bare |= (total > clear) & (inside > 0)
        covered |= (total < -clear) & (inside > 0)
    return bare, covered


def _cells(image: np.ndarray) -> np.ndarray:
    steps = image.astype(np.int64) * BINS // 256
    return (steps[..., 0] * BINS + steps[..., 1]) * BINS + steps[..., 2]


def _smoothed(counts: np.ndarray) -> np.ndarray:
    kernel, alone = cv2.getGaussianKernel(7, SPREAD), np.ones((1, 1))
    for axis in range(3):
        lines = np.moveaxis(counts, axis, 0)
        flat = cv2.sepFilter2D(lines.reshape(BINS, -1), -1, alone, kernel, borderType=REPEATED)
        counts = np.moveaxis(flat.reshape(lines.shape), 0, axis)
    return counts
