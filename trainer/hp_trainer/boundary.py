"""Boundary F-score: do the outlines lie where the outlines of the truth lie?

For one class in one image, with outlines B_g of the truth and B_p of the prediction,

    P = share of B_p within r pixels of B_g        R = share of B_g within r pixels of B_p
    F = 2 P R / (P + R)                            r = ceil(tolerance · image diagonal)

An outline is the pixels of a mask that have a 4-neighbour outside it.  The picture's border is
no outline, and ignored pixels are treated like what lies beyond the border: unknown.  If both
outlines are empty, F = 1; if one is, F = 0.

A class scores the mean F of the images whose truth holds it; `boundary_f` is the mean of those
classes, background included.

Source: Martin et al., PAMI 2004 (BSDS) and Perazzi et al., CVPR 2016 (DAVIS), which set the
tolerance to 0.0075 of the diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from hp_sdk.errors import ConfigError
from hp_trainer.metrics import valid_pixels

TOLERANCE = 0.0075
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


class BoundaryTally:
    """F-scores per class, collected over images.

    Raises:
        ConfigError: the tolerance is no share of the diagonal.
    """

    def __init__(self, names: Sequence[str], *, tolerance: float = TOLERANCE) -> None:
        if not 0 < tolerance < 1:
            raise ConfigError(
                f"boundary tolerance is {tolerance}; allowed is a share of the image diagonal "
                f"between 0 and 1, such as {TOLERANCE}"
            )
        self.names, self.tolerance = tuple(names), tolerance
        self.total_f = np.zeros(len(names))
        self.images = np.zeros(len(names), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Score one image; both (H, W) uint8, truth 255 is ignored.

        Raises:
            DataError: sizes differ or an id has no class.
        """
        void = ~valid_pixels(truth, prediction, len(self.names))
        within_px = radius_px(truth.shape, self.tolerance)
        for k in np.unique(truth[~void]).tolist():
            outlines = outline(truth == k, void), outline(prediction == k, void)
            self.total_f[k] += f_score(*outlines, within_px=within_px)
            self.images[k] += 1

    def scores(self) -> BoundaryScores:
        """Mean F per class and over classes."""
        seen = self.images > 0
        per_class = self.total_f[seen] / self.images[seen]
        values = iter(per_class.tolist())
        return BoundaryScores(
            boundary_f=float(per_class.mean()) if seen.any() else None,
            per_class_boundary_f={
                name: next(values) if there else None
                for name, there in zip(self.names, seen, strict=True)
            },
            boundary_tolerance=self.tolerance,
        )


@dataclass(frozen=True, slots=True)
class BoundaryScores:
    """F in 0..1; None where no image held the class."""

    boundary_f: float | None
    per_class_boundary_f: dict[str, float | None]
    boundary_tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def radius_px(size_hw: Sequence[int], tolerance: float) -> int:
    """r: how far two outlines may lie apart, in whole pixels."""
    # Rounded first, so that 0.0075 · 400, which is 3.0000000000000004, stays 3.
    return math.ceil(round(tolerance * math.hypot(*size_hw), 9))


def outline(mask: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Outline (H, W) bool of a mask (H, W) bool; `void` (H, W) bool is neither in nor out."""
    # OpenCV erodes as if everything beyond the border belonged to the mask.
    inside = cv2.erode((mask | void).astype(np.uint8), _CROSS)
    return mask & ~void & (inside == 0)


def f_score(truth: np.ndarray, predicted: np.ndarray, *, within_px: float) -> float:
    """F of two outlines (H, W) bool."""
    if not truth.any() or not predicted.any():
        return float(truth.any() == predicted.any())
    top, bottom, left, right = _box(truth | predicted)
    truth, predicted = (each[top:bottom, left:right] for each in (truth, predicted))
    precision = float(_near(truth, within_px)[predicted].mean())
    recall = float(_near(predicted, within_px)[truth].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(outline: np.ndarray, within_px: float) -> np.ndarray:
    """Pixels within a distance of an outline: its dilation by a disk, at a cost free of radius."""
    distance = cv2.distanceTransform(
        (~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return distance <= within_px + 1e-3


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return top, top + height, left, left + width
