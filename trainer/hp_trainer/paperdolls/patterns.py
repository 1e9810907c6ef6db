"""Textures for cloth, objects and backgrounds: one bank of seamless tiles, made once."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hp_trainer.paperdolls.body import Array, pick

TILE = 128
PATTERNS = ("plain", "stripes", "pinstripes", "plaid", "check", "dots", "floral", "camouflage",
            "grain", "blotches", "ribs", "fade")  # fmt: skip
_ODDS = (46, 9, 4, 7, 3, 4, 5, 2, 9, 5, 4, 4)

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """How a surface looks: `colour` and, where the pattern is on, `second` (RGB 0..255).

    Materials are told apart by identity, which makes them cheap to look up.
    """

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    scale: float = 1.0
    angle: float = 0.0
    strength: float = 0.0
    folds: float = 0.0


def _periodic_noise(rng: np.random.Generator, cells: int) -> Array:
    """(TILE, TILE) smooth noise in 0..1 that wraps around, `cells` bumps wide."""
    coarse = np.pad(rng.random((cells, cells)), 2, mode="wrap").astype(np.float32)
    step = TILE // cells
    fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    fine = fine[2 * step : 2 * step + TILE, 2 * step : 2 * step + TILE]
    low, high = fine.min(), fine.max()
    return (fine - low) / (high - low)


@lru_cache(maxsize=1)
def tiles() -> dict[str, Array]:
    """Pattern name -> (TILE, TILE) uint8 weight of the second colour; always the same tiles."""
    rng = np.random.default_rng(20231)
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    bars = ((x % 16) < 7).astype(np.float32)
    crossbars = ((y % 16) < 7).astype(np.float32)
    thin = ((x % 32) < 3) | ((y % 32) < 3)
    dots = np.hypot((x + 8 * (y // 16 % 2)) % 16 - 8, y % 16 - 8) < 4
    blotches = 0.6 * _periodic_noise(rng, 8) + 0.4 * _periodic_noise(rng, 16)
    waves = 0.5 + 0.5 * np.sin(x * (2 * np.pi / 8) + 3 * _periodic_noise(rng, 4))
    grains = {
        "stripes": bars,
        "pinstripes": ((x % 16) < 3).astype(np.float32),
        "plaid": np.maximum(0.45 * (bars + crossbars), thin.astype(np.float32)),
        "check": (bars != crossbars).astype(np.float32),
        "dots": dots.astype(np.float32),
        "floral": (_periodic_noise(rng, 16) > 0.62).astype(np.float32),
        "camouflage": np.floor(3 * _periodic_noise(rng, 8)) / 2,
        "grain": rng.random((TILE, TILE)).astype(np.float32),
        "blotches": blotches,
        "ribs": waves,
        "fade": 0.5 - 0.5 * np.cos(y * (2 * np.pi / TILE)),
        "folds": 0.7 * _periodic_noise(rng, 4) + 0.3 * _periodic_noise(rng, 8),
    }
    return {name: (255 * np.clip(tile, 0, 1)).astype(np.uint8) for name, tile in grains.items()}


def swatch(name: str, size_hw: tuple[int, int], *, scale: float, angle: float) -> Array:
    """(h, w) uint8 cut from the endless pattern `name`.

    `scale` is pixels per tile pixel; it and `angle` (radians) are rounded to a few steps, so that
    the cuts can be kept.
    """
    h, w = size_hw
    side = 256 * -(-max(h, w) // 256)
    steps = round(3 * float(np.log2(max(scale, 1e-3)))), round(angle * 12 / np.pi) % 24
    return _cut(name, side, steps)[:h, :w]


@lru_cache(maxsize=512)
def _cut(name: str, side: int, steps: tuple[int, int]) -> Array:
    """(side, side) of a pattern scaled by 2**(steps[0]/3) and turned by steps[1] * 15 degrees."""
    scale, angle = 2.0 ** (steps[0] / 3), steps[1] * np.pi / 12
    c, s = np.cos(angle) / scale, np.sin(angle) / scale
    inverse = np.array([[c, s, 37.0 * angle], [-s, c, 53.0 * scale]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        tiles()[name], inverse, (side, side), flags=flags, borderMode=cv2.BORDER_WRAP
    )


def hsv_colour(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0..255 of hue, saturation and value in 0..1."""
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return 255.0 * red, 255.0 * green, 255.0 * blue


def draw_colour(rng: np.random.Generator) -> Colour:
    """A cloth colour: black, white, grey, navy and beige are as common as in real wardrobes."""
    kind = pick(rng, ("dark", "light", "grey", "navy", "earth", "free"), (20, 15, 10, 10, 13, 40))
    if kind == "dark":
        return hsv_colour(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.06, 0.2))
    if kind == "light":
        return hsv_colour(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.85, 1.0))
    if kind == "grey":
        return hsv_colour(rng.random(), rng.uniform(0, 0.08), rng.uniform(0.25, 0.75))
    if kind == "navy":
        return hsv_colour(rng.uniform(0.56, 0.66), rng.uniform(0.35, 0.75), rng.uniform(0.2, 0.6))
    if kind == "earth":
        return hsv_colour(rng.uniform(0.05, 0.12), rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.85))
    return hsv_colour(rng.random(), rng.uniform(0.3, 0.95), rng.uniform(0.3, 1.0))


def draw_material(
    rng: np.random.Generator, *, colour: Colour | None = None, plain: bool = False
) -> Material:
    """A cloth; `colour` fixes its main colour, `plain` forbids a loud pattern."""
    main = draw_colour(rng) if colour is None else colour
    pattern = pick(rng, PATTERNS, _ODDS)
    if plain and pattern not in {"plain", "grain", "ribs", "blotches"}:
        pattern = "plain"
    quiet = pattern in {"grain", "ribs", "blotches", "fade"} or rng.random() < 0.35
    return Material(
        colour=main,
        second=_shade(main, rng.uniform(0.5, 1.45)) if quiet else draw_colour(rng),
        pattern=pattern,
        scale=float(np.exp(rng.uniform(np.log(0.25), np.log(1.1)))),
        angle=pick(rng, (0.0, 1.5708, float(rng.uniform(0, 3.14))), (3, 3, 1)),
        strength=float(rng.uniform(0.35, 1.0)),
        folds=float(rng.uniform(0.3, 1.2)),
    )


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255.0, factor * channel + 4.0) for channel in colour)
    return red, green, blue


def shaded(material: Material, factor: float) -> Material:
    """The same cloth, lighter (`factor` > 1) or darker, without pattern."""
    return Material(colour=_shade(material.colour, factor), folds=material.folds)
