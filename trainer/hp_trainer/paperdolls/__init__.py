"""Paper dolls: made-up people with labels in all five domains that cannot contradict each other.

    doll = paper_doll(np.random.default_rng(0), (192, 192))
    doll.image, doll.labels["cihp"]

They serve the tests that must learn something within seconds, and teach a real network what left
and right mean. One painting of (body atom, garment) pairs yields the picture and all label maps;
`wardrobe` lists the conventions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hp_sdk.errors import InputError
from hp_trainer.paperdolls.body import Array, pick
from hp_trainer.paperdolls.canvas import Canvas
from hp_trainer.paperdolls.people import draw_people, paint_person
from hp_trainer.paperdolls.scene import draw_backdrop, draw_ground_shadow, draw_obstacle, expose

__all__ = ["Doll", "paper_doll", "write_dataset"]

_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Doll:
    """A made-up picture and what is in it."""

    image: Array
    """(H, W, 3) uint8 RGB."""
    labels: dict[str, Array]
    """Domain name -> (H, W) uint8 label map."""


def paper_doll(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    *,
    background: Array | None = None,
    people: int | None = None,
) -> Doll:
    """Paint a picture of paper-doll people; equal states of `rng` give equal pictures.

    Args:
        rng: source of all chance.
        size_hw: height and width of the picture, at least 16 each.
        background: (h, w, 3) uint8 RGB photo without people, of which a random part is used.
        people: how many; 1 to 3 by chance when None, 0 for a picture of nobody.

    Raises:
        InputError: `size_hw`, `background` or `people` is not allowed.
    """
    _check(size_hw, background, people)
    count = pick(rng, (1, 2, 3), (6, 3, 1)) if people is None else people
    backdrop = draw_backdrop(rng, size_hw, background)
    crowd = draw_people(rng, size_hw, count)
    canvas = Canvas(size_hw)
    for number, person in enumerate(crowd):
        draw_ground_shadow(backdrop, person.feet, unit=person.skeleton.unit)
        paint_person(canvas, person, number)
    if rng.random() < 0.3:
        draw_obstacle(rng, canvas)
    unit = max((person.skeleton.unit for person in crowd), default=size_hw[0])
    angle = rng.uniform(0, 2 * np.pi)
    light_xy = (float(np.cos(angle)), float(0.5 * np.sin(angle) - 0.5))
    image = canvas.picture(backdrop, light_xy=light_xy, depth=0.018 * float(unit))
    return Doll(expose(rng, image), canvas.labels())


def _check(size_hw: tuple[int, int], background: Array | None, people: int | None) -> None:
    if min(size_hw) < _SMALLEST:
        raise InputError(
            f"a paper doll of {size_hw[0]}x{size_hw[1]} pixels was asked for; both sides must be at"
            f" least {_SMALLEST}, so choose a larger size_hw"
        )
    if people is not None and people < 0:
        raise InputError(f"people={people} was given; give 0 or more, or None for 1 to 3 by chance")
    if background is not None and (
        background.ndim != 3 or background.shape[2] != 3 or background.dtype != np.uint8
    ):
        raise InputError(
            f"the background has shape {background.shape} and type {background.dtype}; give an RGB"
            " photo as a (h, w, 3) uint8 array"
        )


def write_dataset(
    root: str | Path,
    *,
    count: int,
    seed: int,
    size_hw: tuple[int, int],
    split: str = "train",
) -> Path:
    """Write `count` dolls in the neutral layout and return `root`.

    `root/images/<id>.png`, `root/labels/<id>.png` (CIHP), `root/labels_<domain>/<id>.png` for each
    domain, and the ids in `root/<split>.txt`, written last.  Doll `i` depends on `seed`, `split`
    and `i` only.
    """
    root = Path(root)
    names = []
    for index in range(count):
        rng = np.random.default_rng([seed, index, *split.encode()])
        doll = paper_doll(rng, size_hw)
        names.append(f"{split}_{index:06d}")
        _write_png(root / "images" / f"{names[-1]}.png", doll.image[..., ::-1])
        _write_png(root / "labels" / f"{names[-1]}.png", doll.labels["cihp"])
        for domain, label_map in doll.labels.items():
            _write_png(root / f"labels_{domain}" / f"{names[-1]}.png", label_map)
    root.mkdir(parents=True, exist_ok=True)
    _write(root / f"{split}.txt", "".join(f"{name}\n" for name in names).encode())
    return root


def _write_png(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    _write(path, data.tobytes())


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)  # noqa: PTH105
