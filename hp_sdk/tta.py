"""Test-time augmentation: several views of one photo, one answer.

A mirrored view is answered with left and right exchanged, so its classes are swapped back by the
domain's flip pairs before they are averaged.  All views meet in source geometry, where the merged
answer to a mirrored photo is exactly the mirrored answer, whatever the network.  A view larger than
the network's input is asked window by window (`hp_sdk.windows`).

Sources: Graphonomy, exp/test/eval_*.py (six scales) and SCHP average logits; SCHNet,
arXiv:2503.22237 (four scales) and mmsegmentation average probabilities.  Here probabilities are
formed on the network's grid, so that memory does not grow with the photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_sdk.image import Pixels
from hp_sdk.planes import View
from hp_sdk.preprocess import LARGEST_SCALE, Geometry, fit

_LOGITS_FAMILIES = ("sst",)
_SCALES = {
    "": (1.0,),
    "ms": (1.0, 0.75),
    "graphonomy": (1.0, 0.5, 0.75, 1.25, 1.5, 1.75),
    "schnet": (1.0, 0.75, 1.25, 1.5),
}
"""Name → sizes of the photo, the plain one first: a cheap set, and those of the papers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TTA:
    """Which views of a photo are asked and how their answers are averaged."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes of the photo, times its plain one, above 0 up to 4.  The network's input is fixed:
    below 1 the photo fills a part of it, above 1 it is read through windows."""
    flip: bool = False
    """Ask each scale a second time, mirrored."""
    average: Literal["logits", "probs"] = "logits"

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise ConfigError(
                f"scales are {self.scales}; allowed are numbers above 0, up to {LARGEST_SCALE:g}"
            )
        if self.average not in ("logits", "probs"):
            raise ConfigError(f"average is {self.average!r}; allowed are 'logits' and 'probs'")

    def __str__(self) -> str:
        if self.num_views == 1 and self.scales == (1.0,):
            return "none"
        scales = ",".join(f"{scale:g}" for scale in self.scales)
        return f"scales {scales}{' + flip' if self.flip else ''}, mean {self.average}"

    @property
    def num_views(self) -> int:
        """Pictures per photo: network inputs, where none is larger than one window."""
        return len(self.scales) * (1 + self.flip)


@dataclass(frozen=True, slots=True)
class FittedView:
    """One network input (1, h, w, 3) uint8 RGB of a photo, or a larger canvas of windows."""

    pixels: Pixels
    geometry: Geometry
    mirrored: bool


TTA_NAMES = ("none", "flip", "ms", "ms+flip")
PAPER_NAMES = ("graphonomy", "graphonomy+flip", "schnet", "schnet+flip")
"""What the authors did: SST's follow Graphonomy and average logits, SCHNet's probabilities."""


def choose_tta(tta: TTA | str | None, *, family: str) -> TTA:
    """A TTA as it is, or one by name, averaging what the family's or the set's authors average.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(tta, TTA):
        return tta
    name = tta or "none"
    if name not in (*TTA_NAMES, *PAPER_NAMES):
        raise ConfigError(f"no tta {name!r}; there are {', '.join((*TTA_NAMES, *PAPER_NAMES))}")
    views = name.removeprefix("none").removesuffix("flip").removesuffix("+")
    averages_logits = {"graphonomy": True, "schnet": False}.get(views, family in _LOGITS_FAMILIES)
    return TTA(
        scales=_SCALES[views],
        flip=name.endswith("flip"),
        average="logits" if averages_logits else "probs",
    )


def fit_views(image: Pixels, spec: InputSpec, tta: TTA) -> list[FittedView]:
    """The network inputs to ask about one photo (H, W, 3), the plain one first."""
    photos = [(image, False)]
    if tta.flip:
        photos.append((np.asarray(cv2.flip(image, 1), np.uint8), True))
    return [
        FittedView(*fit(photo, spec, content_scale=scale), mirrored)
        for scale in tta.scales
        for photo, mirrored in photos
    ]


def merge_views(
    fitted: Sequence[FittedView],
    logits: Iterable[NDArray[np.floating[Any]]],
    domain: Domain,
    tta: TTA,
) -> list[View]:
    """The answers to `fitted`, one (K, h, w) for each, ready for `merged_labels`.

    The classes of mirrored views are swapped back, and become probabilities if asked for.
    """
    as_probs = tta.average == "probs" and len(fitted) > 1
    scores = (softmax(each[np.newaxis])[0] if as_probs else each for each in logits)
    return [
        View(plane[domain.flip_perm] if view.mirrored else plane, view.geometry, view.mirrored)
        for view, plane in zip(fitted, scores, strict=True)
    ]


def are_logits(tta: TTA) -> bool:
    """Whether the views of `merge_views` hold logits, not probabilities."""
    return tta.average == "logits" or tta.num_views == 1


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Probabilities over the classes of (V, K, h, w)."""
    shifted = np.asarray(logits, np.float32) - logits.max(axis=1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=1, keepdims=True)
    return shifted
