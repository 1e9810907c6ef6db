"""Where to clip activations, and which layers int8 may take: both measured on photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hp_export.observe import Values, largest_values, look_inside, sizes_of_tensors
from hp_export.quantise import CHANNEL_AXIS, LEVELS, Layer, weight_noise

BINS = 2048
_CENTRES = (np.arange(BINS) + 0.5) / BINS
_PRICES = (0.0, 0.5, 1.0)
"""Powers of a layer's size by which its harm is divided."""
_PRICES_OF_EXPECTED = (0.0, 0.5)
"""The same where harm is not measured."""
_CANDIDATES = np.linspace(0.2, 1.0, 41)
"""Parts of the largest value at which to clip, tried in turn."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often absolute values of a tensor fall into each of `BINS` parts of the largest."""

    largest: float
    counts: NDArray[np.int64]

    def noise(self, clip: float) -> float:
        """Power of int8's rounding, as a part of the tensor's own, if it is clipped at `clip`."""
        if not self.largest > 0:
            return 0.0
        return _relative_power(
            _errors(self.counts, np.array([clip / self.largest]))[0], self.counts
        )


def histograms(
    model: onnx.ModelProto, names: Collection[str], photos: NDArray[np.uint8]
) -> dict[str, Histogram]:
    """Tensor → histogram over all photographs (N, h, w, 3)."""
    largest = largest_values(model, names, photos)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for name, values in look_inside(model, names, photos):
        counts[name] += _histogram(values, largest[name])
    return {name: Histogram(largest[name], counts[name]) for name in names}


def clip_values(seen: Mapping[str, Histogram]) -> dict[str, dict[str, float]]:
    """Rule of `CLIPS` → tensor → where to clip it."""
    return {
        rule: {name: tensor.largest * clip(tensor.counts) for name, tensor in seen.items()}
        for rule, clip in CLIPS.items()
    }


def _everything(_counts: NDArray[np.int64]) -> float:
    return 1.0


def _percentile(counts: NDArray[np.int64]) -> float:
    """All but one value in ten thousand."""
    return float(np.searchsorted(counts.cumsum(), 0.9999 * counts.sum()) + 1) / BINS


def least_error(counts: NDArray[np.int64]) -> float:
    """The clip with the smallest squared error of int8."""
    return float(_CANDIDATES[_errors(counts, _CANDIDATES).argmin()])


def _errors(counts: NDArray[np.int64], clips: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared error of int8 for each clip, which is a part of the largest value."""
    steps = (clips / LEVELS)[:, None]
    rounded = np.minimum(np.rint(_CENTRES / steps), LEVELS) * steps  # (clips, bins)
    return ((rounded - _CENTRES) ** 2 * counts).sum(1)


def _relative_power(error: float, counts: NDArray[np.int64]) -> float:
    return float(error / (_CENTRES**2 * counts).sum())


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


def count_layer_macs(
    model: onnx.ModelProto, layers: Collection[Layer], image: NDArray[np.uint8]
) -> dict[str, int]:
    """Layer → multiply-accumulates for one picture (1, h, w, 3)."""
    sizes = sizes_of_tensors(model, {layer.output for layer in layers}, image)
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    return {
        layer.name: sizes[layer.output]
        * math.prod(weights[layer.weight])
        // weights[layer.weight][CHANNEL_AXIS[layer.operator]]
        for layer in layers
    }


@dataclass(frozen=True, slots=True)
class Choice:
    """Which layers compute in int8, and what was measured to decide it."""

    layers: tuple[Layer, ...]
    kept: tuple[str, ...]
    """Layers left in float32, the most harmful first."""
    agreement: float


def expected_harm(
    model: onnx.ModelProto,
    layers: Collection[Layer],
    seen: Mapping[str, Histogram],
    clips: Mapping[str, float],
) -> dict[str, float]:
    """Layer → power of the rounding of its weight and activations, as parts of their own.

    What stands in for a measurement of each layer alone. `seen` and `clips` go by the tensor that
    is measured for an activation.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def harm(layer: Layer) -> float:
        values = numpy_helper.to_array(weights[layer.weight])
        activations = (seen[name].noise(clips[name]) for name in layer.tensors.values())
        return weight_noise(values, CHANNEL_AXIS[layer.operator]) + sum(activations)

    return {layer.name: harm(layer) for layer in layers}


def choose_layers(
    layers: Sequence[Layer],
    agreement: Callable[[Collection[Layer]], float],
    *,
    macs: Mapping[str, int],
    required: float,
    expected: Callable[[], Mapping[str, float]] | None = None,
) -> Choice:
    """As much arithmetic as passes: harmful layers stay out.

    `agreement(layers)` measures a model with these layers in int8. If all of them together miss
    `required`, each is tried alone; layers are ranked by harm and by harm for what they save, of
    each ranking the fewest of the worst are left out that suffice, and the ranking that keeps most
    multiply-accumulates in int8 wins.

    With `expected`, which says the harm of each layer, none is tried alone. What is chosen is
    measured all the same, but layers that bear int8 against expectation are not found.
    """
    found = agreement(layers)
    if found >= required:
        return Choice(tuple(layers), (), found)
    if expected is None:
        harm, prices = {layer.name: 1 - agreement([layer]) for layer in layers}, _PRICES
    else:
        harm, prices = expected(), _PRICES_OF_EXPECTED
    choices = []
    for power in prices:
        price = {layer: harm[layer.name] / macs[layer.name] ** power for layer in layers}
        worst_first = sorted(layers, key=price.__getitem__, reverse=True)
        choices.append(_leave_out(worst_first, agreement, required))
    return max(choices, key=lambda choice: sum(macs[layer.name] for layer in choice.layers))


def _leave_out(
    worst_first: Sequence[Layer], agreement: Callable[[Collection[Layer]], float], required: float
) -> Choice:
    """Without the fewest of the worst, found by halving."""
    low, high, best = 0, len(worst_first), 1.0  # leaving out `low` fails, leaving out `high` passes
    while high - low > 1:
        middle = (low + high) // 2
        found = agreement(worst_first[middle:])
        if found >= required:
            high, best = middle, found
        else:
            low = middle
    kept = tuple(layer.name for layer in worst_first[:high])
    return Choice(tuple(worst_first[high:]), kept, best)
