"""Left and right of people seen from the front.

    truth ─► persons (connected parts) ─► are all left parts, on average, right of all right ones?
                                            ├─ yes: their pixels are counted
                                            └─ no: ignored

Left and right in ATR, CIHP and LIP are the person's own, so from the front the left arm is on the
picture's right. Who shows one side only, or whose sides cancel out, may face anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from hp_trainer.metrics import IGNORED, Confusion, LeftRight


class FrontalTally:
    """Confusion of left and right, of people who face the camera; a `Tally`.

    Args:
        names: classes of the domain.
        flip_pairs: ids of (left, right) parts.
    """

    def __init__(self, names: Sequence[str], flip_pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = tuple(flip_pairs)
        self._confusion = Confusion(names)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image; both (H, W) uint8, truth 255 is ignored.

        Raises:
            DataError: sizes differ or an id has no class.
        """
        seen = np.where(frontal(truth, self._pairs), truth, np.uint8(IGNORED))
        self._confusion.add(seen, prediction)

    def left_right(self) -> LeftRight:
        """Shares of the pixels counted so far."""
        return self._confusion.left_right(self._pairs)


def frontal(truth: np.ndarray, flip_pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Where (H, W) bool the people of a label map (H, W) uint8 are seen from the front.

    `flip_pairs`: ids of (left, right) parts; without any nobody is. People who touch are judged as
    one.
    """
    if not flip_pairs:
        return np.zeros(truth.shape, bool)
    parts = ((truth > 0) & (truth != IGNORED)).astype(np.uint8)
    count, person = cv2.connectedComponents(parts, connectivity=8)
    left, right = (
        _middles(person, np.isin(truth, side), count) for side in zip(*flip_pairs, strict=True)
    )
    with np.errstate(invalid="ignore"):
        faces = left > right
    faces[0] = False
    return faces[person]


def _middles(person: np.ndarray, where: np.ndarray, count: int) -> np.ndarray:
    """Mean column of the pixels `where` of each person, nan where one has none: (count,)."""
    columns = np.broadcast_to(np.arange(person.shape[1]), person.shape)[where]
    total = np.bincount(person[where], weights=columns, minlength=count)
    pixels = np.bincount(person[where], minlength=count)
    with np.errstate(invalid="ignore"):
        return total / pixels
