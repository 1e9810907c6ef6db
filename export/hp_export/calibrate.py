"""Where to clip activations, and which layers int8 may take: both measured on photographs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from hp_export.observe import Values, largest_values, look_inside
from hp_export.quantise import LEVELS, Layer

BINS = 2048
_CANDIDATES = np.linspace(0.2, 1.0, 41)
"""Parts of the largest value at which to clip, tried in turn."""


def clip_values(
    model: onnx.ModelProto, names: Collection[str], photos: NDArray[np.uint8]
) -> dict[str, dict[str, float]]:
    """Rule of `CLIPS` → tensor → where to clip it, from histograms over all photographs."""
    largest = largest_values(model, names, photos)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for name, values in look_inside(model, names, photos):
        counts[name] += _histogram(values, largest[name])
    return {
        rule: {name: largest[name] * clip(counts[name]) for name in names}
        for rule, clip in CLIPS.items()
    }


def _everything(_counts: NDArray[np.int64]) -> float:
    return 1.0


def _percentile(counts: NDArray[np.int64]) -> float:
    """All but one value in ten thousand."""
    return float(np.searchsorted(counts.cumsum(), 0.9999 * counts.sum()) + 1) / BINS


def least_error(counts: NDArray[np.int64]) -> float:
    """The clip with the smallest squared error of int8."""
    centres = (np.arange(BINS) + 0.5) / BINS
    steps = (_CANDIDATES / LEVELS)[:, None]
    rounded = np.minimum(np.rint(centres / steps), LEVELS) * steps  # (candidates, bins)
    errors = ((rounded - centres) ** 2 * counts).sum(1)
    return float(_CANDIDATES[errors.argmin()])


CLIPS: dict[str, Callable[[NDArray[np.int64]], float]] = {
    "largest": _everything,
    "percentile": _percentile,
    "mse": least_error,
}
"""Rule → part of the largest value at which to clip.  Which is best depends on whether a network's
outliers matter, so each is tried on the photographs held out and the best is taken."""


def _histogram(values: Values, largest: float) -> NDArray[np.int64]:
    scale = BINS / largest if largest > 0 else 0.0
    index = np.minimum((np.abs(values) * scale).astype(np.int64), BINS - 1)
    return np.bincount(index.ravel(), minlength=BINS)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which layers compute in int8, and what was measured to decide it."""

    layers: tuple[Layer, ...]
    kept: tuple[str, ...]
    """Layers left in float32, most sensitive first."""
    agreement: float


def choose_layers(
    layers: Sequence[Layer],
    agreement: Callable[[Collection[Layer]], float],
    *,
    required: float,
) -> Choice:
    """As many layers as pass: the most harmful ones stay out.

    `agreement(layers)` measures a model with these layers in int8. If all of them together miss
    `required`, each is tried alone, and the fewest of the worst are left out that suffice.
    """
    found = agreement(layers)
    if found >= required:
        return Choice(tuple(layers), (), found)
    alone = {layer.name: agreement([layer]) for layer in layers}
    worst_first = sorted(layers, key=lambda layer: alone[layer.name])
    low, high, best = 0, len(layers), 1.0  # leaving out `low` fails, leaving out `high` passes
    while high - low > 1:
        middle = (low + high) // 2
        found = agreement(worst_first[middle:])
        if found >= required:
            high, best = middle, found
        else:
            low = middle
    kept = {layer.name for layer in worst_first[:high]}
    chosen = tuple(layer for layer in layers if layer.name not in kept)
    return Choice(chosen, tuple(layer.name for layer in worst_first[:high]), best)
