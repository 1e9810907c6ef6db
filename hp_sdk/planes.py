"""Class planes at source size, read one at a time from the network's small grid.

A class is computed only in the window where it could win at all.

Source: half-pixel ("align_corners=False") bilinear interpolation.  Source column x of W lies at
(x + 0.5) * c / W - 0.5 on the grid, where c = content width / stride, clamped to the cells that
hold some of the photo.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, gcd
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.preprocess import Geometry

Plane: TypeAlias = NDArray[np.float32]
Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """What the network said about one view of a photo.

    `scores` (K, h, w): logits, or probabilities, on the network's grid; `mirrored`: the photo was
    flipped left-right before it was fitted (left/right classes must be swapped back already).
    """

    scores: NDArray[np.floating[Any]]
    geometry: Geometry
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of grid cells and of the source pixels they decide; spans are half open."""

    cells: tuple[Span, Span]
    pixels: tuple[Span, Span]


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a bilinear resize from a grid of fractional length to whole pixels."""

    pixels: int
    content: int
    """Network pixels that hold the photo."""
    stride: int

    @property
    def cells(self) -> int:
        """Cells that hold some of the photo."""
        return ceil(self.content / self.stride)

    @property
    def zoom(self) -> float:
        """Source pixels per cell."""
        return self.pixels * self.stride / self.content

    @property
    def step(self) -> int:
        """Every `step`-th cell border is also a border between pixels."""
        return self.content // gcd(self.pixels * self.stride, self.content)

    def everything(self) -> tuple[Span, Span]:
        """All cells and all pixels."""
        return (0, self.cells), (0, self.pixels)

    def around(self, gaps: NDArray[np.intp]) -> tuple[Span, Span]:
        """Cells to read and pixels to write for these gaps; gap i lies between cells i and i+1."""
        if self.zoom < 1:
            return self.everything()
        low, high = int(gaps[0]), int(gaps[-1])
        first = low - low % self.step
        start = max(0, ceil((low + 0.5) * self.zoom - 0.5)) if low else 0
        stop = floor((high + 1.5) * self.zoom - 0.5) + 1 if high + 2 < self.cells else self.pixels
        return (first, min(high + 3, self.cells)), (start, min(stop, self.pixels))


class Planes:
    """Reads one class of some views of one photo at source size, into memory it reuses."""

    def __init__(self, views: Sequence[View]) -> None:
        self.size_hw = views[0].geometry.source_hw
        self.num_classes = len(views[0].scores)
        self._views = [_Resizer(view) for view in views]
        self._memory = [np.empty(0, np.float32), np.empty(0, np.float32)]

    def contenders(self, margin: float = 0.0) -> Iterator[tuple[int, Window]]:
        """Each class that could win somewhere, and the window that holds all such places.

        With a `margin`, also where it could come as near to the winner.
        """
        if len(self._views) == 1:
            yield from self._views[0].contenders(margin)
            return
        yield from ((k, self._views[0].everywhere) for k in range(self.num_classes))

    def read(self, k: int, window: Window | None = None) -> Plane:
        """Mean score of class `k` in the window's pixels; valid until the next call.

        `window` is one that `contenders` gave, or None for the whole photo.
        """
        if len(self._views) == 1:
            return self._read(self._views[0], k, window, memory=0)
        total = self._read(self._views[0], k, None, memory=0)
        for view in self._views[1:]:
            total += self._read(view, k, None, memory=1)
        total *= np.float32(1 / len(self._views))
        return total

    def _read(self, view: _Resizer, k: int, window: Window | None, *, memory: int) -> Plane:
        window = window or view.everywhere
        height, width = view.size_of(window)
        if self._memory[memory].size < height * width:
            self._memory[memory] = np.empty(height * width, np.float32)
        scratch = self._memory[memory][: height * width].reshape(height, width)
        return view.resize(k, window, scratch)


class _Resizer:
    """Enlarges one class of one view from the grid to source pixels."""

    def __init__(self, view: View) -> None:
        self.axes = _axes(view)
        rows, columns = (slice(axis.cells) for axis in self.axes)
        self.grid = np.ascontiguousarray(view.scores[:, rows, columns], np.float32)
        self.mirrored = view.mirrored
        self.everywhere = _window(*(axis.everything() for axis in self.axes))

    def contenders(self, margin: float) -> Iterator[tuple[int, Window]]:
        """Each class that could win, or come that near, and the window of all such places."""
        y_axis, x_axis = self.axes
        for k, gaps in enumerate(_could_win(self.grid, margin)):
            rows, columns = np.flatnonzero(gaps.any(axis=1)), np.flatnonzero(gaps.any(axis=0))
            if rows.size and self.mirrored:
                yield k, self.everywhere
            elif rows.size:
                yield k, _window(y_axis.around(rows), x_axis.around(columns))

    def size_of(self, window: Window) -> tuple[int, int]:
        """Size of the plane that `resize` computes for a window, which it may exceed a little."""
        (top, bottom), (left, right) = window.cells
        y_axis, x_axis = self.axes
        return round((bottom - top) * y_axis.zoom), round((right - left) * x_axis.zoom)

    def resize(self, k: int, window: Window, scratch: Plane) -> Plane:
        """Scores of class `k` in the window's pixels, a part of `scratch`."""
        (top, bottom), (left, right) = window.cells
        y_axis, x_axis = self.axes
        # Given dsize, OpenCV would stretch the last cell, which the photo may fill only in part,
        # to the border; without it, it takes the exact zoom.
        plane = cv2.resize(
            self.grid[k, top:bottom, left:right],
            None,
            dst=scratch,
            fx=x_axis.zoom,
            fy=y_axis.zoom,
            interpolation=cv2.INTER_LINEAR,
        )
        rows = _shifted(window.pixels[0], -round(top * y_axis.zoom))
        columns = _shifted(window.pixels[1], -round(left * x_axis.zoom))
        plane = np.asarray(plane, np.float32)[rows, columns]
        return plane[:, ::-1] if self.mirrored else plane


def _window(y: tuple[Span, Span], x: tuple[Span, Span]) -> Window:
    return Window((y[0], x[0]), (y[1], x[1]))


def _shifted(span: Span, by: int) -> slice:
    return slice(span[0] + by, span[1] + by)


def _axes(view: View) -> tuple[_Axis, _Axis]:
    geometry, cells_hw = view.geometry, view.scores.shape[1:]
    y, x = (
        _Axis(geometry.source_hw[i], geometry.content_hw[i], geometry.network_hw[i] // cells_hw[i])
        for i in (0, 1)
    )
    return y, x


def _could_win(grid: NDArray[np.float32], margin: float) -> NDArray[np.bool_]:
    """Which class could be largest, or nearly, in which gap between four cells, (K, h - 1, w - 1).

    An interpolated value lies between the smallest and the largest of its four corners, so a
    class whose largest corner is below another's smallest cannot win there.
    """
    winner_at_least = _of_corners(np.minimum, grid).max(axis=0)
    return _of_corners(np.maximum, grid) >= winner_at_least - np.float32(margin)


def _of_corners(extreme: np.ufunc, grid: NDArray[np.float32]) -> NDArray[np.float32]:
    # A grid of one row or column has no gaps; its only line then stands for one.
    if grid.shape[1] > 1:
        grid = extreme(grid[:, 1:], grid[:, :-1])
    return extreme(grid[:, :, 1:], grid[:, :, :-1]) if grid.shape[2] > 1 else grid
