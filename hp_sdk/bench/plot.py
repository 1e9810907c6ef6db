"""Latencies as a picture: for each configuration how often which time was seen, and its tail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.bench.report import Report, Row
from hp_sdk.bench.table import number
from hp_sdk.overlay import encode_png

Canvas: TypeAlias = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB, at `_SCALE` times the final size."""
Colour: TypeAlias = tuple[int, int, int]

WIDTH_PX, ROW_PX, HEAD_PX, FOOT_PX, MARGIN_PX = 1200, 118, 62, 58, 34
_SCALE = 2
"""Everything is drawn larger and shrunk, which smooths text and lines."""
_LOG_FROM = 5.0
"""Largest time / smallest time from which the axis is logarithmic."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _FAINT, _GRID, _WRONG = (30, 30, 30), (110, 110, 110), (226, 226, 226), (190, 0, 0)
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233))
"""Distinct for colour-blind eyes (Okabe and Ito); one for each backend."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Milliseconds → columns of the drawing."""

    low_ms: float
    high_ms: float
    left_px: int
    right_px: int
    logarithmic: bool

    def column(self, ms: float) -> int:
        """Where a time lies."""
        low, high, at = (self._warp(value) for value in (self.low_ms, self.high_ms, ms))
        return round(self.left_px + (self.right_px - self.left_px) * (at - low) / (high - low))

    def ticks(self) -> Iterator[float]:
        """Round times inside the axis: 1, 2, 5, 10 ... or equal steps."""
        if self.logarithmic:
            exponents = (math.floor(math.log10(end)) for end in (self.low_ms, self.high_ms))
            first, last = exponents
            powers = (10.0**power for power in range(first, last + 1))
            times = (digit * power for power in powers for digit in (1, 2, 3, 5, 7))
        else:
            step = _round_step((self.high_ms - self.low_ms) / 8)
            first = math.ceil(self.low_ms / step)
            times = (step * i for i in range(first, math.floor(self.high_ms / step) + 1))
        yield from (time for time in times if self.low_ms <= time <= self.high_ms)

    def _warp(self, ms: float) -> float:
        return math.log(ms) if self.logarithmic else ms


def latency_png(report: Report) -> bytes:
    """The picture as the content of a PNG file."""
    return encode_png(draw_latencies(report))


def draw_latencies(report: Report) -> Canvas:
    """One band per configuration on a common axis, (H, W, 3) uint8 RGB."""
    rows = report.configurations
    height_px = HEAD_PX + ROW_PX * len(rows) + FOOT_PX
    canvas = np.full((_SCALE * height_px, _SCALE * WIDTH_PX, 3), 255, np.uint8)
    axis = _axis([sample for row in rows for sample in row.samples_ms])
    colours = {name: i for i, name in enumerate(dict.fromkeys(row.backend for row in rows))}
    _draw_head(canvas, report)
    _draw_axis(canvas, axis, height_px)
    for place, row in enumerate(rows):
        top = _SCALE * (HEAD_PX + ROW_PX * place)
        band = canvas[top : top + _SCALE * ROW_PX]
        _draw_row(band, row, axis, _COLOURS[colours[row.backend] % len(_COLOURS)])
    small = cv2.resize(canvas, (WIDTH_PX, height_px), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _axis(samples: Sequence[float]) -> Axis:
    low, high = max(min(samples), 1e-6), max(max(samples), 1e-6)
    logarithmic = high / low > _LOG_FROM
    room = (high / low) ** 0.03 if logarithmic else max(0.04 * (high - low), 0.005 * high)
    ends = (low / room, high * room) if logarithmic else (max(0.0, low - room), high + room)
    return Axis(*ends, _SCALE * MARGIN_PX, _SCALE * (WIDTH_PX - MARGIN_PX), logarithmic)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return power * next(digit for digit in (1, 2, 5, 10) if digit * power >= step)


def _draw_head(canvas: Canvas, report: Report) -> None:
    model, machine = report.setting.model, report.setting.machine
    photos = ", ".join(each.title for each in report.setting.photos[:1])
    title = f"{model.name} {model.version}, head {model.head}: milliseconds per call"
    _write(canvas, title, (MARGIN_PX, 26), 0.62, _INK)
    where = f"{machine.processor}, {machine.cores} cores"
    gpus = f", {'; '.join(machine.gpus)}" if machine.gpus else ""
    _write(canvas, f"{where}{gpus}; {photos}", (MARGIN_PX, 48), 0.45, _FAINT)


def _draw_axis(canvas: Canvas, axis: Axis, height_px: int) -> None:
    top, bottom = _SCALE * HEAD_PX, _SCALE * (height_px - FOOT_PX)
    free_from = 0
    for time in axis.ticks():
        column = axis.column(time)
        cv2.line(canvas, (column, top), (column, bottom), _GRID, _SCALE)
        text = f"{time:.6g}"
        width = _width(text, 0.45)
        left = column // _SCALE - width // 2
        if left >= free_from:
            _write(canvas, text, (left, height_px - FOOT_PX + 20), 0.45, _INK)
            free_from = left + width + 8
    kind = "ms, logarithmic" if axis.logarithmic else "ms"
    legend = (
        f"{kind}; tall line p50 with its 95 % interval, short lines p90 and p99, a tick per run"
    )
    _write(canvas, legend, (MARGIN_PX, height_px - 12), 0.45, _FAINT)


def _draw_row(band: Canvas, row: Row, axis: Axis, colour: Colour) -> None:
    """Words above, the density below them, every run as a tick under the ground."""
    ground, peak = _SCALE * (ROW_PX - 18), _SCALE * 34
    words = _words(row)
    band[: _SCALE * 28, : _SCALE * (MARGIN_PX + _width(words, 0.5) + 8)] = 255  # no grid behind
    _write(band, words, (MARGIN_PX, 22), 0.5, colour if row.outputs.right else _WRONG)
    columns = np.array([axis.column(sample) for sample in row.samples_ms])
    _fill_density(band[peak:ground], columns, axis, colour)
    latency = row.latency_ms
    if latency.p50.low is not None and latency.p50.high is not None:
        ends = (axis.column(latency.p50.low), axis.column(latency.p50.high))
        _tint(band[peak:ground, ends[0] : ends[1] + 1], colour, 0.35)
    for estimate, share in ((latency.p50, 1.0), (latency.p90, 0.6), (latency.p99, 0.35)):
        column, above = axis.column(estimate.value), round(ground - share * (ground - peak))
        cv2.line(band, (column, ground), (column, above), colour, 2 * _SCALE)
    cv2.line(band, (axis.left_px, ground), (axis.right_px, ground), _FAINT, 1)
    for column in columns:
        tick = band[ground + 4 * _SCALE : ground + 10 * _SCALE, column - 1 : column + 1]
        _tint(tick, colour, 0.3)


def _words(row: Row) -> str:
    latency, wrong = row.latency_ms, "" if row.outputs.right else "   WRONG LABELS"
    percentiles = {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99}
    times = "   ".join(f"{name} {number(each.value)}" for name, each in percentiles.items())
    speed = f"{number(row.throughput.value)} images/s"
    return f"{row.name}:   {times}   {speed}   {row.runs} runs{wrong}"


def _fill_density(area: Canvas, columns: NDArray[np.int_], axis: Axis, colour: Colour) -> None:
    """Gaussian kernel density of the runs, as high as there is room, on the axis only."""
    height, width = area.shape[:2]
    counts = np.bincount(columns, minlength=width).astype(np.float32)
    blurred = cv2.GaussianBlur(counts[None], (0, 0), _bandwidth_px(columns))  # (1, W)
    density = np.asarray(blurred, np.float32)[0]
    density[: axis.left_px] = density[axis.right_px :] = 0
    below = np.arange(height, 0, -1)[:, None] <= height * density / density.max()  # (rows, W)
    area[below] = _mixed(area[below], colour, 0.28)


def _bandwidth_px(columns: NDArray[np.int_]) -> float:
    """Silverman's rule, by the quartiles, which a long tail leaves alone."""
    low, high = np.quantile(columns, [0.25, 0.75])
    spread = min(float(columns.std()), float(high - low) / 1.34)
    return max(2.0 * _SCALE, 0.9 * spread * len(columns) ** -0.2)


def _tint(area: Canvas, colour: Colour, strength: float) -> None:
    area[:] = _mixed(area, colour, strength)


def _mixed(under: NDArray[np.uint8], colour: Colour, strength: float) -> NDArray[np.uint8]:
    mixed = (1 - strength) * under + strength * np.array(colour)
    return (mixed + 0.5).astype(np.uint8)


def _write(area: Canvas, text: str, at: tuple[int, int], size: float, colour: Colour) -> None:
    """Text whose base line begins at (x, y) of the final picture."""
    place = (_SCALE * at[0], _SCALE * at[1])
    cv2.putText(area, text, place, _FONT, _SCALE * size, colour, _SCALE, cv2.LINE_AA)


def _width(text: str, size: float) -> int:
    return cv2.getTextSize(text, _FONT, _SCALE * size, _SCALE)[0][0] // _SCALE
