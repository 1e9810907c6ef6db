"""Segmentation scores from one confusion matrix.

Source: spec of both papers' protocol: original resolution, 255 dropped, background included.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hp_sdk.errors import ConfigError, DataError

IGNORED = 255

ABSENT = ("nan", "zero")
"""What a class found neither in truth nor in prediction counts as; see `Confusion.scores`."""


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
        size = len(self.names)
        valid = valid_pixels(truth, prediction, size)
        rows, columns = truth[valid].astype(np.int64), prediction[valid].astype(np.int64)
        counts = np.bincount(rows * size + columns, minlength=size * size)
        self.matrix += counts.reshape(size, size)
        self.images += 1

    def scores(self, *, absent: str = "nan") -> Scores:
        """Accuracy and IoU.

        `absent`: a class without a pixel in truth and prediction is left out of the means (`nan`,
        as Graphonomy does) or counts as 0 (`zero`, as SCHP and CDGNet do).

        Raises:
            ConfigError: `absent` is neither.
        """
        if absent not in ABSENT:
            raise ConfigError(f"absent is {absent!r}; choose {' or '.join(ABSENT)}")
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

    def left_right(self, flip_pairs: Iterable[tuple[int, int]]) -> LeftRight:
        """How often a part is taken for its mirror image."""
        pairs: dict[str, float | None] = {}
        all_mistaken = all_either = 0
        for a, b in flip_pairs:
            mistaken = int(self.matrix[a, b] + self.matrix[b, a])
            either = int(self.matrix[np.ix_((a, b), (a, b))].sum())
            pairs[f"{self.names[a]} / {self.names[b]}"] = mistaken / either if either else None
            all_mistaken, all_either = all_mistaken + mistaken, all_either + either
        return LeftRight(all_mistaken / all_either if all_either else None, pairs)

    def to_csv(self) -> str:
        """Counts with the names in the first row and column; rows are the truth."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["truth \\ prediction", *self.names])
        for name, counts in zip(self.names, self.matrix.tolist(), strict=True):
            writer.writerow([name, *counts])
        return text.getvalue()

    def _person_iou(self) -> float:
        """IoU of person (any part) against background (class 0)."""
        hit = self.matrix[1:, 1:].sum()
        union = self.matrix.sum() - self.matrix[0, 0]
        return float(hit / max(1, union))


def valid_pixels(truth: np.ndarray, prediction: np.ndarray, size: int) -> np.ndarray:
    """Where (H, W) bool two label maps of `size` classes are compared: truth is not 255.

    Raises:
        DataError: their sizes differ or an id has no class.
    """
    if truth.shape != prediction.shape:
        raise DataError(f"label map {truth.shape} and prediction {prediction.shape} differ")
    valid = truth != IGNORED
    largest = max(int(ids.max(where=valid, initial=0)) for ids in (truth, prediction))
    if largest >= size:
        raise DataError(
            f"label id {largest} in a domain of {size} classes; "
            "are these the label maps of another domain?"
        )
    return valid


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
        """Plain values for JSON, which has no NaN: a mean of nothing is None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class LeftRight:
    """Confusion of left and right: 0 is none, 0.5 is guessing; None where nothing was counted.

    Of the pixels whose truth and whose prediction are each one part of a flip pair, the share
    where the two differ:  (m[a, b] + m[b, a]) / (m[a, a] + m[a, b] + m[b, a] + m[b, b]).
    """

    overall: float | None
    """The same over the pixels of all pairs."""
    pairs: dict[str, float | None]
    """By the names of the pair, "left-arm / right-arm"."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
