"""People cut out of one labelled set and pasted onto the photographs of another.

    person (labels a)  ─ flip, scale, shift ─┐
                                             ├ image and labels a + b of the place
    place  (labels b)  ──────────────────────┘

A person who is alone in front of a plain wall so turns up among other people, at other sizes, cut
off by the frame. Where the place shows its own people, what their labels a are is unknown (255);
where a person was pasted, labels b are. In a domain that both are labelled in, both are known.

Source: Simple Copy-Paste, arXiv:2012.07177, Section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import cv2
import numpy as np

from hp_sdk.domains import Domain
from hp_trainer.augment import IGNORED, Sample, resized

MOST = 3
"""People pasted into one picture, at most."""
HEIGHT = (0.4, 2.7)
"""Height of what is pasted, the people of one photograph, relative to the place."""
ENLARGED = 2.5
"""How many times as large as they are people are pasted, at most."""
GAIN = 0.2
"""Change of a pasted person's brightness, either way."""


class Samples(Protocol):
    """Labelled images; `hp_trainer.data.SampleSet` with nothing but what is needed here."""

    domains: tuple[str, ...]

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Image (H, W, 3) uint8 RGB and its label maps by domain."""
        ...


class CollageSet:
    """Places with one to three people pasted in, drawn anew for every draw.

    Args:
        people: photographs whose labels are background wherever nobody belongs to the person.
        places: photographs with labels of their own, in the same or in other domains.
        domains: domains of the people's labels by name, for their left and right.
    """

    def __init__(self, people: Samples, places: Samples, domains: Mapping[str, Domain]) -> None:
        self.people, self.places, self._mirrors = people, places, domains
        self.domains = tuple(dict.fromkeys((*people.domains, *places.domains)))

    def __len__(self) -> int:
        return len(self.people)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """A random place with person `index` in it, in front of up to two others."""
        image, own = self.places.load(int(rng.integers(len(self.places))), rng)
        image, own = image.copy(), {name: label.copy() for name, label in own.items()}
        around = next(iter(own.values()))
        unknown = np.where(around == 0, 0, IGNORED).astype(np.uint8)
        maps = {name: own.pop(name, unknown.copy()) for name in self.people.domains}
        others = rng.integers(len(self.people), size=rng.integers(0, MOST))
        for each in (*others, index):
            person = _cut_out(self.people.load(int(each), rng))
            if person is not None:
                self._paste(image, maps, own, person, rng)
        return image, {**maps, **own}

    def _paste(
        self,
        image: np.ndarray,
        maps: Mapping[str, np.ndarray],
        own: Mapping[str, np.ndarray],
        person: Sample,
        rng: np.random.Generator,
    ) -> None:
        scale, mirrored = _scale(person[0], image, rng), bool(rng.random() < 0.5)
        there, (pixels, labels) = _seen(person, scale, image, rng, mirrored=mirrored)
        if mirrored:
            pixels = pixels[:, ::-1]
            labels = {name: self._mirrors[name].mirror(label) for name, label in labels.items()}
        alpha = cv2.blur(body(list(labels.values())).astype(np.float32), (3, 3))
        gain = np.float32(1 + rng.uniform(-GAIN, GAIN))
        mixed = image[there] + alpha[..., None] * (pixels * gain - image[there])
        image[there] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
        inside = alpha >= 0.5
        for name, label in labels.items():
            maps[name][there][inside] = label[inside]
        for label in own.values():
            label[there][inside] = IGNORED


def body(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Where any of the label maps (H, W) says person: bool (H, W).

    What one domain calls background, such as a bag, may be a class of another.
    """
    return np.any([(label > 0) & (label != IGNORED) for label in labels], 0)


def _cut_out(sample: Sample) -> Sample | None:
    """The smallest rectangle that holds all people; nothing where there are none."""
    image, labels = sample
    where = body(list(labels.values()))
    if not where.any():
        return None
    part = tuple(
        slice(int(line[0]), int(line[-1]) + 1)
        for line in (np.flatnonzero(where.any(axis)) for axis in (1, 0))
    )
    return image[part], {name: label[part] for name, label in labels.items()}


def _scale(person: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> float:
    low, high = np.log(HEIGHT)
    wanted = float(np.exp(rng.uniform(low, high))) * place.shape[0] / person.shape[0]
    return min(wanted, ENLARGED)


def _seen(
    person: Sample, scale: float, place: np.ndarray, rng: np.random.Generator, *, mirrored: bool
) -> tuple[tuple[slice, slice], Sample]:
    """Where the scaled person comes to lie in the place, and the part of it that shows there.

    Only that part is resized: most of an enlarged person lies outside. Of a person that will be
    `mirrored` it is the part on the other side.
    """
    image, labels = person
    h, w = image.shape[:2]
    there, (rows, columns) = _overlap((round(h * scale), round(w * scale)), place.shape[:2], rng)
    first, last = columns.start / scale, columns.stop / scale
    if mirrored:
        first, last = w - last, w - first
    part = (
        slice(int(rows.start / scale), math.ceil(rows.stop / scale)),
        slice(max(0, int(first)), math.ceil(last)),
    )
    cut: Sample = (image[part], {name: label[part] for name, label in labels.items()})
    return there, resized(cut, (rows.stop - rows.start, columns.stop - columns.start))


def _overlap(
    person_hw: tuple[int, ...], place_hw: tuple[int, ...], rng: np.random.Generator
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the place, and those of the person that come to lie there.

    The person's middle lies inside, left to right; of who is too tall the upper half shows, as in
    most photographs.
    """
    left = round(rng.uniform(0.05, 0.95) * place_hw[1] - person_hw[1] / 2)
    above = 0.1 * person_hw[0] + 0.4 * max(0, person_hw[0] - place_hw[0])
    top = round(rng.uniform(-above, max(0, place_hw[0] - 0.5 * person_hw[0])))
    there, here = [], []
    for start, size, whole in zip((top, left), person_hw, place_hw, strict=True):
        first, last = max(0, start), min(whole, start + size)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    return (there[0], there[1]), (here[0], here[1])
