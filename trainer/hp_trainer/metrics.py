"""Segmentation scores from one confusion matrix.

Source: spec of both papers' protocol: original resolution, 255 dropped, background included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hp_sdk.errors import DataError

IGNORED = 255


class Confusion:
    """Pixel counts `matrix[truth, prediction]` (Z, Z) int64, added up over images."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.matrix = np.zeros((len(names), len(names)), np.int64)
        self.images = 0

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; both (H, W) uint8, truth 255 is ignored.

        Raises:
            DataError: sizes differ or an id has no class.
        """
        if truth.shape != prediction.shape:
            raise DataError(f"label map {truth.shape} and prediction {prediction.shape} differ")
        valid = truth != IGNORED
        size = len(self.names)
        rows, columns = truth[valid].astype(np.int64), prediction[valid].astype(np.int64)
        if rows.size and max(rows.max(), columns.max()) >= size:
            raise DataError(
                f"label id {max(rows.max(), columns.max())} in a domain of {size} classes; "
                "are these the label maps of another domain?"
            )
        counts = np.bincount(rows * size + columns, minlength=size * size)
        self.matrix += counts.reshape(size, size)
        self.images += 1

    def scores(self, *, absent: str = "nan") -> Scores:
        """Accuracy and IoU. `absent`: classes found in neither are left out (`nan`) or 0."""
        hit = np.diag(self.matrix).astype(float)
        truth, predicted = self.matrix.sum(1), self.matrix.sum(0)
        union = truth + predicted - hit
        with np.errstate(invalid="ignore"):
            iou, accuracy = hit / union, hit / truth
        if absent == "zero":
            iou, accuracy = np.nan_to_num(iou), np.nan_to_num(accuracy)
        return Scores(
            images=self.images,
            pixel_acc=float(hit.sum() / max(1, truth.sum())),
            mean_acc=_mean(accuracy),
            miou=_mean(iou),
            miou_present=_mean(iou[truth > 0]),
            per_class_iou={
                name: None if np.isnan(v) else float(v)
                for name, v in zip(self.names, iou, strict=True)
            },
            person_iou=self._person_iou(),
        )

    def _person_iou(self) -> float:
        """IoU of person (any part) against background (class 0)."""
        hit = self.matrix[1:, 1:].sum()
        union = self.matrix.sum() - self.matrix[0, 0]
        return float(hit / max(1, union))


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in 0..1. `miou_present` averages the classes that occur in the ground truth."""

    images: int
    pixel_acc: float
    mean_acc: float
    miou: float
    miou_present: float
    person_iou: float
    per_class_iou: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
