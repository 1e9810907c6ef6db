"""Arms, legs and what covers them."""

from __future__ import annotations

import numpy as np

from hp_trainer.paperdolls.body import SIDES, Array
from hp_trainer.paperdolls.figure import Figure
from hp_trainer.paperdolls.outfit import Worn
from hp_trainer.paperdolls.patterns import shaded
from hp_trainer.paperdolls.shapes import around, capsule, hull

# Half widths along each bone, in standing heights.
_UPPER_ARM = np.array((0.030, 0.035, 0.036, 0.033, 0.030, 0.028, 0.027))
_FOREARM = np.array((0.027, 0.031, 0.031, 0.028, 0.024, 0.020, 0.0175))
_THIGH = np.array((0.060, 0.062, 0.059, 0.054, 0.048, 0.042, 0.038))
_SHIN = np.array((0.037, 0.040, 0.044, 0.042, 0.034, 0.027, 0.023))
_QUARTERS = np.linspace(0.0, 1.0, 5)
_KNOTS = np.linspace(0.0, 1.0, 7)
_HEM = 0.25
_TROUSERS = {"pants", "jeans", "leggings", "shorts", "romper"}


def _span(profile: Array, start: float, end: float) -> Array:
    """(5,) half widths between two shares of a bone."""
    return np.interp(start + (end - start) * _QUARTERS, _KNOTS, profile)


def _bone(figure: Figure, a: str, b: str, start: float, end: float) -> tuple[Array, Array]:
    first, last = figure.skeleton.at(a), figure.skeleton.at(b)
    return first + start * (last - first), first + end * (last - first)


def draw_arm(figure: Figure, side: str) -> None:
    """One arm with glove and sleeves, the part further from the viewer first."""
    skeleton, outfit = figure.skeleton, figure.outfit
    inner = outfit.upper or outfit.whole
    parts = [_draw_upper_arm, _draw_forearm]
    if skeleton.depth(f"wrist{side}") < skeleton.depth(f"elbow{side}") - 0.05 * figure.unit:
        parts.reverse()
    for part in parts:
        part(figure, side, inner)


def _draw_upper_arm(figure: Figure, side: str, inner: Worn | None) -> None:
    unit, girth = figure.unit, figure.skeleton.build.girth
    atom, layer = f"uarm{side}", f"arm{side}"
    outer = figure.outfit.outer
    if outer is None or outer.sleeve < 0.9:
        a, b = _bone(figure, f"shoulder{side}", f"elbow{side}", 0, 1)
        figure.skin(capsule(a, b, _UPPER_ARM * (unit * girth)), atom, layer)
    for worn, extra in ((inner, 0.0), (outer, 0.008)):
        if worn is None or worn.sleeve < 0.05:
            continue
        end = min(worn.sleeve, 1.0)
        a, b = _bone(figure, f"shoulder{side}", f"elbow{side}", 0, end)
        ease = 0.003 + extra + 0.012 * _QUARTERS * worn.fit
        radii = (_span(_UPPER_ARM, 0, end) * girth + ease) * unit
        cap = 1.0 if end >= 1 else 0.25
        cloth = capsule(a, b, radii, caps=(1.0, cap))
        figure.fill(cloth, atom, worn.garment, worn.material, f"{layer} {worn.garment}")


def _draw_forearm(figure: Figure, side: str, inner: Worn | None) -> None:
    unit, girth = figure.unit, figure.skeleton.build.girth
    atom, layer = f"larm{side}", f"arm{side}"
    a, b = _bone(figure, f"elbow{side}", f"wrist{side}", 0, 1)
    figure.skin(capsule(a, b, _FOREARM * (unit * girth)), atom, layer)
    _draw_hand(figure, side)
    for worn, extra in ((inner, 0.0), (figure.outfit.outer, 0.008)):
        if worn is None or worn.sleeve <= 1.0:
            continue
        end = min(worn.sleeve - 1.0, 1.0)
        a, b = _bone(figure, f"elbow{side}", f"wrist{side}", 0, end)
        ease = 0.003 + extra + (0.012 - 0.006 * _QUARTERS) * worn.fit
        radii = (_span(_FOREARM, 0, end) * girth + ease) * unit
        cloth = capsule(a, b, radii, caps=(1.0, 0.3))
        figure.fill(cloth, atom, worn.garment, worn.material, f"{layer} {worn.garment}")


def _draw_hand(figure: Figure, side: str) -> None:
    unit, skeleton, gloves = figure.unit, figure.skeleton, figure.outfit.gloves
    wrist, tips = skeleton.at(f"wrist{side}"), skeleton.at(f"fingers{side}")
    size = unit * (1.0 if gloves is None else 1.18)
    palm = capsule(
        wrist, wrist + 0.9 * (tips - wrist), size * np.array((0.018, 0.024, 0.023, 0.014))
    )
    thumb_root = wrist + 0.2 * (tips - wrist)
    thumb = capsule(thumb_root, skeleton.at(f"thumb{side}"), size * np.array((0.011, 0.008)))
    atom, layer = f"hand{side}", f"hand{side}"
    if gloves is None:
        figure.skin(palm, atom, layer)
        figure.skin(thumb, atom, layer)
        return
    a, b = _bone(figure, f"elbow{side}", f"wrist{side}", 0.75, 1.05)
    cuff = capsule(a, b, np.array((0.027, 0.023)) * unit, caps=(0.2, 1.0))
    figure.fill(cuff, f"larm{side}", "gloves", gloves.material, layer)
    for outline in (palm, thumb):
        figure.fill(outline, atom, "gloves", gloves.material, layer)


def legs_by_depth(figure: Figure) -> list[str]:
    """Sides, the leg further from the viewer first."""
    skeleton = figure.skeleton
    return sorted(
        SIDES,
        key=lambda side: 2 * skeleton.depth(f"knee{side}") + skeleton.depth(f"ankle{side}"),
    )


def draw_leg(figure: Figure, side: str) -> None:
    """One leg with sock, shoe and trouser leg, the part further from the viewer first."""
    skeleton = figure.skeleton
    behind = skeleton.depth(f"ankle{side}") < skeleton.depth(f"knee{side}") - 0.1 * figure.unit
    lower = (_draw_foot, _draw_shin)
    for part in (*lower, _draw_thigh) if behind else (_draw_thigh, *lower):
        part(figure, side)
    shoes = figure.outfit.shoes
    trousers = _trousers(figure)
    if shoes is not None and shoes.garment == "boots" and (trousers is None or trousers.fit < 0.5):
        _draw_boot_shaft(figure, side, shoes)


def _trousers(figure: Figure) -> Worn | None:
    worn = figure.outfit.lower or figure.outfit.whole
    return worn if worn is not None and worn.garment in _TROUSERS else None


def _draw_thigh(figure: Figure, side: str) -> None:
    unit, girth = figure.unit, figure.skeleton.build.girth
    atom, layer, worn = f"uleg{side}", f"leg{side}", _trousers(figure)
    a, b = _bone(figure, f"hip{side}", f"knee{side}", 0, 1)
    skin = capsule(a, b, _THIGH * (unit * girth))
    stockings = figure.outfit.socks
    if stockings is not None and stockings.garment == "stockings":
        figure.fill(skin, atom, "stockings", stockings.material, layer)
    else:
        figure.skin(skin, atom, layer)
    if worn is None:
        return
    end = min(worn.length, 1.0)
    a, b = _bone(figure, f"hip{side}", f"knee{side}", 0, end)
    ease = 0.003 + (0.004 + (0.016 if end < 1 else 0.008) * _QUARTERS) * worn.fit
    cloth = capsule(a, b, (_span(_THIGH, 0, end) * girth + ease) * unit, caps=(1, min(end**4, 1)))
    figure.fill(cloth, atom, worn.garment, worn.material, f"{layer} cloth")


def _draw_shin(figure: Figure, side: str) -> None:
    unit, girth = figure.unit, figure.skeleton.build.girth
    atom, layer, worn, socks = f"lleg{side}", f"leg{side}", _trousers(figure), figure.outfit.socks
    a, b = _bone(figure, f"knee{side}", f"ankle{side}", 0, 1)
    figure.skin(capsule(a, b, _SHIN * (unit * girth), caps=(1, 0.5)), atom, layer)
    if socks is not None:
        start = 0.0 if socks.garment == "stockings" else 1.0 - socks.length
        a, b = _bone(figure, f"knee{side}", f"ankle{side}", start, 1)
        radii = (_span(_SHIN, start, 1) * girth + 0.003) * unit
        sock = capsule(a, b, radii, caps=(1.0 if start == 0 else 0.2, 0.5))
        figure.fill(sock, atom, socks.garment, socks.material, f"{layer} sock")
    if worn is not None and worn.length > 1.0:
        end = min(worn.length - 1.0, 1.0)
        a, b = _bone(figure, f"knee{side}", f"ankle{side}", 0, end)
        straight = (0.056 - 0.008 * _QUARTERS) * worn.fit
        radii = (
            np.maximum(_span(_SHIN, 0, end) * girth, straight) + 0.003 + 0.01 * worn.fit
        ) * unit
        cloth = capsule(a, b, radii, caps=(1.0, 0.25))
        figure.fill(cloth, atom, worn.garment, worn.material, f"{layer} cloth")


def _draw_foot(figure: Figure, side: str) -> None:
    unit, outfit, skeleton = figure.unit, figure.outfit, figure.skeleton
    ankle, heel, toe = (skeleton.at(f"{joint}{side}") for joint in ("ankle", "heel", "toe"))
    ball = heel + 0.68 * (toe - heel)
    atom, layer, shoes = f"foot{side}", f"foot{side}", outfit.shoes
    bare = hull(
        (ankle, 0.021 * unit), (heel, 0.017 * unit), (ball, 0.022 * unit), (toe, 0.014 * unit)
    )
    if shoes is None or shoes.garment in {"heels", "flats", "sandals"}:
        if outfit.socks is None:
            figure.skin(bare, atom, layer)
        else:
            figure.fill(bare, atom, outfit.socks.garment, outfit.socks.material, layer)
    if shoes is None:
        return
    down = np.array((0.0, 0.010 * unit))
    low = hull(
        (heel + down, 0.014 * unit), (ball + down, 0.02 * unit), (toe + down / 2, 0.015 * unit)
    )
    if shoes.garment in {"heels", "flats", "sandals"}:
        figure.fill(low, atom, shoes.garment, shoes.material, f"{layer} shoe")
    else:
        upper = hull(
            (ankle + down / 2, 0.026 * unit), (heel, 0.023 * unit), (ball, 0.028 * unit),
            (toe, 0.018 * unit),
        )  # fmt: skip
        figure.fill(upper, atom, shoes.garment, shoes.material, f"{layer} shoe")
        if shoes.garment == "sneakers":
            sole = hull((heel + 1.6 * down, 0.012 * unit), (ball + 1.6 * down, 0.014 * unit),
                        (toe + down, 0.01 * unit))  # fmt: skip
            figure.fill(sole, atom, "sneakers", shaded(shoes.material, 1.6), f"{layer} sole")


def _draw_boot_shaft(figure: Figure, side: str, boots: Worn) -> None:
    start = 1.0 - boots.length
    a, b = _bone(figure, f"knee{side}", f"ankle{side}", start, 1)
    radii = (_span(_SHIN, start, 1) * figure.skeleton.build.girth + 0.007) * figure.unit
    shaft = capsule(a, b, radii, caps=(0.25, 0.6))
    figure.fill(shaft, f"lleg{side}", "boots", boots.material, f"foot{side} shoe")


def draw_skirt(figure: Figure, worn: Worn) -> None:
    """Cloth around both legs down to `worn.length`: 1 is the knee, 2 the ankle."""
    unit, girth = figure.unit, figure.skeleton.build.girth
    flare = 0.05 * worn.fit
    thigh = min(worn.length, 1.0)
    tops, hems = [], []
    for side in SIDES:
        top, hem = _bone(figure, f"hip{side}", f"knee{side}", 0.05, thigh)
        tops.append((top, 0.058 * girth * unit))
        hems.append((hem, (0.05 * girth + flare * thigh) * unit))
    if worn.length > 1.05:
        _draw_long_hem(figure, worn, flare)
    cloth = np.concatenate([hull(*tops), hull(*hems, hem=_HEM)])
    figure.fill(around(cloth), "ulegL", worn.garment, worn.material, "skirt")


def _draw_long_hem(figure: Figure, worn: Worn, flare: float) -> None:
    unit = figure.unit
    knees, hems = [], []
    for side in SIDES:
        knee, hem = _bone(figure, f"knee{side}", f"ankle{side}", 0, min(worn.length - 1.0, 0.95))
        knees.append((knee, (0.045 + flare) * unit))
        hems.append((hem, (0.035 + flare * worn.length) * unit))
    cloth = np.concatenate([hull(*knees), hull(*hems, hem=_HEM)])
    figure.fill(around(cloth), "llegL", worn.garment, worn.material, "skirt")
