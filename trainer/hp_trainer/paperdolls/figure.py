"""One person on a canvas: the brush that body parts and clothes are painted with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hp_trainer.paperdolls.body import Array, Build, Skeleton
from hp_trainer.paperdolls.canvas import Canvas
from hp_trainer.paperdolls.outfit import Outfit
from hp_trainer.paperdolls.patterns import Material
from hp_trainer.paperdolls.shapes import ribbon, unit_vector
from hp_trainer.paperdolls.wardrobe import code_of

_LEVELS = np.array((-0.2, -0.1, -0.02, 0.12, 0.42, 0.6, 0.74, 0.88, 0.94, 1.0, 1.06))
"""Where the trunk is measured: 0 at the pelvis, 1 at the base of the neck."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """Cross-sections of the trunk at `levels`, in pixels."""

    levels: Array
    centre: Array
    half: Array
    axis: Array
    lateral: Array
    front: Array

    def row(self, level: float) -> tuple[Array, float]:
        """Centre (2,) and half width of the cross-section at `level`."""
        x = np.interp(level, self.levels, self.centre[:, 0])
        y = np.interp(level, self.levels, self.centre[:, 1])
        return np.array((x, y)), float(np.interp(level, self.levels, self.half))

    def outline(
        self, low: float, high: float, *, ease: float = 0.0, straight: float = 0.0
    ) -> Array:
        """The trunk between two levels, widened by `ease` pixels.

        `straight` 0 follows the waist, 1 falls straight down from the chest and over the hips.
        """
        levels = np.linspace(low, high, 12)
        x = np.interp(levels, self.levels, self.centre[:, 0])
        y = np.interp(levels, self.levels, self.centre[:, 1])
        below = np.minimum(levels - self.levels[0], 0.0)[:, None]
        centre = np.stack([x, y], axis=1) + below * (self.centre[-1] - self.centre[0]) / 1.26
        half = np.interp(np.maximum(levels, -0.02 if straight else -1.0), self.levels, self.half)
        fallen = np.maximum.accumulate(half[::-1])[::-1]
        widest = np.where(levels < 0.8, np.maximum(half, 0.98 * fallen), half)
        half = half + min(straight, 1.0) * (widest - half) + ease * (levels < 0.97)
        return ribbon(centre - half[:, None] * self.axis, centre + half[:, None] * self.axis)

    def front_point(self, level: float, across: float) -> Array:
        """Image point on the chest, `across` pixels to the person's left of its middle line."""
        centre, half = self.row(level)
        depth = np.interp(level, self.levels, np.hypot(self.front[:, 0], self.front[:, 1]))
        side = 1.0 - min(abs(across) / max(half, 1e-3), 1.0) ** 2
        return centre + across * self.lateral + depth * side**0.5 * unit_vector(self.front[4])


def _girths(build: Build) -> tuple[Array, Array, Array]:
    """Half width, half depth and forward offset of the trunk at `_LEVELS`, in heights."""
    g, hips, waist, chest = build.girth, build.hip + 0.04 * build.girth, build.waist, build.shoulder
    half = (0.015, 0.06 * g, hips, 0.96 * hips, waist, 0.84 * chest, 0.93 * chest, chest + 0.004,
            0.76 * chest, 0.036, 0.026)  # fmt: skip
    deep = (0.03, 0.06, 0.07, 0.068, 0.058, 0.062, 0.066, 0.055, 0.045, 0.032, 0.026)
    shift = (0.0, -0.006, -0.01, -0.004, 0.002, 0.008, 0.01, 0.004, 0.0, 0.0, 0.0)
    bust = build.bust * np.interp(_LEVELS, (0.45, 0.68, 0.75, 0.92), (0, 1, 1, 0))
    return np.array(half), np.array(deep) * g + 0.5 * bust, np.array(shift) + 0.5 * bust


def measure_trunk(skeleton: Skeleton) -> Trunk:
    """The trunk of `skeleton` as seen by the viewer."""
    half, deep, shift = _girths(skeleton.build)
    pelvis, neck = skeleton.at("pelvis"), skeleton.at("neck")
    up = unit_vector(neck - pelvis)
    axis = np.array((-up[1], up[0]))
    mix = np.clip(_LEVELS, 0.0, 1.0)[:, None]
    lateral = (1 - mix) * skeleton.view[:2, 0] + mix * skeleton.chest_view[:2, 0]
    forward = (1 - mix) * skeleton.view[:2, 2] + mix * skeleton.chest_view[:2, 2]
    seen = np.hypot(half * (lateral @ axis), deep * (forward @ axis))
    centre = pelvis + _LEVELS[:, None] * (neck - pelvis)
    centre = centre + skeleton.unit * shift[:, None] * (forward @ axis)[:, None] * axis
    front = skeleton.unit * deep[:, None] * forward
    return Trunk(_LEVELS, centre, seen * skeleton.unit, axis, skeleton.chest_view[:2, 0], front)


@dataclass(frozen=True, slots=True)
class Figure:
    """A person about to be painted; `number` tells persons apart."""

    canvas: Canvas
    skeleton: Skeleton
    trunk: Trunk
    outfit: Outfit
    number: int

    @property
    def unit(self) -> float:
        """Standing height in pixels."""
        return self.skeleton.unit

    def fill(self, outline: Array, atom: str, garment: str, material: Material, layer: str) -> None:
        """Paint `outline` as `garment` on `atom`; creases separate the `layer`s."""
        piece = self.canvas.piece(code_of(atom, garment), material, (self.number, layer))
        self.canvas.fill(outline, piece)

    def skin(self, outline: Array, atom: str, layer: str) -> None:
        """Paint bare skin."""
        self.fill(outline, atom, "skin", self.outfit.skin, layer)

    def stroke(
        self, points: Array, kind: tuple[str, str], material: Material, layer: str, *, width: float
    ) -> None:
        """Paint a line as `kind` = (atom, garment), `width` in heights."""
        piece = self.canvas.piece(code_of(*kind), material, (self.number, layer))
        self.canvas.line(points, piece, width=width * self.unit)
