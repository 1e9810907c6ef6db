"""Outlines of paper-doll pieces, as (N, 2) float polygons in pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

from hp_trainer.paperdolls.body import Array

_CAP = np.linspace(0.0, np.pi, 7)[1:-1]
_CAP_SIN, _CAP_COS = np.sin(_CAP), np.cos(_CAP)
_STEPS = [np.linspace(0.0, 1.0, count) for count in range(12)]
_TURN = np.linspace(0.0, 2 * np.pi, 18, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)


def unit_vector(vector: Array) -> Array:
    """`vector` with length one; straight down where it has none."""
    length = math.hypot(vector[0], vector[1])
    return vector / length if length > 1e-6 else np.array((0.0, 1.0))


def capsule(a: Array, b: Array, radii: Array, *, caps: tuple[float, float] = (1.0, 1.0)) -> Array:
    """A limb from `a` to `b` whose half width follows `radii`; `caps` round its two ends."""
    along_axis = unit_vector(b - a)
    across_axis = np.array((-along_axis[1], along_axis[0]))
    length = float((b - a) @ along_axis)
    steps = _STEPS[len(radii)] * length
    first, last = radii[0], radii[-1]
    outline = np.concatenate(
        [
            (steps, radii),
            (length + caps[1] * last * _CAP_SIN, last * _CAP_COS),
            (steps[::-1], -radii[::-1]),
            (-caps[0] * first * _CAP_SIN, -first * _CAP_COS),
        ],
        axis=1,
    )
    return a + outline.T @ np.array((along_axis, across_axis))


def ellipse(centre: Array, radius_x: float, radius_y: float, axes: Array | None = None) -> Array:
    """An ellipse; `axes` (2, 2) turns it, its columns being the x and y directions."""
    outline = _CIRCLE * (radius_x, radius_y)
    return centre + (outline if axes is None else outline @ axes.T)


def egg(centre: Array, radius_x: float, radius_y: float, axes: Array) -> Array:
    """A face: round at the top, narrower at the chin."""
    down = _CIRCLE[:, 1]
    narrowing = 1.0 - 0.3 * np.clip(down, 0.0, 1.0) ** 1.5
    outline = np.stack([_CIRCLE[:, 0] * narrowing * radius_x, down * radius_y], axis=1)
    return centre + outline @ axes.T


def hull(*discs: tuple[Array, float], hem: float = 1.0) -> Array:
    """The band stretched around discs (centre, radius), flattened vertically by `hem` below 1."""
    points = np.concatenate([centre + _CIRCLE * (radius, hem * radius) for centre, radius in discs])
    return around(points)


def around(points: Array) -> Array:
    """The convex outline of `points` (N, 2)."""
    return cv2.convexHull(points.astype(np.float32))[:, 0, :]


def ribbon(left: Array, right: Array) -> Array:
    """The area between two edges (N, 2) that run in the same direction."""
    return np.concatenate([left, right[::-1]])


def box(centre: Array, half_w: float, half_h: float, axes: Array, *, taper: float = 1.0) -> Array:
    """A rectangle with soft corners, `taper` times as wide at the bottom."""
    x = np.array((-1, -0.9, 0.9, 1, 1, 0.9, -0.9, -1)) * half_w
    y = np.array((-0.85, -1, -1, -0.85, 0.85, 1, 1, 0.85)) * half_h
    x[4:] *= taper
    return centre + np.stack([x, y], axis=1) @ axes.T
