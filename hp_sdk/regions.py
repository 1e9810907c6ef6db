"""Where a part is: box, centroid, outline, run lengths and soft edge of a mask (H, W) bool.

Coordinates are (x, y) in pixels, x to the right and y down, on pixel edges: the pixel in column x
and row y covers [x, x + 1) x [y, y + 1).  A box that is filled has its centroid in its middle, and
the exact outline of a mask encloses as much as the mask has pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import ConfigError

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1), half open: `image[y0:y1, x0:x1]`."""
Ring = NDArray[np.float32]
"""Closed outline (P, 2) of x, y; the last point is joined to the first."""
Links = list[int]
"""Index of the corner at the other end of an edge, for each corner."""


@dataclass(frozen=True, slots=True)
class Rle:
    """Run lengths of a mask as COCO keeps them: column after column, starting with a run of 0."""

    size_hw: tuple[int, int]
    counts: tuple[int, ...]
    """Pixels in each run; the runs are 0, 1, 0, 1, ... and the first may be empty."""

    @property
    def compressed(self) -> str:
        """The counts as the text that pycocotools writes."""
        steps = [
            count - self.counts[k - 2] if k > 2 else count for k, count in enumerate(self.counts)
        ]
        return "".join(_characters(step) for step in steps)

    def to_coco(self) -> dict[str, Any]:
        """The `segmentation` of a COCO annotation: `{"size": [H, W], "counts": text}`."""
        return {"size": list(self.size_hw), "counts": self.compressed}


def box_of(mask: Mask) -> Box | None:
    """The smallest box around a mask; None if it is empty."""
    x, y, width, height = (int(side) for side in cv2.boundingRect(mask.view(np.uint8)))
    return (x, y, x + width, y + height) if width else None


def grown(box: Box, margin_xy: tuple[float, float], shape_hw: tuple[int, int]) -> Box:
    """The box with `margin_xy` pixels more on each side, cut off at the photo's border."""
    (x0, y0, x1, y1), (dx, dy) = box, (round(margin_xy[0]), round(margin_xy[1]))
    height, width = shape_hw
    return max(0, x0 - dx), max(0, y0 - dy), min(width, x1 + dx), min(height, y1 + dy)


def centroid_of(mask: Mask) -> tuple[float, float] | None:
    """Mean (x, y) of a mask's pixel centres; None if it is empty."""
    box = box_of(mask)
    if box is None:
        return None
    window = _cut(mask, box)
    height, width = window.shape
    per_column, per_row = np.count_nonzero(window, axis=0), np.count_nonzero(window, axis=1)
    x = np.average(np.arange(width, dtype=np.float64), weights=per_column)
    y = np.average(np.arange(height, dtype=np.float64), weights=per_row)
    return box[0] + float(x) + 0.5, box[1] + float(y) + 0.5


def rle_of(mask: Mask) -> Rle:
    """COCO run lengths of a mask; quickest where the mask is in column-major order."""
    column_major = mask.ravel(order="F")
    ends = np.flatnonzero(column_major[1:] != column_major[:-1]) + 1
    edges = np.concatenate([[0], ends, [column_major.size]])
    counts = [int(count) for count in np.diff(edges)]
    if column_major[0]:
        counts.insert(0, 0)
    return Rle((mask.shape[0], mask.shape[1]), tuple(counts))


def rings_of(mask: Mask, *, epsilon_px: float = 0.0) -> list[Ring]:
    """Outlines of a mask: each outer ring, the largest first, followed by the holes in it.

    Outer rings run clockwise as seen on the screen and holes against it; `ring_area` is positive
    for the former.  Pixels that meet at a corner only lie in separate outer rings.

    `epsilon_px` is how far (in pixels) the outline may leave the edges of the pixels; 0 follows
    them exactly.  A ring too small to be simplified that far stays exact, so none is lost.

    Raises:
        ConfigError: `epsilon_px` is negative.
    """
    if not epsilon_px >= 0:
        raise ConfigError(f"epsilon_px is {epsilon_px}; allowed are 0 (exact) or more pixels")
    box = box_of(mask)
    if box is None:
        return []
    corner = np.array(box[:2], np.float32)
    rings = _exact_rings(_cut(mask, box))
    return [_simplified(ring, epsilon_px) + corner for ring in rings]


def ring_area(ring: NDArray[Any]) -> float:
    """Enclosed square pixels of a ring (P, 2): positive clockwise on the screen, else negative."""
    x, y = ring.astype(np.float64).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def soft_alpha(mask: Mask, feather_px: float) -> Pixels:
    """Opacity (H, W) 0..255: a ramp `feather_px` wide, half of it on each side of the mask's edge.

    Where the mask reaches the photo's border it stays opaque.

    Raises:
        ConfigError: `feather_px` is negative.
    """
    if not feather_px >= 0:
        raise ConfigError(f"feather_px is {feather_px}; allowed are 0 (hard edge) or more pixels")
    alpha = mask * np.uint8(255)
    box = box_of(mask)
    if feather_px and box is not None:
        reach = feather_px / 2 + 2
        x0, y0, x1, y1 = grown(box, (reach, reach), (mask.shape[0], mask.shape[1]))
        window = mask[y0:y1, x0:x1].astype(np.uint8)
        ramp = np.clip(_depth_px(window) / np.float32(feather_px) + 0.5, 0, 1)
        alpha[y0:y1, x0:x1] = (255 * ramp + 0.5).astype(np.uint8)
    return alpha


def _cut(mask: Mask, box: Box) -> Mask:
    x0, y0, x1, y1 = box
    return mask[y0:y1, x0:x1]


def _depth_px(mask: Pixels) -> NDArray[np.float32]:
    """How far each pixel centre lies inside the mask's edge, (H, W); negative outside."""
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The transform measures to the nearest centre of the other kind, half a pixel past the edge.
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def _characters(step: int) -> str:
    """One number as characters 0..o: five bits each, the lowest first, bit 6 if more follow."""
    text = ""
    while True:
        bits, step = step & 31, step >> 5
        # The last character's bit 5 is the sign, so a number ends where only signs would follow.
        done = step == (-1 if bits & 16 else 0)
        text += chr(48 + bits + (0 if done else 32))
        if done:
            return text


def _exact_rings(mask: Mask) -> list[NDArray[np.int64]]:
    """Corner points (P, 2) of every ring along the pixel edges, grouped and oriented.

    Every corner of an outline ends one horizontal and one vertical edge.  Along a row of pixel
    edges the corners, sorted, are the two ends of one edge after the other; so are they along a
    column.  Following such pairs, now horizontal, now vertical, closes each ring.
    """
    padded = np.pad(mask, 1)
    x, y, side, level = _corners(padded)
    rows, columns = np.lexsort((side, x, y)), np.lexsort((level, y, x))
    across, along = _linked(rows), _linked(columns)
    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    points = np.stack([x, y], axis=1)
    found: list[tuple[int, float, NDArray[np.int64]]] = []
    seen = bytearray(len(x))
    for corner in rows[::2]:
        left = int(corner)
        if seen[left]:
            continue
        # The mask lies on the right hand of the way: below, if the way goes right.
        below = bool(padded[y[left] + 1, x[left] + 1])
        ring = points[_followed(left if below else across[left], across, along, seen)]
        part = int(parts[y[left] if below else y[left] - 1, x[left]])
        found.append((part, ring_area(ring), ring))
    return _grouped(found)


def _corners(padded: Mask) -> NDArray[np.int64]:
    """Corners (4, C) of the outlines: x, y, and two ranks that part the corners of one point.

    Where two pixels meet only diagonally, the point is a corner of each.  Of those two corners the
    one with the edge to the left has `side` 0, and the one with the edge upwards `level` 0.
    """
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    kinds = (
        (nw ^ ne ^ sw ^ se, 0, 0),
        (nw & se & ~ne & ~sw, 0, 0),
        (nw & se & ~ne & ~sw, 1, 1),
        (ne & sw & ~nw & ~se, 0, 1),
        (ne & sw & ~nw & ~se, 1, 0),
    )
    found: list[NDArray[np.int64]] = []
    for where, side, level in kinds:
        y, x = np.nonzero(where)
        found.append(np.stack([x, y, np.full_like(x, side), np.full_like(x, level)]))
    return np.concatenate(found, axis=1)


def _linked(order: NDArray[np.int64]) -> Links:
    """Corners sorted along the edges -> the other end of each corner's edge."""
    ends = np.empty_like(order)
    ends[order[::2]], ends[order[1::2]] = order[1::2], order[::2]
    return ends.tolist()


def _followed(start: int, across: Links, along: Links, seen: bytearray) -> list[int]:
    ring: list[int] = []
    corner = start
    while not seen[corner]:
        ends = (corner, across[corner])
        ring.extend(ends)
        for end in ends:
            seen[end] = 1
        corner = along[ends[1]]
    return ring


def _grouped(found: list[tuple[int, float, NDArray[np.int64]]]) -> list[NDArray[np.int64]]:
    """Rings, found with their part and area from top to bottom; largest part first, holes last."""
    outer = {part: area for part, area, _ in found if area > 0}
    found = sorted(found, key=lambda each: (-outer[each[0]], each[0]))
    return [ring for _, _, ring in found]


def _simplified(ring: NDArray[np.int64], epsilon_px: float) -> Ring:
    exact = ring.astype(np.float32)
    if not epsilon_px:
        return exact
    fewer = np.asarray(cv2.approxPolyDP(exact[:, None], epsilon_px, closed=True))[:, 0]
    keeps_side = ring_area(fewer) * ring_area(exact) > 0
    return fewer.astype(np.float32) if len(fewer) > 2 and keeps_side else exact
