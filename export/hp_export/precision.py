"""Precisions, as passes over the ONNX graph: precision lies in the file, never in a builder flag.

fp32          the graph as it is
fp16-weights  large weights stored as float16, cast back when opened; float32 arithmetic
fp16          float16 arithmetic with float32 islands            (hp_export.half)
int8          Q/DQ pairs, calibrated on photographs              (hp_export.quantise, .calibrate)
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hp_export.agreement import COMMON, TOLERANCES, mean_iou
from hp_export.calibrate import (
    choose_layers,
    clip_values,
    count_layer_macs,
    expected_harm,
    histograms,
)
from hp_export.half import LARGEST_HALF, out_of_range, to_half
from hp_export.observe import copy_of, run_model
from hp_export.photos import Photos
from hp_export.progress import Progress, silent
from hp_export.quantise import Layer, quantisable, quantise
from hp_sdk.errors import ConfigError, ExportError
from hp_sdk.image import Pixels

_SMALL = 256
"""Tensors of fewer elements (biases, norms, shapes) are not worth a cast."""
_SOME = 8
"""Photographs on which ranges are measured for fp16."""
_RESERVE = 0.012
"""What int8 must reach above the tolerance while layers are chosen: on other photographs than those
it loses some, 0.013 on the bundled model."""
SEARCH_MACS = 2e14
"""Multiply-accumulates that trying each layer alone may take, hours on one core; above it, layers
are ranked by the noise that rounding is expected to make."""
REFUSED = {
    "bf16": "ONNX convolutions take bfloat16 from opset 22 on, where GridSample is misread, and "
    "ONNX Runtime has no bfloat16 product on the CPU to verify it; export fp32 and open it with "
    "backend openvino, precision bf16, or export fp16",
}
"""Precision → why this version does not write it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a pass may measure on."""

    probes: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    photos: Photos | None = None
    progress: Progress = silent


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model in another precision, and what was decided on the way."""

    model: onnx.ModelProto
    notes: dict[str, Any] = field(default_factory=dict[str, Any])


def apply_precision(
    model: onnx.ModelProto, precision: str, evidence: Evidence | None = None
) -> Lowered:
    """`model` in the precision asked for; `model` itself is not changed.

    Raises:
        ConfigError: a precision this version does not offer, or int8 without photographs.
        ExportError: the weights do not survive it.
    """
    evidence = evidence or Evidence()
    check_precision(precision, has_photos=evidence.photos is not None)
    return PRECISIONS[precision](model, evidence)


def check_precision(precision: str, *, has_photos: bool = True) -> None:
    """Refuse what this version does not offer.

    Raises:
        ConfigError: the message lists what there is, or says what is missing.
    """
    if precision in REFUSED:
        raise ConfigError(f"precision {precision} cannot be written: {REFUSED[precision]}")
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision is {precision!r}; this version writes {', '.join(PRECISIONS)}"
        )
    if precision == "int8" and not has_photos:
        raise ConfigError(
            "int8 is calibrated on photographs; add --calib DIR with some like those the model "
            "will see"
        )


def _keep(model: onnx.ModelProto, _evidence: Evidence) -> Lowered:
    """fp32: nothing changes."""
    return Lowered(copy_of(model))


def _store_weights_in_fp16(model: onnx.ModelProto, _evidence: Evidence) -> Lowered:
    model = copy_of(model)
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(_half(tensor), f"{name}.fp16"))
        casts.append(
            helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}.fp32", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return Lowered(model)


def _half(tensor: onnx.TensorProto) -> np.ndarray:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= LARGEST_HALF:  # also true of NaN
        raise ExportError(
            f"weight {tensor.name!r} reaches {largest:g}, more than float16 can hold; "
            "export with --precision fp32"
        )
    return values.astype(np.float16)


def _compute_in_fp16(model: onnx.ModelProto, evidence: Evidence) -> Lowered:
    evidence.progress("fp16: measuring ranges")
    images = [evidence.probes]
    if evidence.photos is not None:
        images.append(evidence.photos.calibration[:_SOME])
    kept = out_of_range(model, np.concatenate(images))
    return Lowered(to_half(model, keep=kept), {"kept_fp32": sorted(kept)})


def _quantise(model: onnx.ModelProto, evidence: Evidence) -> Lowered:
    photos, layers = evidence.photos, quantisable(model)
    assert photos is not None  # check_precision has seen to it
    evidence.progress(f"int8: calibrating on {len(photos.calibration)} photographs")
    measured = {name: seen for layer in layers for name, seen in layer.tensors.items()}
    seen = histograms(model, set(measured.values()), photos.calibration)
    rules = clip_values(seen)
    expected, steps = run_model(model, photos.held_out), count(1)

    def agreement(rule: str, chosen: Collection[Layer]) -> float:
        evidence.progress(f"int8: measuring which of {len(layers)} layers bear it ({next(steps)})")
        largest = {name: rules[rule][seen] for name, seen in measured.items()}
        return _least_miou(expected, run_model(quantise(model, largest, chosen), photos.held_out))

    reached = {rule: agreement(rule, layers) for rule in rules}
    best = max(reached, key=lambda rule: reached[rule])
    required = min(1.0, TOLERANCES["int8"].miou + _RESERVE)
    macs = count_layer_macs(model, layers, photos.held_out[:1])
    alone = len(layers) * len(photos.held_out) * sum(macs.values())
    choice = choose_layers(
        layers,
        lambda chosen: reached[best] if chosen == layers else agreement(best, chosen),
        macs=macs,
        required=required,
        expected=None
        if alone <= SEARCH_MACS
        else lambda: expected_harm(model, layers, seen, rules[best]),
    )
    largest = {name: rules[best][seen] for name, seen in measured.items()}
    notes = {
        "clip": best,
        "miou_all_int8": reached,
        "miou_held_out": choice.agreement,
        "kept_fp32": list(choice.kept),
        "ranked_by": _ranked_by(alone) if choice.kept else "",
    }
    return Lowered(quantise(model, largest, choice.layers), notes)


def _ranked_by(alone: int) -> str:
    """What decided which layers stay in float32, in words for the report."""
    if alone <= SEARCH_MACS:
        return "labels, each layer alone"
    return (
        f"rounding noise of each layer, because trying each alone takes {alone:.1e} "
        f"multiply-accumulates, more than {SEARCH_MACS:.0e}"
    )


def _least_miou(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """The worst head's mean IoU of the labels; 0 if a value is no number."""
    if not all(np.isfinite(values).all() for values in found.values()):
        return 0.0
    return min(
        mean_iou(right.argmax(1), found[name].argmax(1), right.shape[1], share=COMMON)
        for name, right in expected.items()
    )


PRECISIONS: dict[str, Callable[[onnx.ModelProto, Evidence], Lowered]] = {
    "fp32": _keep,
    "fp16-weights": _store_weights_in_fp16,
    "fp16": _compute_in_fp16,
    "int8": _quantise,
}
