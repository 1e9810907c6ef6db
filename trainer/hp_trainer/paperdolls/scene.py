"""What surrounds paper dolls: backgrounds, things in the way, light and the camera."""

from __future__ import annotations

import cv2
import numpy as np

from hp_trainer.paperdolls.body import Array, pick
from hp_trainer.paperdolls.canvas import Canvas
from hp_trainer.paperdolls.patterns import Colour, draw_colour, draw_material, swatch
from hp_trainer.paperdolls.shapes import capsule, ellipse


def draw_backdrop(rng: np.random.Generator, size_hw: tuple[int, int], photo: Array | None) -> Array:
    """(h, w, 3) uint8: a random cut of `photo` (H, W, 3), or a made-up cluttered place."""
    if photo is not None:
        return _cut_photo(rng, size_hw, photo)
    painters = (_paint_room, _paint_street, _paint_haze, _paint_studio)
    image = pick(rng, painters, (5, 5, 2, 2))(rng, size_hw)
    for _ in range(int(rng.integers(0, 14))):
        _paint_thing(rng, image)
    if rng.random() < 0.5:
        sigma = float(rng.uniform(0.5, 2.5))
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    return image


def _cut_photo(rng: np.random.Generator, size_hw: tuple[int, int], photo: Array) -> Array:
    h, w = size_hw
    share = rng.uniform(0.5, 1.0) * min(photo.shape[0] / h, photo.shape[1] / w)
    cut_h, cut_w = max(1, int(share * h)), max(1, int(share * w))
    y = int(rng.integers(0, photo.shape[0] - cut_h + 1))
    x = int(rng.integers(0, photo.shape[1] - cut_w + 1))
    cut = photo[y : y + cut_h, x : x + cut_w]
    method = cv2.INTER_AREA if share > 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(cut), (w, h), interpolation=method)


def _ramp(size_hw: tuple[int, int], top: Colour, bottom: Colour) -> Array:
    h, w = size_hw
    pair = np.array((top, bottom), np.float32)[:, None, :]
    ramp = cv2.resize(pair, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.clip(ramp, 0, 255).astype(np.uint8)


def _haze(rng: np.random.Generator, size_hw: tuple[int, int], cells: int) -> Array:
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def _paint_studio(rng: np.random.Generator, size_hw: tuple[int, int]) -> Array:
    grey = rng.uniform(90, 255)
    tint = rng.normal(0, 8, 3)
    return _ramp(size_hw, tuple(grey + tint), tuple(grey * rng.uniform(0.7, 1.1) + tint))


def _paint_haze(rng: np.random.Generator, size_hw: tuple[int, int]) -> Array:
    far = _haze(rng, size_hw, int(rng.integers(2, 7)))
    near = _haze(rng, size_hw, int(rng.integers(10, 60)))
    image = cv2.addWeighted(far, 0.8, near, 0.2, 0)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    vivid = float(rng.uniform(0.05, 0.8))
    return cv2.addWeighted(image, vivid, grey, 1 - vivid, 0)


def _paint_room(rng: np.random.Generator, size_hw: tuple[int, int]) -> Array:
    h, w = size_hw
    image = _ramp(size_hw, draw_colour(rng), draw_colour(rng))
    floor = int(h * rng.uniform(0.55, 0.95))
    _cover(rng, image[:floor], strength=rng.uniform(0, 0.5))
    image[floor:] = _ramp((max(h - floor, 1), w), draw_colour(rng), draw_colour(rng))[: h - floor]
    _cover(rng, image[floor:], strength=rng.uniform(0, 0.8))
    for _ in range(int(rng.integers(0, 4))):
        x, y = int(rng.integers(0, w)), int(rng.integers(0, max(floor, 1)))
        size = (int(rng.integers(8, w // 2 + 9)), int(rng.integers(8, h // 2 + 9)))
        cv2.rectangle(image, (x, y), (x + size[0], y + size[1]), draw_colour(rng), -1)
        cv2.rectangle(image, (x, y), (x + size[0], y + size[1]), draw_colour(rng), 2)
    return image


def _paint_street(rng: np.random.Generator, size_hw: tuple[int, int]) -> Array:
    h, w = size_hw
    light = rng.uniform(150, 255)
    image = _ramp(size_hw, (0.75 * light, 0.88 * light, light), (light, light, light))
    ground = int(h * rng.uniform(0.5, 0.9))
    x = -int(rng.integers(0, 30))
    while x < w:
        width = int(rng.integers(w // 10 + 2, w // 3 + 3))
        top = int(ground * rng.uniform(0.05, 0.9))
        block = image[top:ground, max(x, 0) : x + width]
        if block.size:
            block[:] = np.array(draw_colour(rng)).astype(np.uint8)
            _cover(rng, block, strength=rng.uniform(0.1, 0.7))
        x += width
    image[ground:] = (rng.uniform(60, 180) + rng.uniform(-30, 30, 3)).astype(np.uint8)
    _cover(rng, image[ground:], strength=rng.uniform(0, 0.5))
    return image


def _cover(rng: np.random.Generator, region: Array, *, strength: float) -> None:
    """Lay a random pattern over `region` (h, w, 3), in place."""
    if region.size == 0:
        return
    name = pick(
        rng, ("grain", "blotches", "check", "stripes", "plaid", "floral"), (3, 3, 2, 2, 1, 2)
    )
    weave = swatch(
        name, region.shape[:2], scale=float(rng.uniform(0.4, 3)), angle=float(rng.uniform(0, 3))
    )
    weight = weave[..., None] * np.float32(strength / 255)
    region[:] = np.uint8(region + weight * (np.array(draw_colour(rng), np.float32) - region))


def _paint_thing(rng: np.random.Generator, image: Array) -> None:
    """One shape of any colour, skin tones included, that is nobody."""
    h, w = image.shape[:2]
    colour = draw_colour(rng)
    if rng.random() < 0.2:
        colour = (rng.uniform(120, 240), rng.uniform(90, 200), rng.uniform(70, 170))
    x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
    size = np.exp(rng.uniform(np.log(3), np.log(w / 3 + 4), 2)).astype(np.int32)
    kind = int(rng.integers(0, 4))
    if kind == 0:
        cv2.ellipse(image, (x, y), size.tolist(), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    elif kind == 1:
        cv2.rectangle(image, (x, y), (x + int(size[0]), y + int(size[1])), colour, -1)
    elif kind == 2:
        points = rng.normal((x, y), size, (5, 2)).astype(np.int32)
        cv2.fillPoly(image, [points], colour, cv2.LINE_AA)
    else:
        end = (int(rng.integers(0, w)), int(rng.integers(0, h)))
        cv2.line(image, (x, y), end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)


def draw_ground_shadow(image: Array, feet_xy: Array, *, unit: float) -> None:
    """A soft dark patch under the feet, in place on `image` (h, w, 3) uint8."""
    h, w = image.shape[:2]
    x, y = (int(v) for v in feet_xy)
    reach = max(4, int(0.22 * unit))
    left, right = max(x - reach, 0), min(x + reach, w)
    top, bottom = max(y - reach // 3, 0), min(y + reach // 3, h)
    if left >= right or top >= bottom:
        return
    dx = (np.arange(left, right, dtype=np.float32) - x) / reach
    dy = (np.arange(top, bottom, dtype=np.float32) - y) / (reach / 3)
    dark = np.clip(1 - np.hypot(dx[None, :], dy[:, None]), 0, 1)[..., None]
    patch = image[top:bottom, left:right]
    patch[:] = np.uint8(patch * (1 - 0.45 * dark))


def draw_obstacle(rng: np.random.Generator, canvas: Canvas) -> None:
    """Something between camera and people: a table, a post, a ball or a plant."""
    h, w = canvas.size_hw
    material = draw_material(rng)
    piece = canvas.piece(0, material, ("thing", rng.random()))
    kind = pick(rng, ("table", "post", "ball", "plant", "scrap"), (3, 3, 3, 2, 3))
    x, y = rng.uniform(0, w), rng.uniform(0.1 * h, h)
    if kind == "table":
        top = rng.uniform(0.55, 0.92) * h
        left, right = np.sort(rng.uniform(-0.3, 1.3, 2)) * w
        canvas.fill(np.array(((left, top), (right, top), (right, h + 9), (left, h + 9))), piece)
    elif kind == "post":
        half = np.full(2, rng.uniform(0.008, 0.05) * w)
        canvas.fill(capsule(np.array((x, -9.0)), np.array((x + 5, h + 9.0)), half), piece)
    elif kind == "ball":
        radii = rng.uniform(0.03, 0.14, 2) * w
        canvas.fill(ellipse(np.array((x, y)), radii[0], radii[1]), piece)
    elif kind == "plant":
        for _ in range(7):
            tip = np.array((x, y)) + rng.normal(0, 0.13, 2) * w
            leaf = np.array((0.01, 0.025, 0.005)) * w
            canvas.fill(capsule(np.array((x, y)), tip, leaf), piece)
    else:
        canvas.fill(rng.normal((x, y), 0.09 * w, (4, 2)), piece)


def expose(rng: np.random.Generator, image: Array) -> Array:
    """(h, w, 3) uint8: light, lens and sensor applied to `image` float32 RGB 0..255."""
    h, w = image.shape[:2]
    corners = rng.uniform(0.75, 1.2) * (1 + rng.normal(0, 0.12, (2, 2, 1)))
    tint = 1 + rng.normal(0, 0.05, 3)
    light = (corners * tint).astype(np.float32)
    image = image * cv2.resize(light, (w, h), interpolation=cv2.INTER_LINEAR)
    grain = float(rng.uniform(0, 7)) * (rng.random() < 0.7)
    if grain:
        tile = swatch("grain", (h, w), scale=1.0, angle=float(rng.uniform(0, 3)))
        speckle = (tile - np.float32(127)) * np.float32(grain / 60)
        image += speckle[..., None]
    shot = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        shot = cv2.GaussianBlur(shot, (0, 0), float(rng.uniform(0.4, 1.3)))
    return shot
