"""What is parsed while the clock runs: the caller's photos, or figures drawn here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from hp_sdk.image import Pixels, load_image

DRAWN_HW = (1024, 768)
"""Size of drawn pictures unless another is asked for."""
_DRAWN = 4
_DRAWN_VERSION = "drawn 1"
_JPEG_QUALITY = 90
_SKINS = ((236, 200, 176), (205, 160, 130), (141, 92, 66), (82, 54, 42))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSet:
    """Encoded photos, parsed one after another."""

    title: str
    identity: str
    """Equal for the same pictures; that of drawn ones does not hang on who encoded them."""
    size_hw: tuple[int, int] | None
    """None: each has its own."""
    files: tuple[bytes, ...]

    @property
    def size(self) -> str:
        """HEIGHTxWIDTH."""
        return "own size" if self.size_hw is None else f"{self.size_hw[0]}x{self.size_hw[1]}"


def photo_sets(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]] = ()
) -> tuple[PhotoSet, ...]:
    """One set per size; without paths of drawn figures, without sizes as the files are.

    Raises:
        InputError: a file is no photo.
    """
    if not paths:
        return tuple(_drawn(size_hw) for size_hw in sizes or (DRAWN_HW,))
    photos = [load_image(path) for path in paths]
    own = _given(paths, photos)
    return tuple(_resized(own, photos, size_hw) for size_hw in sizes) or (own,)


def _given(paths: Sequence[Path], photos: Sequence[Pixels]) -> PhotoSet:
    """The files as they are."""
    files = tuple(path.read_bytes() for path in paths)
    digest = hashlib.sha256(b"".join(hashlib.sha256(file).digest() for file in files))
    sizes = {(photo.shape[0], photo.shape[1]) for photo in photos}
    return PhotoSet(
        title=", ".join(path.name for path in paths),
        identity=digest.hexdigest(),
        size_hw=sizes.pop() if len(sizes) == 1 else None,
        files=files,
    )


def _resized(own: PhotoSet, photos: Sequence[Pixels], size_hw: tuple[int, int]) -> PhotoSet:
    """The same photos as JPEG files of another size; their proportions follow it."""
    shrunk = [cv2.resize(each, size_hw[::-1], interpolation=cv2.INTER_AREA) for each in photos]
    files = tuple(_encoded(np.asarray(each, np.uint8)) for each in shrunk)
    return replace(own, title=f"{own.title} resized", size_hw=size_hw, files=files)


def _encoded(photo: Pixels) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _drawn(size_hw: tuple[int, int]) -> PhotoSet:
    return PhotoSet(
        title=f"{_DRAWN} drawn figures",
        identity=_DRAWN_VERSION,
        size_hw=size_hw,
        files=tuple(_encoded(draw_figure(size_hw, seed=seed)) for seed in range(_DRAWN)),
    )


def draw_figure(size_hw: tuple[int, int], *, seed: int) -> Pixels:
    """One person of ellipses and bars before a cloudy wall, (H, W, 3) uint8 RGB."""
    random = np.random.default_rng(seed)
    picture = _clouds(size_hw, random)
    tall = random.uniform(0.7, 0.95) * size_hw[0]
    top, middle = 0.96 * size_hw[0] - tall, random.uniform(0.4, 0.6) * size_hw[1]
    shirt, trousers, hair = (tuple(int(c) for c in random.integers(20, 236, 3)) for _ in range(3))
    skin = _SKINS[seed % len(_SKINS)]

    def at(x: float, y: float) -> tuple[int, int]:
        return round(middle + x * tall), round(top + y * tall)

    def bar(start: tuple[float, float], end: tuple[float, float], colour: Sequence[int]) -> None:
        width = max(1, round(0.07 * tall))
        cv2.line(picture, at(*start), at(*end), colour, width, cv2.LINE_AA)

    swing = random.uniform(0.0, 0.12)
    for side in (-1, 1):
        bar((side * 0.05, 0.55), (side * (0.06 + swing), 0.95), trousers)
        bar((side * 0.12, 0.24), (side * (0.17 + swing), 0.40), shirt)
        bar((side * (0.17 + swing), 0.40), (side * (0.15 + 2 * swing), 0.53), skin)
    cv2.rectangle(picture, at(-0.11, 0.20), at(0.11, 0.56), shirt, -1)
    for y, radius, colour in ((0.09, 0.075, hair), (0.11, 0.055, skin)):
        axes = max(1, round(radius * tall)), max(1, round(1.2 * radius * tall))
        cv2.ellipse(picture, at(0, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
    grain = random.integers(-8, 9, (*size_hw, 1), np.int16)  # a photo is never flat
    return np.clip(picture + grain, 0, 255).astype(np.uint8)


def _clouds(size_hw: tuple[int, int], random: np.random.Generator) -> Pixels:
    coarse = random.integers(60, 220, (9, 7, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
