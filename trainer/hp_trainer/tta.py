"""Test-time augmentation of a network that takes inputs of any size, such as a torch network.

    photo ─ each scale: fit into the scaled input, plain and mirrored ─► network ─► View, ...
                                                                                     │
                                        label map ◄─ merged_labels, class by class ◄─┘

Fitting, windows, the swap of left and right, and the merge in source geometry are those of
`hp_sdk`. A "shortest-side" photo is read through windows of the network's input, as in a bundle.
What is kept of a view are its scores on the network's own grid, so the memory does not grow
with the photo.

Sources: Graphonomy, exp/test/eval_*.py (six scales, logits); SCHNet, arXiv:2503.22237 (four
scales, probabilities).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_sdk.image import Pixels
from hp_sdk.planes import View
from hp_sdk.preprocess import LARGEST_SCALE
from hp_sdk.tta import TTA, FittedView, choose_tta, fit_views, merge_views, softmax
from hp_sdk.windows import Mosaic, corners, window_of

MULTIPLE = 32
"""Sides of network inputs are multiples of this; scaled ones are rounded up to one."""


_GRAPHONOMY = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75)

SCALES: dict[str, tuple[float, ...]] = {
    "sst": _GRAPHONOMY,
    "graphonomy": _GRAPHONOMY,
    "schnet": (0.75, 1.0, 1.25, 1.5),
}
"""Scales of the papers, by family of network and by name."""

Ask = Callable[[Pixels], NDArray[np.floating[Any]]]
"""Network inputs (N, h, w, 3) uint8 RGB → logits (N, K, h/4, w/4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTTA:
    """Which views of a photo are asked and how their answers are averaged."""

    scales: tuple[float, ...] = (1.0,)
    """Sides of the network's input, relative to its usual ones."""
    flip: bool = False
    """Ask each scale a second time, mirrored, in one batch of two."""
    average: Literal["logits", "probs"] = "logits"

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            given = ", ".join(f"{scale:g}" for scale in self.scales) or "empty"
            raise ConfigError(
                f"scales are {given}; allowed are numbers above 0, up to {LARGEST_SCALE:g}"
            )
        if self.average not in ("logits", "probs"):
            raise ConfigError(f"average is {self.average!r}; allowed are 'logits' and 'probs'")

    @property
    def num_views(self) -> int:
        """Network inputs per photo."""
        return len(self.scales) * (1 + self.flip)


PLAIN = NetworkTTA()
"""The photo as it is, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TTAChoice:
    """What a user asked for; what is left empty is what the authors of the family do."""

    name: str = "none"
    scales: tuple[float, ...] = ()
    average: str = ""

    def for_network(self, family: str) -> NetworkTTA:
        """The views of a torch network.

        Raises:
            ConfigError: unknown name, or a setting that would have no effect or is not allowed.
        """
        base = self._base(family)
        scales = SCALES.get(family, _GRAPHONOMY) if self._multi_scale else base.scales
        return NetworkTTA(
            scales=self.scales or scales,
            flip=base.flip,
            average=self.average or base.average,  # type: ignore[arg-type]
        )

    def for_bundle(self, family: str) -> TTA:
        """The views of a bundle, whose input has one size; larger scales are read through windows.

        Raises:
            ConfigError: as above.
        """
        base = self._base(family)
        return TTA(
            scales=self.scales or base.scales,
            flip=base.flip,
            average=self.average or base.average,  # type: ignore[arg-type]
        )

    @property
    def _multi_scale(self) -> bool:
        return "ms" in self.name.split("+")

    def _base(self, family: str) -> TTA:
        base = choose_tta(self.name, family=family)
        if self.scales and not self._multi_scale:
            raise ConfigError(f"scales have no effect with tta {self.name!r}; use ms or ms+flip")
        if self.average and base.num_views == 1:
            raise ConfigError("average has no effect on one view; use tta flip, ms or ms+flip")
        return base


def view_scores(
    image: Pixels, spec: InputSpec, tta: NetworkTTA, domain: Domain, ask: Ask
) -> list[View]:
    """Ask the network about every view of a photo (H, W, 3), one scale after the other.

    The views hold logits or probabilities on the network's grid, left and right swapped back,
    ready for `hp_sdk.postprocess.merged_labels`.
    """
    plain = TTA(flip=tta.flip)
    views: list[View] = []
    for scale in tta.scales:
        size_spec, content = _at_scale(spec, scale)
        fitted = fit_views(image, size_spec, replace(plain, scales=(content,)))
        logits = _through_windows(fitted, size_spec, ask)  # (1 or 2, K, h/4, w/4)
        as_probs = tta.average == "probs" and tta.num_views > 1
        views += merge_views(fitted, softmax(logits) if as_probs else logits, domain, plain)
    return views


def _at_scale(spec: InputSpec, scale: float) -> tuple[InputSpec, float]:
    """The network's input at a scale of the photo, and the scale of the photo within it.

    The input grows with the photo, except where windows of one size are drawn over it.
    """
    if spec.resize == "shortest-side":
        return spec, scale
    return replace(spec, size_hw=scaled_hw(spec.size_hw, scale)), 1.0


def _through_windows(
    views: Sequence[FittedView], spec: InputSpec, ask: Ask
) -> NDArray[np.floating[Any]]:
    """Logits (V, K, h/4, w/4) of views of one size, each the mean over its windows."""
    mosaics = [Mosaic(view.geometry.network_hw, spec) for view in views]
    for corner in corners(views[0].geometry.network_hw, spec):
        answers = ask(np.concatenate([window_of(view.pixels, corner, spec) for view in views]))
        for mosaic, logits in zip(mosaics, answers, strict=True):
            mosaic.add(corner, logits)
    return np.stack([mosaic.mean() for mosaic in mosaics])


def scaled_hw(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Network input at a scale, each side rounded up to a multiple of 32; scale 1 is exact."""
    if scale == 1:
        return size_hw
    height, width = (MULTIPLE * ceil(side * scale / MULTIPLE - 1e-9) for side in size_hw)
    return height, width
