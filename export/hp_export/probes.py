"""Pictures to compare two networks on: deterministic, varied, needing no file.

Flat pictures show offsets, gradients show scale, noise and blocks show geometry; figures before
textures are nearest to photographs, whose energy falls with the square of the frequency too.
"""

from __future__ import annotations

import cv2
import numpy as np

from hp_sdk.image import Pixels

_SKIN, _SHIRT, _TROUSERS, _HAIR = (205, 160, 130), (40, 90, 170), (50, 50, 60), (60, 40, 25)


def probe_images(size_hw: tuple[int, int]) -> dict[str, Pixels]:
    """Name → (h, w, 3) uint8 RGB; the same on every machine."""
    return {
        "figure": figure(size_hw),
        "pair": pair(size_hw),
        "texture": texture(size_hw),
        "blocks": blocks(size_hw),
        "noise": noise(size_hw),
        "gradient": gradient(size_hw),
        "flat": flat(size_hw),
    }


def flat(size_hw: tuple[int, int]) -> Pixels:
    """Black above, white below."""
    picture = np.zeros((*size_hw, 3), np.uint8)
    picture[size_hw[0] // 2 :] = 255
    return picture


def noise(size_hw: tuple[int, int]) -> Pixels:
    """Every value independent."""
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def gradient(size_hw: tuple[int, int]) -> Pixels:
    """Red grows to the right, green downwards, blue to the upper left."""
    y, x = (np.linspace(0, 255, size).astype(np.uint8) for size in size_hw)
    red, green = np.broadcast_to(x, size_hw), np.broadcast_to(y[:, None], size_hw)
    return np.stack([red, green, 255 - np.maximum(red, green)], axis=-1)


def blocks(size_hw: tuple[int, int], *, count: int = 8) -> Pixels:
    """`count` by `count` squares of random colours."""
    colours = np.random.default_rng(1).integers(0, 256, (count, count, 3), np.uint8)
    rows, columns = (np.arange(size) * count // size for size in size_hw)
    return np.ascontiguousarray(colours[rows[:, None], columns[None]])


def texture(size_hw: tuple[int, int]) -> Pixels:
    """Noise with the spectrum of photographs, its colours mostly alike."""
    rng, (h, w) = np.random.default_rng(2), size_hw
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None]) + 1 / max(h, w)
    white = np.fft.rfft2(rng.normal(size=(4, h, w)))
    shared, *own = np.fft.irfft2(white / frequency, s=(h, w))
    planes = np.stack([shared + 0.4 * channel for channel in own], axis=-1)
    return np.clip(128 + 45 * planes / planes.std(), 0, 255).astype(np.uint8)


def pair(size_hw: tuple[int, int]) -> Pixels:
    """Two figures of different size before a texture, compressed as photographs are."""
    picture, (h, w) = texture(size_hw), size_hw
    for left, height in ((0, h), (w // 2, h * 2 // 3)):
        small = figure((height, w // 2))
        person = (cv2.absdiff(small, figure((height, w // 2), person=False)) > 0).any(axis=-1)
        window = picture[h - len(small) :, left : left + small.shape[1]]
        window[person] = small[person]
    _, packed = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def figure(size_hw: tuple[int, int], *, person: bool = True) -> Pixels:
    """A person of ellipses and bars who stands on a floor before a wall; or nobody."""
    h, w = size_hw
    picture = gradient(size_hw) // 4 + 120
    picture[h * 3 // 4 :] = (110, 95, 80)
    if not person:
        return picture

    def at(x: float, y: float) -> tuple[int, int]:
        return round(w / 2 + x * h), round(y * h)

    def bar(start: tuple[float, float], end: tuple[float, float], colour: tuple[int, ...]) -> None:
        cv2.line(picture, at(*start), at(*end), colour, max(1, round(0.08 * h)))

    for side in (-1, 1):
        bar((side * 0.06, 0.58), (side * 0.08, 0.92), _TROUSERS)
        bar((side * 0.13, 0.30), (side * 0.19, 0.46), _SHIRT)
        bar((side * 0.19, 0.46), (side * 0.17, 0.56), _SKIN)
    cv2.rectangle(picture, at(-0.12, 0.27), at(0.12, 0.60), _SHIRT, -1)
    head = (max(1, round(0.07 * h)), max(1, round(0.09 * h)))
    cv2.ellipse(picture, at(0, 0.14), head, 0, 0, 360, _HAIR, -1)
    cv2.ellipse(picture, at(0, 0.17), (head[0] * 3 // 4, head[1] * 3 // 4), 0, 0, 360, _SKIN, -1)
    return picture
