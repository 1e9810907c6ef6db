"""A picture larger than the network's input is read through windows that overlap.

    ┌──────────┬ ─ ─ ┐     windows of the input's size, a stride apart; the last one ends where the
    │ window   │     │     picture does.  Where they overlap, the mean of their logits is taken.
    └──────────┴ ─ ─ ┘

Windows start at multiples of `InputSpec.step_hw`, so that the cells of their grids lie on each
other.  A picture that fits one window is answered exactly as without windows.

Source: mmsegmentation's slide inference (window, stride, mean of logits).
"""

from __future__ import annotations

from itertools import product
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.bundle import InputSpec

Corner: TypeAlias = tuple[int, int]
"""First row and column of a window, in pixels of its canvas."""


def canvas_hw(content_hw: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """The smallest picture that holds the content and that windows cover exactly."""
    height, width = map(_canvas_side, content_hw, spec.size_hw, spec.step_hw)
    return height, width


def corners(canvas: tuple[int, int], spec: InputSpec) -> list[Corner]:
    """Where the windows of a canvas start, row by row; the one window of a small canvas at 0, 0."""
    rows, columns = map(_starts, canvas, spec.size_hw, spec.window_stride_hw)
    return list(product(rows, columns))


def window_of(canvas: NDArray[np.uint8], corner: Corner, spec: InputSpec) -> NDArray[np.uint8]:
    """The part (1, h, w, 3) of a canvas (1, H, W, 3) that the network is asked about."""
    (top, left), (height, width) = corner, spec.size_hw
    return canvas[:, top : top + height, left : left + width]


class Mosaic:
    """Mean logits (K, H/stride, W/stride) of a canvas, out of those of its windows.

    It holds one grid whatever the number of windows.  The answer to an only window is passed on as
    it is.
    """

    def __init__(self, canvas: tuple[int, int], spec: InputSpec) -> None:
        self._canvas = canvas
        self._size_hw = spec.size_hw
        self._total: NDArray[Any] | None = None  # (K, H/stride, W/stride)
        self._count = np.zeros((0, 0), np.float32)

    def add(self, corner: Corner, logits: NDArray[np.floating[Any]]) -> None:
        """The answer (K, h/stride, w/stride) to one window."""
        if self._canvas == self._size_hw:
            self._total = logits
            return
        rows, columns = logits.shape[1:]
        y_stride, x_stride = self._size_hw[0] // rows, self._size_hw[1] // columns
        if self._total is None:
            grid_hw = self._canvas[0] // y_stride, self._canvas[1] // x_stride
            self._total = np.zeros((len(logits), *grid_hw), np.float32)
            self._count = np.zeros(grid_hw, np.float32)
        top, left = corner[0] // y_stride, corner[1] // x_stride
        self._total[:, top : top + rows, left : left + columns] += logits
        self._count[top : top + rows, left : left + columns] += 1

    def mean(self) -> NDArray[np.floating[Any]]:
        """The mean over the windows; call it once, after all were added."""
        assert self._total is not None, "a canvas has a window"
        if self._count.size:
            self._total /= self._count
        return self._total


def _canvas_side(content: int, side: int, step: int) -> int:
    return side + max(0, -(-(content - side) // step) * step)


def _starts(canvas: int, side: int, stride: int) -> list[int]:
    last = canvas - side
    return [*range(0, last, stride), last]
