"""A confusion matrix as a picture: one row per true class, shares of its pixels in per cent.

The diagonal, what was right, is blue; everything off it, what was mistaken, is red.  Shares
below half a per cent get a tint but no number.  A class that the truth never shows has a grey row.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from hp_trainer.metrics import Confusion

Canvas = np.ndarray
"""(H, W, 3) uint8 RGB."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_RIGHT, _WRONG = (8, 81, 156), (165, 15, 21)
_INK, _FAINT, _GRID, _ABSENT = (25, 25, 25), (140, 140, 140), (214, 214, 214), (238, 238, 238)
_GAP_PX = 10
_TITLE_PX = 34
_BLOCK = 5
"""Every fifth line is darker, to follow a row with the eye."""


def confusion_png(confusion: Confusion) -> bytes:
    """The picture of a confusion matrix as the content of a PNG file."""
    picture = draw_confusion(confusion.matrix, confusion.names)
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def draw_confusion(matrix: np.ndarray, names: Sequence[str]) -> Canvas:
    """Picture (H, W, 3) uint8 RGB of pixel counts `matrix[truth, prediction]` (Z, Z)."""
    cell_px, scale = _sizes(len(names))
    label_px = max(_text_hw(name, scale)[1] for name in names) + 2 * _GAP_PX
    side_px = cell_px * len(names)
    origin = label_px + _TITLE_PX
    canvas = np.full((side_px + 2 * origin, side_px + 2 * origin, 3), 255, np.uint8)
    square = canvas[origin : origin + side_px, origin : origin + side_px]
    _draw_cells(square, _shares(matrix), cell_px, scale)
    _draw_grid(square, cell_px)
    _draw_names(canvas, names, matrix.sum(1) > 0, cell_px=cell_px, scale=scale)
    return canvas


def _sizes(count: int) -> tuple[int, float]:
    """Cell in pixels and font scale: three digits must fit into a cell."""
    scale = 0.55 if count <= 24 else 0.42
    return max(_text_hw("100", scale)) + (18 if count <= 24 else 8), scale


def _shares(matrix: np.ndarray) -> np.ndarray:
    """Share of each true class's pixels (Z, Z); NaN where the truth has none."""
    with np.errstate(invalid="ignore"):
        return matrix / matrix.sum(1, keepdims=True)


def _draw_cells(square: Canvas, shares: np.ndarray, cell_px: int, scale: float) -> None:
    for (row, column), share in np.ndenumerate(shares):
        y, x = row * cell_px, column * cell_px
        cell = square[y : y + cell_px, x : x + cell_px]
        if np.isnan(share):
            cell[:] = _ABSENT
        if not share > 0:  # white already, or absent
            continue
        colour = _tint(share, _RIGHT if row == column else _WRONG)
        cell[:] = colour
        if share >= 0.005:
            ink = (255, 255, 255) if sum(colour) < 400 else _INK
            _write_centred(cell, f"{100 * share:.0f}", scale, ink)


def _tint(share: float, full: tuple[int, int, int]) -> tuple[int, int, int]:
    """White at 0, `full` at 1; the root keeps small shares visible."""
    weight = share**0.5
    red, green, blue = (round(255 + (channel - 255) * weight) for channel in full)
    return red, green, blue


def _draw_grid(square: Canvas, cell_px: int) -> None:
    side_px = len(square)
    for i in range(side_px // cell_px + 1):
        at, shade = min(i * cell_px, side_px - 1), _FAINT if i % _BLOCK == 0 else _GRID
        square[at] = square[:, at] = shade


def _draw_names(
    canvas: Canvas, names: Sequence[str], present: np.ndarray, *, cell_px: int, scale: float
) -> None:
    """Names on all four sides: rows are the truth, columns the prediction."""
    side_px = cell_px * len(names)
    origin = (len(canvas) - side_px) // 2
    inks = [_INK if there else _FAINT for there in present]
    left = canvas[origin : origin + side_px, _TITLE_PX:origin]
    right = canvas[origin : origin + side_px, origin + side_px : -_TITLE_PX]
    # Columns are written as rows on the picture turned a quarter, then they stand upright.
    turned = np.rot90(canvas, -1)
    above = turned[origin : origin + side_px, origin + side_px : -_TITLE_PX]
    below = turned[origin : origin + side_px, _TITLE_PX:origin]
    for strip, flush_right in ((left, True), (right, False), (above, False), (below, True)):
        _write_list(strip, names, inks, cell_px=cell_px, scale=scale, flush_right=flush_right)
    _write_centred(canvas[:_TITLE_PX], "prediction, % of truth", 0.6, _INK)
    _write_centred(turned[:_TITLE_PX], "truth", 0.6, _INK)


def _write_list(
    strip: Canvas,
    names: Sequence[str],
    inks: Sequence[tuple[int, int, int]],
    *,
    cell_px: int,
    scale: float,
    flush_right: bool,
) -> None:
    for i, (name, ink) in enumerate(zip(names, inks, strict=True)):
        line = strip[i * cell_px : (i + 1) * cell_px]
        width = _text_hw(name, scale)[1]
        start = line.shape[1] - _GAP_PX - width if flush_right else _GAP_PX
        _write_centred(line[:, start : start + width], name, scale, ink)


def _write_centred(area: Canvas, text: str, scale: float, ink: tuple[int, int, int]) -> None:
    """Text in the middle of a part of the canvas, whatever the part's strides are."""
    height, width = _text_hw(text, scale)
    origin = ((area.shape[1] - width) // 2, (area.shape[0] + height) // 2)
    written = np.ascontiguousarray(area)
    cv2.putText(written, text, origin, _FONT, scale, ink, 1, cv2.LINE_AA)
    area[:] = written


def _text_hw(text: str, scale: float) -> tuple[int, int]:
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    return height, width
