"""Test-time augmentation: several views of one photo, one answer.

A mirrored view is answered with left and right exchanged, so its classes are swapped back by the
domain's flip pairs before they are averaged.  All views meet in source geometry, where the merged
answer to a mirrored photo is exactly the mirrored answer, whatever the network.

Source: Graphonomy and SCHP average logits, mmsegmentation averages probabilities.  Here
probabilities are formed on the network's grid, so that memory does not grow with the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from hp_sdk.preprocess import Geometry, fit

_LOGITS_FAMILIES = ("sst",)
_SCALES = (1.0, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class TTA:
    """Which views of a photo are asked and how their answers are averaged."""

    scales: tuple[float, ...] = (1.0,)
    """Size of the photo inside the network's fixed input, above 0 up to 1."""
    flip: bool = False
    """Ask each scale a second time, mirrored."""
    average: Literal["logits", "probs"] = "logits"

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ConfigError(f"scales are {self.scales}; allowed are numbers above 0, up to 1")
        if self.average not in ("logits", "probs"):
            raise ConfigError(f"average is {self.average!r}; allowed are 'logits' and 'probs'")

    def __str__(self) -> str:
        if self.num_views == 1 and self.scales == (1.0,):
            return "none"
        scales = ",".join(f"{scale:g}" for scale in self.scales)
        return f"scales {scales}{' + flip' if self.flip else ''}, mean {self.average}"

    @property
    def num_views(self) -> int:
        """Network inputs per photo."""
        return len(self.scales) * (1 + self.flip)


@dataclass(frozen=True, slots=True)
class FittedView:
    """One network input (1, h, w, 3) uint8 RGB of a photo."""

    pixels: Pixels
    geometry: Geometry
    mirrored: bool


TTA_NAMES = ("none", "flip", "ms", "ms+flip")


def choose_tta(tta: TTA | str | None, *, family: str) -> TTA:
    """A TTA as it is, or one by name, averaging what the family's authors average.

    Raises:
        ConfigError: no such name.
    """
    if isinstance(tta, TTA):
        return tta
    name = tta or "none"
    if name not in TTA_NAMES:
        raise ConfigError(f"no tta {name!r}; there are {', '.join(TTA_NAMES)}")
    return TTA(
        scales=_SCALES if name.startswith("ms") else (1.0,),
        flip=name.endswith("flip"),
        average="logits" if family in _LOGITS_FAMILIES else "probs",
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
    logits: NDArray[np.floating[Any]],
    domain: Domain,
    tta: TTA,
) -> list[View]:
    """The answers (V, K, h, w) to `fitted`, ready for `merged_labels`.

    The classes of mirrored views are swapped back, and become probabilities if asked for.
    """
    scores = softmax(logits) if tta.average == "probs" and len(fitted) > 1 else logits
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
