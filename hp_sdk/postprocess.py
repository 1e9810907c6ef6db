"""Logits on the network's grid become labels in the photo's own pixels.

Logits are resized, labels never are: every class plane is interpolated straight to the source
size, one class at a time, and the argmax comes last.  Two planes of memory serve any number of
classes.  Where the accelerator (`hp_sdk.native`) is built, it does the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk import native
from hp_sdk.image import Pixels
from hp_sdk.planes import Plane, Planes, View
from hp_sdk.preprocess import Geometry

__all__ = [
    "View",
    "label_map",
    "labels_and_confidence",
    "merged_labels",
    "merged_labels_and_confidence",
]

_BLOCK_PX = 1 << 16
"""Pixels compared at a time; the handful of small arrays then stay in the core's cache."""


_NEGLIGIBLE = 15.0
"""A class so far behind the winner adds 3e-7 to its probability's denominator of at least 1."""


def label_map(logits: NDArray[np.floating[Any]], geometry: Geometry) -> Pixels:
    """Labels (H, W) uint8 in source geometry from logits (K, h, w); ties go to the lower id."""
    return merged_labels([View(logits, geometry)])


def labels_and_confidence(
    logits: NDArray[np.floating[Any]], geometry: Geometry
) -> tuple[Pixels, Pixels]:
    """Labels and the winner's probability times 255, both (H, W) uint8."""
    return merged_labels_and_confidence([View(logits, geometry)], are_logits=True)


def merged_labels(views: Sequence[View]) -> Pixels:
    """Labels (H, W) uint8 where the mean over all views of one photo is largest."""
    answer = native.label(_given(views))
    return _running_maximum(Planes(views))[0] if answer is None else answer


def merged_labels_and_confidence(
    views: Sequence[View], *, are_logits: bool
) -> tuple[Pixels, Pixels]:
    """Labels and the winner's probability times 255, both (H, W) uint8.

    The probability is the softmax of the mean logits, or the mean itself if the scores are
    probabilities already.
    """
    answer = native.label_and_confidence(_given(views), are_logits=are_logits)
    return _labels_and_confidence(Planes(views), are_logits) if answer is None else answer


def _given(views: Sequence[View]) -> list[native.GivenView]:
    return [
        (view.scores, at.source_hw, at.network_hw, at.content_hw, view.mirrored)
        for view in views
        for at in (view.geometry,)
    ]


def _labels_and_confidence(planes: Planes, are_logits: bool) -> tuple[Pixels, Pixels]:  # noqa: FBT001
    labels, best = _running_maximum(planes)
    if are_logits:
        best = _softmax_of_winner(planes, best)
    best *= 255
    return labels, np.rint(best, out=best).astype(np.uint8)


def _running_maximum(planes: Planes) -> tuple[Pixels, Plane]:
    best = np.full(planes.size_hw, -np.inf, np.float32)
    labels = np.zeros(planes.size_hw, np.uint8)
    for k, window in planes.contenders():
        plane = planes.read(k, window)
        rows, columns = (slice(*span) for span in window.pixels)
        _take_over(k, plane, best[rows, columns], labels[rows, columns])
    return labels, best


def _take_over(k: int, plane: Plane, best: Plane, labels: Pixels) -> None:
    """Where `plane` is larger, `best` takes its value and `labels` becomes `k`, in place.

    `k` must grow from call to call: then the label is a maximum too, which is several times
    faster than a masked assignment.
    """
    for rows in _row_blocks(*plane.shape):
        wins = np.greater(plane[rows], best[rows])
        np.maximum(plane[rows], best[rows], out=best[rows])
        np.maximum(labels[rows], wins.view(np.uint8) * np.uint8(k), out=labels[rows])


def _softmax_of_winner(planes: Planes, best: Plane) -> Plane:
    total = np.zeros_like(best)
    for k, window in planes.contenders(_NEGLIGIBLE):
        plane = planes.read(k, window)
        at = tuple(slice(*span) for span in window.pixels)
        for rows in _row_blocks(*plane.shape):
            behind = np.subtract(plane[rows], best[at][rows], out=plane[rows])
            total[at][rows] += np.exp(behind, out=behind)
    return np.reciprocal(total, out=total)


def _row_blocks(height: int, width: int) -> Iterator[slice]:
    rows = max(1, _BLOCK_PX // max(1, width))
    return (slice(first, first + rows) for first in range(0, height, rows))
