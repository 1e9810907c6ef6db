"""Random scale, rotation, crop, flip and colour of one labelled image, in one warp.

Flipping mirrors the pixels and swaps left and right ids by the domain's table; folders of
pre-flipped labels are never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from hp_sdk.domains import Domain

IGNORED = 255
Sample = tuple[np.ndarray, dict[str, np.ndarray]]
"""Image (H, W, 3) uint8 RGB and label maps (H, W) uint8 by domain."""


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Training augmentation; scale, crop and flip default to the paper's (spec §2.10)."""

    crop_hw: tuple[int, int] = (512, 512)
    nominal_px: int = 0
    """Longer side at scale 1; 0 keeps the photograph's own size."""
    scale: tuple[float, float] = (0.5, 2.0)
    keep_ratio: bool = False
    """False draws two scales, one per axis, as Graphonomy does."""
    rotate_deg: float = 0.0
    person_crop: float = 0.0
    """Share of crops centred on a random labelled pixel; the others are uniform."""
    flip: float = 0.5
    colour: float = 0.0
    """Strength of brightness, contrast, saturation and colour-cast jitter, 0 to 1."""
    photometric: bool = False
    """Brightness ±32, contrast and saturation ×0.5 to 1.5, hue ±18 of 180, each on half of the
    images (SCHNet)."""
    grey: float = 0.0
    """Share of images turned to grey."""
    blur: float = 0.0
    """Share of blurred images."""
    cutout: float = 0.0
    """Share of images with one rectangle painted over (its labels are kept)."""
    cutmix: float = 0.0
    """Share of images with one rectangle, and its labels, of another image of the same set."""


def augment(
    sample: Sample, domains: Mapping[str, Domain], config: AugmentConfig, rng: np.random.Generator
) -> Sample:
    """One random view of `sample`: image (*crop_hw, 3) uint8, labels (*crop_hw), 255 outside."""
    image, labels = sample
    scale_xy = _draw_scale(image.shape[:2], config, rng)
    image, matrix = _shrink(image, scale_xy)
    warp = _view(image.shape[:2], matrix, labels, config, rng)
    crop_wh = (config.crop_hw[1], config.crop_hw[0])
    image = cv2.warpAffine(image, warp[0], crop_wh, flags=cv2.INTER_LINEAR)
    maps = {
        name: np.asarray(
            cv2.warpAffine(
                label, warp[1], crop_wh, flags=cv2.INTER_NEAREST, borderValue=(IGNORED,)
            ),
            np.uint8,
        )
        for name, label in labels.items()
    }
    if rng.random() < config.flip:
        image = np.ascontiguousarray(image[:, ::-1])
        maps = {name: domains[name].mirror(label) for name, label in maps.items()}
    return _recolour(image, config, rng), maps


def cut_mix(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """`sample` with a rectangle of `other`, of the same size and domains, in its place.

    Its sides are 30 to 70 % of the image's.

    Source: CutMix, arXiv:1905.04899, Section 3.
    """
    image, labels = sample
    size = np.array(image.shape[:2])
    sides = np.rint(size * rng.uniform(0.3, 0.7, 2)).astype(int)
    (y, x), (bottom, right) = (start := rng.integers(0, size - sides + 1)), start + sides
    cut = (slice(y, bottom), slice(x, right))
    image, labels = image.copy(), {name: label.copy() for name, label in labels.items()}
    image[cut] = other[0][cut]
    for name, label in labels.items():
        label[cut] = other[1][name][cut]
    return image, labels


def resized(sample: Sample, size_hw: tuple[int, int]) -> Sample:
    """Image (area average where it shrinks) and label maps (nearest neighbour) at another size."""
    image, labels = sample
    size = size_hw[::-1]
    way = cv2.INTER_AREA if size_hw[0] < image.shape[0] else cv2.INTER_LINEAR
    maps = {
        name: np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        for name, label in labels.items()
    }
    return np.asarray(cv2.resize(image, size, interpolation=way), np.uint8), maps


def _draw_scale(
    size_hw: tuple[int, ...], config: AugmentConfig, rng: np.random.Generator
) -> tuple[float, float]:
    base = config.nominal_px / max(size_hw) if config.nominal_px else 1.0
    low, high = np.log(config.scale)
    x, y = np.exp(rng.uniform(low, high, 2)) * base
    return (float(x), float(x)) if config.keep_ratio else (float(x), float(y))


def _shrink(
    image: np.ndarray, scale_xy: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Shrink by area averaging (a warp alone would alias); enlarging is left to the warp."""
    h, w = image.shape[:2]
    size = [max(1, round(n * min(s, 1.0))) for n, s in zip((w, h), scale_xy, strict=True)]
    if size != [w, h]:
        image = cv2.resize(image, (size[0], size[1]), interpolation=cv2.INTER_AREA)
    return image, (w * scale_xy[0] / size[0], h * scale_xy[1] / size[1])


def _view(
    shrunk_hw: tuple[int, ...],
    rest_xy: tuple[float, float],
    labels: Mapping[str, np.ndarray],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """2×3 matrices that take the shrunk image and the original labels to the crop."""
    crop = np.array(config.crop_hw[::-1], float)
    full = np.array([shrunk_hw[1] * rest_xy[0], shrunk_hw[0] * rest_xy[1]])
    label = next(iter(labels.values()))
    centre = _centre(full, crop, label, config, rng)
    angle = np.deg2rad(rng.uniform(-config.rotate_deg, config.rotate_deg))
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = crop / 2 - rotate @ centre
    matrices = []
    for size in ((shrunk_hw[1], shrunk_hw[0]), (label.shape[1], label.shape[0])):
        linear = rotate @ np.diag(full / np.array(size, float))
        # pixel centres: continuous coordinate = index + 0.5
        offset = shift + linear @ np.array([0.5, 0.5]) - 0.5
        matrices.append(np.column_stack([linear, offset]))
    return matrices[0], matrices[1]


def _centre(
    full: np.ndarray,
    crop: np.ndarray,
    label: np.ndarray,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Centre of the crop in scaled coordinates (x, y). Images smaller than the crop float in it."""
    low, high = np.minimum(crop, full) / 2, np.maximum(full - crop / 2, full / 2)
    uniform = rng.uniform(np.minimum(low, high), np.maximum(low, high))
    if rng.random() >= config.person_crop:
        return uniform
    rows, columns = np.nonzero((label > 0) & (label != IGNORED))
    if not len(rows):
        return uniform
    pick = rng.integers(len(rows))
    at = np.array([columns[pick] / label.shape[1], rows[pick] / label.shape[0]]) * full
    at = at + rng.uniform(-0.25, 0.25, 2) * crop
    return np.clip(at, np.minimum(low, high), np.maximum(low, high))


def _recolour(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    if config.colour:
        image = _jitter(image, config.colour, rng)
    if config.photometric:
        image = _distort(image, rng)
    if rng.random() < config.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < config.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < config.cutout:
        h, w = image.shape[:2]
        y, x = rng.integers(0, h), rng.integers(0, w)
        half = rng.integers(4, max(5, min(h, w) // 5), 2)
        colour = rng.integers(0, 256, 3)
        image[max(0, y - half[0]) : y + half[0], max(0, x - half[1]) : x + half[1]] = colour
    return image


def _jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    saturation = 1 + strength * rng.uniform(-0.6, 0.6)
    image = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
    gamma = np.exp(strength * rng.uniform(-0.4, 0.4))
    gain = np.exp(strength * (rng.uniform(-0.3, 0.3) + rng.uniform(-0.12, 0.12, 3)))
    offset = strength * rng.uniform(-24, 24)
    levels = 255 * (np.arange(256) / 255) ** gamma
    table = np.clip((levels[:, None] - 128) * gain + 128 + offset, 0, 255).astype(np.uint8)
    return cv2.LUT(image, table.reshape(1, 256, 3))


def _distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photometric distortion in the numbers and the order of SSD (arXiv:1512.02325)."""
    low, high, none = (-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18), (0, 1, 1, 0)
    values = np.where(rng.random(4) < 0.5, rng.uniform(low, high), none)
    offset, contrast, chroma, turn = (float(value) for value in values)
    contrast_first = rng.random() < 0.5
    image = _linear(image, contrast if contrast_first else 1.0, offset)
    image = _turn_hue(image, chroma, round(turn))
    return image if contrast_first else _linear(image, contrast)


def _turn_hue(image: np.ndarray, chroma: float, turn: int) -> np.ndarray:
    """Saturation times `chroma`, hue plus `turn`, of which 180 are a full circle."""
    if chroma == 1 and not turn:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 180
    hsv[..., 1] = _linear(hsv[..., 1], chroma)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _linear(values: np.ndarray, gain: float, offset: float = 0.0) -> np.ndarray:
    """(values + offset) · gain, rounded, in 0..255."""
    return np.clip(np.rint((values + np.float32(offset)) * gain), 0, 255).astype(np.uint8)
