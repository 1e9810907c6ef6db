"""Left and right told by eye: strokes through limbs and shoes whose side the labels leave open.

A part, that is connected pixels whose side is unknown, takes the class of the strokes on it (lines
`0552 right-leg 146,326 150,370 …`). Where strokes of several classes lie on it, as on crossed legs,
every pixel takes that of the nearest, and stays undecided (255) where two are about as near. Parts
without strokes stay undecided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hp_sdk.errors import DataError
from hp_trainer.augment import IGNORED

BETWEEN = 3
"""Pixels nearer than this to being nearest to another class's stroke stay undecided."""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line, or a single point, inside a part."""

    name: str
    """Class of the part, as `left-leg`."""
    points: np.ndarray
    """(n, 2) x, y in pixels of the photograph."""


def read_strokes(path: Path) -> dict[str, list[Stroke]]:
    """Strokes by photograph: lines `id class x,y [x,y …]`; `#` starts a comment.

    Raises:
        DataError: the file cannot be read, or a line is no stroke.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as exc:
        raise DataError(f"{path} cannot be read: {exc}; name a file of strokes") from exc
    strokes: dict[str, list[Stroke]] = {}
    for number, line in enumerate(lines, 1):
        if not (words := line.partition("#")[0].split()):
            continue
        try:
            photo, name, *rest = words
            points = np.array([[float(v) for v in point.split(",")] for point in rest])
            if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
                raise ValueError
        except ValueError:
            raise DataError(
                f"{path}:{number}: {line!r} is no stroke; write `id class x,y [x,y …]`"
            ) from None
        strokes.setdefault(photo, []).append(Stroke(name, points))
    return strokes


@contextmanager
def naming(photo: str) -> Iterator[None]:
    """Let errors of strokes, which do not know their photograph, begin with its name."""
    try:
        yield
    except DataError as exc:
        raise DataError(f"{photo}: {exc}") from exc


def connected(kinds: Sequence[np.ndarray], gap: int) -> np.ndarray:
    """Number the connected parts of several kinds (H, W) bool: (H, W) int32, 0 where there is none.

    Pixels of one kind belong together across up to `gap` - 1 others, `gap` being odd; later kinds
    lie on top.
    """
    parts = np.zeros(kinds[0].shape, np.int32)
    for kind in kinds:
        closed = cv2.morphologyEx(kind.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((gap, gap)))
        pieces = cv2.connectedComponents(closed, connectivity=8)[1]
        parts[kind] = pieces[kind] + parts.max()
    return parts


def side_map(parts: np.ndarray, strokes: Iterable[Stroke], ids: Mapping[str, int]) -> np.ndarray:
    """Label map (H, W) uint8 of parts (H, W) int32 told by strokes; 255 elsewhere.

    A stroke speaks of the part that holds most of its points. `ids`: class → label.

    Raises:
        DataError: a stroke names no class of `ids`, or no point of it lies in a part.
    """
    told: dict[int, dict[int, list[np.ndarray]]] = {}
    for stroke in strokes:
        if stroke.name not in ids:
            raise DataError(f"{stroke.name!r} is none of {', '.join(ids)}; correct the stroke")
        part = _part_under(parts, stroke)
        told.setdefault(part, {}).setdefault(ids[stroke.name], []).append(stroke.points)
    labels = np.full(parts.shape, IGNORED, np.uint8)
    for part, classes in told.items():
        rows, columns = np.nonzero(parts == part)
        pixels = np.stack([columns, rows], 1).astype(float)
        away = np.stack(
            [np.min([_distance(pixels, line) for line in lines], 0) for lines in classes.values()]
        )  # (classes, pixels)
        chosen = np.array(list(classes), np.uint8)[away.argmin(0)]
        if len(classes) > 1:
            first, second = np.partition(away, 1, axis=0)[:2]
            chosen[second - first < BETWEEN] = IGNORED
        labels[rows, columns] = chosen
    return labels


def _part_under(parts: np.ndarray, stroke: Stroke) -> int:
    x, y = stroke.points.round().astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < parts.shape[1]) & (y < parts.shape[0])
    under = parts[y[inside], x[inside]]
    if not under.any():
        where = " ".join(f"{a},{b}" for a, b in zip(x, y, strict=True))
        raise DataError(f"the stroke {stroke.name} {where} lies in no part; correct the stroke")
    return int(np.bincount(under[under > 0]).argmax())


def _distance(pixels: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Distance of pixels (p, 2) from a line through points (n, 2): (p,)."""
    starts, ends = (line[:-1], line[1:]) if len(line) > 1 else (line, line)
    nearest = np.full(len(pixels), np.inf)
    for start, end in zip(starts, ends, strict=True):
        along = end - start
        share = (pixels - start) @ along / max(float(along @ along), 1e-6)
        foot = start + np.clip(share, 0, 1)[:, None] * along
        nearest = np.minimum(nearest, np.hypot(*(pixels - foot).T))
    return nearest
