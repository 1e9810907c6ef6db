"""Which clothes, hair and skin one paper doll gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hp_trainer.paperdolls.body import pick
from hp_trainer.paperdolls.patterns import Colour, Material, draw_material, hsv_colour, shaded

_SKIN_TONES: tuple[Colour, ...] = (
    (246, 215, 195), (238, 200, 174), (228, 184, 150), (211, 160, 124), (190, 138, 100),
    (160, 110, 76), (128, 85, 58), (98, 64, 45), (70, 46, 34),
)  # fmt: skip
_HAIR_TONES: tuple[Colour, ...] = (
    (22, 18, 17), (44, 30, 24), (74, 48, 33), (112, 74, 46), (158, 112, 66), (206, 168, 112),
    (230, 205, 155), (140, 62, 34), (150, 148, 146), (215, 213, 210),
)  # fmt: skip
_HAIR_ODDS = (24, 18, 14, 10, 7, 7, 4, 5, 6, 4)


@dataclass(frozen=True, slots=True)
class Worn:
    """One garment; `length` runs along the limb or body it covers, `fit` 0 is tight, 1 wide."""

    garment: str
    material: Material
    length: float = 1.0
    fit: float = 0.3
    sleeve: float = 0.0
    """Covered share of the arm: 1 ends at the elbow, 2 at the wrist."""
    style: str = ""


@dataclass(frozen=True, slots=True)
class Outfit:
    """Everything visible on a person, from the skin outwards."""

    skin: Material
    hair: Material
    hair_style: str
    hair_length: float
    upper: Worn | None = None
    lower: Worn | None = None
    whole: Worn | None = None
    outer: Worn | None = None
    shoes: Worn | None = None
    socks: Worn | None = None
    hat: Worn | None = None
    sunglasses: Worn | None = None
    scarf: Worn | None = None
    gloves: Worn | None = None
    belt: Worn | None = None
    bag: Worn | None = None
    beard: bool = False


def draw_outfit(rng: np.random.Generator, kind: str) -> Outfit:
    """Clothes for a "man", "woman" or "child"."""
    skin, hair = _draw_skin(rng), _draw_hair(rng)
    style, length = _draw_hair_style(rng, kind)
    upper, lower, whole = _draw_base(rng, kind)
    outer = _draw_outer(rng) if rng.random() < 0.33 else None
    shoes, socks = _draw_feet(rng, kind, lower or whole)
    return Outfit(
        skin=skin,
        hair=hair,
        hair_style=style,
        hair_length=length,
        upper=upper,
        lower=lower,
        whole=whole,
        outer=outer,
        shoes=shoes,
        socks=socks,
        belt=_draw_belt(rng, lower or whole),
        beard=kind == "man" and rng.random() < 0.35,
        **_draw_extras(rng),
    )


def _draw_skin(rng: np.random.Generator) -> Material:
    place = rng.uniform(0, len(_SKIN_TONES) - 1.001)
    tones = np.asarray(_SKIN_TONES)
    low, part = int(place), place % 1.0
    red, green, blue = (1 - part) * tones[low] + part * tones[low + 1] + rng.normal(0, 5, 3)
    return Material((float(red), float(green), float(blue)), folds=0.1)


def _draw_hair(rng: np.random.Generator) -> Material:
    tone = pick(rng, _HAIR_TONES, _HAIR_ODDS)
    if rng.random() < 0.03:
        tone = hsv_colour(rng.random(), 0.7, 0.7)
    second = shaded(Material(tone), 1.5).colour
    return Material(tone, second, "ribs", 0.3, rng.uniform(-0.4, 0.4), 0.6, folds=0.6)


def _draw_hair_style(rng: np.random.Generator, kind: str) -> tuple[str, float]:
    odds = {"man": (70, 4, 3, 2, 12, 9), "woman": (12, 48, 20, 12, 0.5, 8)}.get(
        kind, (42, 30, 14, 4, 1, 9)
    )
    style = pick(rng, ("short", "long", "ponytail", "bun", "bald", "curly"), odds)
    return style, float(rng.uniform(0.07, 0.27))


def _draw_base(rng: np.random.Generator, kind: str) -> tuple[Worn | None, ...]:
    """(upper, lower, whole): two pieces, or a dress or romper alone."""
    odds = {"man": (72, 22, 0.5, 0, 5), "woman": (42, 10, 16, 24, 8)}.get(kind, (48, 20, 8, 14, 10))
    base = pick(rng, ("pants", "shorts", "skirt", "dress", "romper"), odds)
    if base in {"dress", "romper"}:
        return None, None, _draw_whole(rng, base)
    return _draw_upper(rng, kind), _draw_lower(rng, base), None


def _draw_whole(rng: np.random.Generator, base: str) -> Worn:
    sleeve = pick(rng, (0.0, 0.12, 0.55, 1.9), (30, 20, 28, 22))
    length = rng.uniform(0.55, 1.9) if base == "dress" else pick(rng, (0.5, 1.95), (4, 6))
    return Worn(
        base,
        draw_material(rng),
        length=float(length),
        fit=float(rng.uniform(0.1, 1.0)),
        sleeve=sleeve,
        style=pick(rng, ("round", "v", "strapless", "boat"), (5, 4, 2 if sleeve < 0.1 else 0, 2)),
    )


def _draw_upper(rng: np.random.Generator, kind: str) -> Worn:
    names = ("t-shirt", "shirt", "blouse", "sweater", "sweatshirt", "hoodie", "top")
    odds = (30, 16, 10 if kind == "woman" else 0, 14, 8, 8, 22 if kind == "woman" else 5)
    garment = pick(rng, names, odds)
    bare = garment == "top"
    sleeve = pick(rng, (0.0, 0.12), (1, 1)) if bare else rng.uniform(0.45, 0.75)
    if garment in {"sweater", "sweatshirt", "hoodie"} or (
        garment in {"shirt", "blouse"} and rng.random() < 0.75
    ):
        sleeve = pick(rng, (1.95, 1.5, 1.2), (8, 1, 1))
    neck = {"shirt": "collar", "sweater": pick(rng, ("round", "turtle", "v"), (5, 3, 2))}
    return Worn(
        garment,
        draw_material(rng),
        length=pick(rng, (0.2, float(rng.uniform(-0.16, 0.0))), (4, 6)),
        fit=float(rng.uniform(0.05, 0.9)),
        sleeve=float(sleeve),
        style=neck.get(garment, pick(rng, ("round", "v", "boat"), (6, 3, 1))),
    )


def _draw_lower(rng: np.random.Generator, base: str) -> Worn:
    fit = float(rng.uniform(0.0, 1.0))
    if base == "skirt":
        length = pick(rng, (float(rng.uniform(0.4, 0.95)), float(rng.uniform(0.95, 1.9))), (3, 2))
        return Worn("skirt", draw_material(rng), length=length, fit=fit)
    if base == "shorts":
        return Worn("shorts", draw_material(rng), length=float(rng.uniform(0.35, 0.95)), fit=fit)
    garment = pick(rng, ("jeans", "pants", "leggings"), (5, 5, 1))
    if garment == "jeans":
        value = rng.uniform(0.2, 0.85)
        denim = hsv_colour(rng.uniform(0.57, 0.63), rng.uniform(0.25, 0.65), value)
        material = draw_material(rng, colour=denim, plain=True)
    else:
        material = draw_material(rng, plain=rng.random() < 0.7)
    length = pick(rng, (1.95, float(rng.uniform(1.5, 1.9))), (8, 2))
    return Worn(garment, material, length=length, fit=0.0 if garment == "leggings" else fit)


def _draw_outer(rng: np.random.Generator) -> Worn:
    garment = pick(rng, ("coat", "jacket", "blazer", "cardigan"), (3, 4, 3, 2))
    length = {"coat": rng.uniform(0.45, 1.35), "cardigan": rng.uniform(-0.2, 0.6)}.get(
        garment, rng.uniform(-0.3, 0.1)
    )
    return Worn(
        garment,
        draw_material(rng, plain=rng.random() < 0.6),
        length=float(length),
        fit=float(rng.uniform(0.2, 1.0)),
        sleeve=pick(rng, (2.0, 1.85, 1.2), (7, 2, 1)),
        style=pick(rng, ("open", "half", "closed"), (5, 3, 3)),
    )


def _draw_feet(
    rng: np.random.Generator, kind: str, lower: Worn | None
) -> tuple[Worn | None, Worn | None]:
    if rng.random() < 0.06:
        return None, None
    names = ("sneakers", "shoes", "boots", "heels", "flats", "sandals")
    odds = (36, 26, 16, 12, 8, 6) if kind == "woman" else (45, 36, 12, 0, 0, 5)
    garment = pick(rng, names, odds)
    length = rng.uniform(0.3, 0.9) if garment == "boots" else 0.0
    shoes = Worn(garment, draw_material(rng, plain=True), length=float(length))
    bare = lower is not None and lower.length < 1.4
    if bare and lower is not None and lower.garment in {"skirt", "dress"} and rng.random() < 0.25:
        return shoes, Worn("stockings", draw_material(rng, plain=True), length=-0.6)
    if garment in {"sandals", "flats", "heels"} or rng.random() < 0.35:
        return shoes, None
    return shoes, Worn("socks", draw_material(rng), length=float(rng.uniform(0.1, 0.85)))


def _draw_belt(rng: np.random.Generator, lower: Worn | None) -> Worn | None:
    if lower is None or rng.random() > 0.3:
        return None
    carrier = {"skirt": "skirt", "dress": "dress", "romper": "jumpsuits"}.get(
        lower.garment, "pants"
    )
    return Worn(f"belt on {carrier}", draw_material(rng, plain=True))


def _draw_extras(rng: np.random.Generator) -> dict[str, Worn | None]:
    chance = rng.random(5)
    styles = {
        "hat": (0.22, pick(rng, ("beanie", "cap", "brim"), (4, 5, 4))),
        "sunglasses": (0.2, ""),
        "scarf": (0.14, pick(rng, ("wrapped", "hanging"), (1, 1))),
        "gloves": (0.1, ""),
        "bag": (0.28, pick(rng, ("crossbody", "hand", "backpack", "shoulder"), (3, 3, 3, 2))),
    }
    extras: dict[str, Worn | None] = {}
    for (name, (odds, style)), luck in zip(styles.items(), chance, strict=True):
        extras[name] = None
        if luck < odds:
            material = _draw_extra_material(rng, name)
            extras[name] = Worn(name, material, style=style, length=luck / odds)
    return extras


def _draw_extra_material(rng: np.random.Generator, name: str) -> Material:
    if name == "sunglasses":
        return Material(hsv_colour(rng.random(), 0.3, rng.uniform(0.03, 0.22)))
    return draw_material(rng, plain=name in {"gloves", "bag"})
