"""The trunk and what covers it: shirts, dresses, coats, necklines, belts, scarves and bags."""

from __future__ import annotations

import numpy as np

from hp_trainer.paperdolls.body import Array
from hp_trainer.paperdolls.figure import Figure
from hp_trainer.paperdolls.limbs import draw_skirt
from hp_trainer.paperdolls.outfit import Worn
from hp_trainer.paperdolls.patterns import shaded
from hp_trainer.paperdolls.shapes import box, capsule, ellipse, ribbon, unit_vector

_WAIST = 0.36


def draw_trunk(figure: Figure) -> None:
    """Hips and chest with the clothes worn next to the skin."""
    outfit = figure.outfit
    bare = figure.trunk.outline(0.2, 1.04, ease=-0.003 * figure.unit)
    figure.skin(bare, "chest", "trunk")
    if outfit.whole is not None:
        _draw_whole(figure, outfit.whole)
    elif outfit.upper is not None and outfit.upper.length > 0.1:
        _draw_upper(figure, outfit.upper)
        _draw_hips(figure)
    elif outfit.upper is not None:
        _draw_hips(figure)
        _draw_upper(figure, outfit.upper)


def _draw_hips(figure: Figure) -> None:
    """The part of trousers or skirt above the legs, and the belt."""
    lower = figure.outfit.lower
    if lower is None:
        return
    ease = (0.004 + 0.006 * lower.fit) * figure.unit
    low = -0.1 if lower.garment == "skirt" else -0.18
    hips = figure.trunk.outline(low, _WAIST, ease=ease)
    figure.fill(hips, "pelvis", lower.garment, lower.material, "hips")
    draw_belt(figure)


def draw_belt(figure: Figure) -> None:
    """The belt, around the waist."""
    belt = figure.outfit.belt
    if belt is None:
        return
    low, high = (0.27, 0.35) if figure.outfit.whole is None else (0.36, 0.45)
    band = figure.trunk.outline(low, high, ease=0.008 * figure.unit)
    figure.fill(band, "pelvis", belt.garment, belt.material, "belt")
    if figure.skeleton.facing > 0.2:
        buckle = box(
            figure.trunk.front_point((low + high) / 2, 0.0),
            0.012 * figure.unit, 0.011 * figure.unit, np.eye(2),
        )  # fmt: skip
        figure.fill(buckle, "pelvis", belt.garment, shaded(belt.material, 2.2), "belt")


def _draw_upper(figure: Figure, worn: Worn) -> None:
    ease = (0.004 + 0.01 * worn.fit) * figure.unit
    cloth = figure.trunk.outline(worn.length, 1.0, ease=ease, straight=0.2 + worn.fit)
    figure.fill(cloth, "chest", worn.garment, worn.material, "upper")
    _draw_neckline(figure, worn)


def _draw_whole(figure: Figure, worn: Worn) -> None:
    ease = (0.003 + 0.004 * worn.fit) * figure.unit
    top = 0.82 if worn.style == "strapless" else 1.0
    figure.fill(
        figure.trunk.outline(_WAIST - 0.02, top, ease=ease),
        "chest", worn.garment, worn.material, "upper",
    )  # fmt: skip
    low = -0.1 if worn.garment == "dress" else -0.18
    hips = figure.trunk.outline(low, _WAIST, ease=ease)
    figure.fill(hips, "pelvis", worn.garment, worn.material, "upper")
    if worn.style != "strapless":
        _draw_neckline(figure, worn)
    draw_belt(figure)


def _draw_neckline(figure: Figure, worn: Worn) -> None:
    """Skin (or collar) at the neck, as far as the chest faces the viewer."""
    unit, trunk = figure.unit, figure.trunk
    if figure.skeleton.facing < 0.15 or worn.style == "turtle":
        return
    width, depth = {"v": (0.042, 0.74), "boat": (0.075, 0.93), "collar": (0.034, 0.84)}.get(
        worn.style, (0.046, 0.9 if worn.sleeve > 0.3 else 0.82)
    )
    if worn.style in {"v", "collar"}:
        knots = ((1.0, width), (depth, 0.0), (1.0, -width))
    else:
        knots = (
            (1.01, width), (0.6 * depth + 0.4, 0.85 * width), (depth, 0.35 * width),
            (depth, -0.35 * width), (0.6 * depth + 0.4, -0.85 * width), (1.01, -width),
        )  # fmt: skip
    line = np.array([trunk.front_point(level, across * unit) for level, across in knots])
    figure.skin(line, "chest", "neckline")
    if worn.style == "collar":
        _draw_collar(figure, worn, 0.04)


def _draw_collar(figure: Figure, worn: Worn, width: float) -> None:
    unit, trunk = figure.unit, figure.trunk
    flap = shaded(worn.material, 1.25)
    for sign in (1.0, -1.0):
        knots = ((1.03, 0.8), (0.95, 1.35), (0.84, 0.55), (0.9, 0.1))
        line = np.array(
            [trunk.front_point(level, sign * across * width * unit) for level, across in knots]
        )
        figure.fill(line, "chest", worn.garment, flap, f"collar {sign}")
    middle = np.array([trunk.front_point(level, 0.0) for level in (0.86, 0.5, max(worn.length, 0))])
    figure.stroke(
        middle, ("chest", worn.garment), shaded(worn.material, 0.7), "placket", width=0.004
    )


def draw_outer(figure: Figure) -> None:
    """Coat, jacket, blazer or cardigan, open or closed in front."""
    worn = figure.outfit.outer
    if worn is None:
        return
    long = worn.length > 0.3
    with figure.canvas.spare(_opening(figure, worn)):
        if long:
            draw_skirt(figure, worn)
        ease = (0.01 + 0.012 * worn.fit) * figure.unit
        low = -0.14 if long else float(np.clip(worn.length, -0.16, 0.12))
        cloth = figure.trunk.outline(low, 1.01, ease=ease, straight=0.3 + 0.7 * worn.fit)
        figure.fill(cloth, "chest", worn.garment, worn.material, "outer")
    if figure.skeleton.facing > 0.2:
        _draw_lapels(figure, worn)


def _opening(figure: Figure, worn: Worn) -> Array | None:
    """Where an unbuttoned coat shows what is beneath; None from behind."""
    if figure.skeleton.facing < 0.2:
        return None
    unit, trunk = figure.unit, figure.trunk
    end = {"open": -0.25, "half": 0.4}.get(worn.style, 0.8)
    levels = np.linspace(1.05, end, 6)
    waist = (0.028 + 0.035 * worn.fit) * np.linspace(0.9, 1.3, 6)
    if worn.style != "open":
        waist = np.linspace(0.042, 0.0, 6)
    left = [trunk.front_point(v, w * unit) for v, w in zip(levels, waist, strict=True)]
    right = [trunk.front_point(v, -w * unit) for v, w in zip(levels, waist, strict=True)]
    if worn.style == "open" and worn.length > 0.3:
        knees = (figure.skeleton.at("kneeL") + figure.skeleton.at("kneeR")) / 2
        fall = 1.8 * (knees - figure.skeleton.at("pelvis")) + (0.0, 0.05 * unit)
        spread = 0.1 * unit * trunk.lateral
        left.append(trunk.row(0.0)[0] + fall + spread)
        right.append(trunk.row(0.0)[0] + fall - spread)
    return ribbon(np.array(left), np.array(right))


def _draw_lapels(figure: Figure, worn: Worn) -> None:
    unit, trunk = figure.unit, figure.trunk
    if worn.garment in {"blazer", "coat"}:
        for sign in (1.0, -1.0):
            knots = ((1.02, 0.04), (0.93, 0.075), (0.78, 0.068), (0.55, 0.035), (0.8, 0.03))
            line = np.array([trunk.front_point(v, sign * w * unit) for v, w in knots])
            figure.fill(line, "chest", worn.garment, shaded(worn.material, 0.82), f"lapel {sign}")
    if worn.style != "open":
        low = 0.4 if worn.style == "half" else 0.8
        middle = np.array([trunk.front_point(v, 0.0) for v in (low, 0.2, 0.0)])
        figure.stroke(
            middle, ("chest", worn.garment), shaded(worn.material, 0.6), "zip", width=0.006
        )


def draw_neck(figure: Figure) -> None:
    """The neck, a turtleneck's collar and the scarf."""
    unit, skeleton, outfit = figure.unit, figure.skeleton, figure.outfit
    base, top = skeleton.at("neck"), skeleton.at("skull")
    low = base - 0.12 * (top - base)
    radii = np.array((0.036, 0.029, 0.027, 0.028)) * unit * skeleton.build.girth**0.5
    figure.skin(capsule(low, base + 0.8 * (top - base), radii, caps=(0.3, 1)), "neck", "neck")
    upper = outfit.upper
    if upper is not None and upper.style == "turtle":
        roll = capsule(low, base + 0.38 * (top - base), 1.18 * radii, caps=(0.3, 0.2))
        figure.fill(roll, "neck", upper.garment, upper.material, "roll")
    if outfit.scarf is not None:
        _draw_scarf(figure, outfit.scarf)


def _draw_scarf(figure: Figure, scarf: Worn) -> None:
    unit, trunk = figure.unit, figure.trunk
    if scarf.style == "hanging" and figure.skeleton.facing > 0:
        for across, end in ((0.035, 0.3), (-0.03, 0.42)):
            a = trunk.front_point(0.97, across * unit)
            b = trunk.front_point(end, 1.3 * across * unit)
            tail = capsule(a, b, np.array((0.024, 0.028)) * unit, caps=(1.0, 0.1))
            figure.fill(tail, "chest", "scarf", scarf.material, f"tail {across}")
    base = figure.skeleton.at("neck")
    up = unit_vector(figure.skeleton.at("skull") - base)
    axes = np.stack([np.array((-up[1], up[0])), -up], axis=1)
    ring = ellipse(base + 0.008 * unit * up, 0.066 * unit, 0.034 * unit, axes)
    figure.fill(ring, "chest", "scarf", scarf.material, "scarf")


def draw_bag_behind(figure: Figure) -> None:
    """A backpack worn by someone who faces the viewer shows at the sides only."""
    bag = figure.outfit.bag
    if bag is not None and bag.style == "backpack" and figure.skeleton.facing > 0:
        _draw_backpack(figure, bag)


def _draw_backpack(figure: Figure, bag: Worn) -> None:
    unit, trunk = figure.unit, figure.trunk
    centre, half = trunk.row(0.55)
    away = -1.4 * trunk.front[5]
    axes = np.stack([trunk.axis, np.array((-trunk.axis[1], trunk.axis[0]))], axis=1)
    wide = max(0.92 * half, 0.05 * unit)
    body = box(centre + away, wide, 0.13 * unit, axes, taper=1.08)
    figure.fill(body, "held", "bag", bag.material, "bag")
    pocket = box(centre + away * 1.1 + 0.05 * unit * axes[:, 1], 0.7 * wide, 0.05 * unit, axes)
    if figure.skeleton.facing < 0:
        figure.fill(pocket, "held", "bag", shaded(bag.material, 0.85), "bag pocket")


def draw_bag(figure: Figure) -> None:
    """Straps and bags that lie over the clothes."""
    bag = figure.outfit.bag
    if bag is None or bag.style == "hand":
        return
    if bag.style == "backpack":
        if figure.skeleton.facing <= 0:
            _draw_backpack(figure, bag)
        else:
            for across in (0.075, -0.075):
                knots = ((0.98, across), (0.8, across * 1.05), (0.55, across * 1.15))
                _draw_strap(figure, bag, knots, width=0.02)
        return
    sign = 1.0 if bag.length < 0.5 else -1.0
    cross = -sign if bag.style == "crossbody" else sign
    _draw_strap(
        figure, bag, ((0.97, 0.06 * cross), (0.5, 0.04 * sign), (0.05, 0.1 * sign)), width=0.011
    )
    hip = figure.skeleton.at("hipL" if sign > 0 else "hipR")
    centre = hip + 0.055 * unit_sign(figure, sign) * figure.unit
    figure.fill(
        box(centre, 0.065 * figure.unit, 0.05 * figure.unit, np.eye(2), taper=1.1),
        "held", "bag", bag.material, "bag",
    )  # fmt: skip


def unit_sign(figure: Figure, sign: float) -> Array:
    """Image direction of the person's left (`sign` 1) or right (-1)."""
    return sign * figure.trunk.lateral


def _draw_strap(
    figure: Figure, bag: Worn, knots: tuple[tuple[float, float], ...], *, width: float
) -> None:
    points = np.array([figure.trunk.front_point(v, w * figure.unit) for v, w in knots])
    if figure.skeleton.facing < 0:
        points = np.array(
            [figure.trunk.row(v)[0] + w * figure.unit * figure.trunk.lateral for v, w in knots]
        )
    figure.stroke(points, ("held", "bag"), shaded(bag.material, 0.8), "strap", width=width)


def draw_handbag(figure: Figure, side: str) -> None:
    """A bag carried in the hand of `side`."""
    bag = figure.outfit.bag
    if bag is None or bag.style != "hand" or side != ("L" if bag.length < 0.5 else "R"):
        return
    unit = figure.unit
    grip = 0.4 * figure.skeleton.at(f"wrist{side}") + 0.6 * figure.skeleton.at(f"fingers{side}")
    centre = grip + np.array((0.0, 0.125 * unit))
    corner = np.array((0.04 * unit, 0.05 * unit))
    handle = np.array((centre - corner, grip, centre + corner * (1, -1)))
    figure.stroke(handle, ("held", "bag"), shaded(bag.material, 0.7), "strap", width=0.009)
    body = box(centre, 0.07 * unit, 0.055 * unit, np.eye(2), taper=1.15)
    figure.fill(body, "held", "bag", bag.material, "bag")
    flap = box(centre - (0.0, 0.03 * unit), 0.068 * unit, 0.022 * unit, np.eye(2))
    figure.fill(flap, "held", "bag", shaded(bag.material, 0.85), "flap")
