"""Placing people in the frame and painting them in the order in which they hide each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hp_trainer.paperdolls.body import (
    SIDES,
    Array,
    Skeleton,
    draw_build,
    draw_pose,
    pick,
    pose_skeleton,
)
from hp_trainer.paperdolls.canvas import Canvas
from hp_trainer.paperdolls.figure import Figure, measure_trunk
from hp_trainer.paperdolls.head import draw_hair_behind, draw_head, measure_head
from hp_trainer.paperdolls.limbs import draw_arm, draw_leg, draw_skirt, legs_by_depth
from hp_trainer.paperdolls.outfit import Outfit, draw_outfit
from hp_trainer.paperdolls.trunk import (
    draw_bag,
    draw_bag_behind,
    draw_handbag,
    draw_neck,
    draw_outer,
    draw_trunk,
)


@dataclass(frozen=True, slots=True)
class Person:
    """Someone placed in the picture."""

    skeleton: Skeleton
    outfit: Outfit

    @property
    def feet(self) -> Array:
        """Image point (x, y) between the feet."""
        return (self.skeleton.at("ankleL") + self.skeleton.at("ankleR")) / 2


def draw_people(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> list[Person]:
    """`count` people, those further away first."""
    people = [_draw_person(rng, size_hw, count, slot) for slot in rng.permutation(count)]
    return sorted(people, key=lambda person: person.feet[1])


def _draw_person(
    rng: np.random.Generator, size_hw: tuple[int, int], count: int, slot: int
) -> Person:
    kind = pick(rng, ("man", "woman", "child"), (42, 46, 12))
    skeleton = pose_skeleton(draw_build(rng, kind), draw_pose(rng))
    small = 0.72 if kind == "child" else 1.0
    return Person(_place(rng, skeleton, size_hw, (count, slot), small), draw_outfit(rng, kind))


def _place(
    rng: np.random.Generator,
    skeleton: Skeleton,
    size_hw: tuple[int, int],
    share: tuple[int, int],
    small: float,
) -> Skeleton:
    """Scale and shift a person: mostly whole, sometimes cut off by the frame or close up."""
    h, w = size_hw
    count, slot = share
    frame = pick(rng, ("whole", "cut", "close", "far"), (50, 22, 16, 12))
    points = np.array([point[:2] for point in skeleton.joints.values()])
    low, high = points.min(axis=0) - 0.06, points.max(axis=0) + 0.05
    low[1] -= 0.04
    tall = {"whole": rng.uniform(0.72, 0.98), "cut": rng.uniform(0.95, 1.35),
            "close": rng.uniform(1.4, 2.3), "far": rng.uniform(0.4, 0.7)}[frame]  # fmt: skip
    unit = tall * small * h / max(high[1] - low[1], 0.75)
    if frame in {"whole", "far"}:
        unit = min(unit, w * 0.98 / (high[0] - low[0]))
    x = w * (slot + 0.5) / count + rng.normal(0, 0.09) * w - unit * (low[0] + high[0]) / 2
    if frame in {"whole", "far"}:
        y = rng.uniform(-low[1] * unit, max(h - high[1] * unit, -low[1] * unit + 1))
    elif frame == "close":
        y = -low[1] * unit + rng.uniform(-0.08, 0.35) * h
    else:
        y = rng.uniform(0.4, 0.7) * h
    return skeleton.placed(unit=unit, pelvis_xy=(float(x), float(y)))


def paint_person(canvas: Canvas, person: Person, number: int) -> None:
    """Paint one person over everything that is on `canvas`, back to front."""
    figure = Figure(canvas, person.skeleton, measure_trunk(person.skeleton), person.outfit, number)
    head = measure_head(figure)
    behind = [side for side in SIDES if _is_behind(person.skeleton, side)]
    draw_bag_behind(figure)
    draw_hair_behind(figure, head)
    for side in behind:
        draw_handbag(figure, side)
        draw_arm(figure, side)
    _paint_lower_body(figure)
    draw_outer(figure)
    draw_neck(figure)
    draw_bag(figure)
    draw_head(figure, head)
    for side in SIDES:
        if side not in behind:
            draw_handbag(figure, side)
            draw_arm(figure, side)


def _is_behind(skeleton: Skeleton, side: str) -> bool:
    """Whether the arm is further from the viewer than the chest."""
    reach = (skeleton.depth(f"elbow{side}") + skeleton.depth(f"wrist{side}")) / 2
    return reach - skeleton.depth("neck") + 0.06 * skeleton.unit < -0.04 * skeleton.unit


def _paint_lower_body(figure: Figure) -> None:
    """Trunk and legs; knees that point at the viewer lie over the trunk."""
    skeleton, outfit = figure.skeleton, figure.outfit
    for side in legs_by_depth(figure):
        if not _knee_ahead(skeleton, side):
            draw_leg(figure, side)
    draw_trunk(figure)
    for side in legs_by_depth(figure):
        if _knee_ahead(skeleton, side):
            draw_leg(figure, side)
    for worn in (outfit.lower, outfit.whole):
        if worn is not None and worn.garment in {"skirt", "dress"}:
            draw_skirt(figure, worn)


def _knee_ahead(skeleton: Skeleton, side: str) -> bool:
    return skeleton.depth(f"knee{side}") - skeleton.depth("pelvis") > 0.12 * skeleton.unit
