"""What paper dolls wear, and what each garment is called in every label domain.

A doll is painted with pairs (body atom, garment); `label_tables` turns a pair into the ids of all
five domains, so that the domains can never contradict each other. Decisions where they differ:

- bare neck and chest: torso-skin in CIHP, face in ATR, background in LIP, head and torso in PASCAL;
- bags exist in ATR and CCP only and hide what they cover in the others; a belt exists in ATR and
  CCP only and counts to the garment that carries it in CIHP and LIP;
- gloves count to the arm and socks to the leg in ATR;
- a romper or jumpsuit is `jumpsuits` in LIP; CIHP and ATR lack the class, and split it at the waist
  into upper-clothes and pants, which is what is visible of it;
- PASCAL knows limbs only: clothes belong to the limb they cover, hands to the lower arms, feet to
  the lower legs, scarves to the torso, long hair to the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from hp_sdk.domains import load_domain

DOMAINS = ("pascal", "atr", "cihp", "lip", "ccp")
ATOMS = (
    "scalp", "face", "neck", "chest", "pelvis", "uarmL", "uarmR", "larmL", "larmR",
    "handL", "handR", "ulegL", "ulegR", "llegL", "llegR", "footL", "footR", "held",
)  # fmt: skip

_PASCAL = {
    "scalp": "head", "face": "head", "neck": "head", "chest": "torso", "pelvis": "torso",
    "uarm": "upper-arms", "larm": "lower-arms", "hand": "lower-arms", "uleg": "upper-legs",
    "lleg": "lower-legs", "foot": "lower-legs", "held": "background",
}  # fmt: skip

Rule = str | Mapping[str, str]
_ARM = {"uarm": "{side}-arm", "larm": "{side}-arm", "hand": "{side}-arm"}
_LEG = {"uleg": "{side}-leg", "lleg": "{side}-leg", "foot": "{side}-leg"}
_LIMBS = {**_ARM, **_LEG, "face": "face", "scalp": "face"}
_SPLIT = {"pelvis": "pants", "uleg": "pants", "lleg": "pants", "": "upper-clothes"}


def _like(ccp: str, name: str) -> tuple[Rule, Rule, Rule, Rule]:
    return name, name, name, ccp


# garment -> its name in (atr, cihp, lip, ccp); a mapping goes by atom, without side, "" = the rest.
GARMENTS: dict[str, tuple[Rule, Rule, Rule, Rule]] = {
    "skin": (
        {**_LIMBS, "": "face"},
        {**_LIMBS, "": "torso-skin"},
        {**_LIMBS, "": "background"},
        "skin",
    ),
    "hair": _like("hair", "hair"),
    "hat": _like("hat", "hat"),
    "sunglasses": _like("sunglasses", "sunglasses"),
    "scarf": _like("scarf", "scarf"),
    "gloves": (_ARM, "glove", "glove", "gloves"),
    "socks": (_LEG, "socks", "socks", "socks"),
    "stockings": (_LEG, "socks", "socks", "stockings"),
    "bag": ("bag", "background", "background", "bag"),
    "romper": (_SPLIT, _SPLIT, "jumpsuits", "romper"),
    "skirt": _like("skirt", "skirt"),
    "dress": _like("dress", "dress"),
    **{
        name: _like(name, "upper-clothes")
        for name in ("t-shirt", "shirt", "blouse", "sweater", "sweatshirt", "hoodie", "top")
    },
    **{
        name: ("upper-clothes", "coat", "coat", name)
        for name in ("coat", "jacket", "blazer", "cardigan")
    },
    **{name: _like(name, "pants") for name in ("pants", "jeans", "leggings", "shorts")},
    **{
        name: _like(name, "{side}-shoe")
        for name in ("shoes", "sneakers", "boots", "heels", "sandals", "flats")
    },
    **{
        f"belt on {name}": ("belt", name, name, "belt")
        for name in ("pants", "skirt", "dress", "coat", "jumpsuits")
    },
}  # fmt: skip
GARMENTS["belt on jumpsuits"] = ("belt", "pants", "jumpsuits", "belt")
_INDEX = {name: position for position, name in enumerate(GARMENTS)}
_ATOM_INDEX = {name: position for position, name in enumerate(ATOMS)}


def code_of(atom: str, garment: str) -> int:
    """The number under which a pair is painted; 0 is left to the background."""
    return 1 + _INDEX[garment] * len(ATOMS) + _ATOM_INDEX[atom]


def name_of(domain: str, atom: str, garment: str) -> str:
    """What `domain` calls `garment` worn on `atom`."""
    side = {"L": "left", "R": "right"}.get(atom[-1], "")
    stem = atom[:-1] if side else atom
    if domain == "pascal":
        return "background" if garment == "bag" else _PASCAL[stem]
    rule = GARMENTS[garment][DOMAINS.index(domain) - 1]
    if not isinstance(rule, str):
        rule = rule.get(stem, rule.get("", "background"))
    return rule.format(side=side) if side or "{" not in rule else "background"


@lru_cache(maxsize=1)
def label_tables() -> dict[str, np.ndarray]:
    """For every domain the (codes,) uint8 table from painted code to label id."""
    return {name: _label_table(name) for name in DOMAINS}


def _label_table(name: str) -> np.ndarray:
    labels = [name_of(name, atom, garment) for garment in GARMENTS for atom in ATOMS]
    domain = load_domain(name)
    ids = {label: domain.index(label) for label in set(labels)}
    return np.array([0, *(ids[label] for label in labels)], np.uint8)
