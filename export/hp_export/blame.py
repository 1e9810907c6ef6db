"""Which layer of a wrong artifact is the first to go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import Tensor, nn

from hp_export.observe import Values, look_inside, tensor_types
from hp_sdk.errors import HpError
from hp_sdk.image import Pixels

NOTABLE = 1e-3
"""Relative error from which a tensor counts as wrong."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """The layer whose output is worst compared with its inputs."""

    layer: str
    error: float
    """Root mean square of the difference, as a part of that of the right value."""


def worst_layer(right: onnx.ModelProto, wrong: onnx.ModelProto, image: Pixels) -> Suspect | None:
    """The layer of `wrong` at which it departs most from `right`, on one picture (1, h, w, 3).

    Both graphs name their tensors alike, as those of one export do; None if nothing departs or
    the graphs cannot be run.
    """
    shared = _floats(right) & _floats(wrong)
    try:
        # Both look at the tensors in the same order, so that few are in memory at a time.
        pairs = zip(*(look_inside(m, shared, image) for m in (right, wrong)), strict=True)
        errors = {name: relative_error(truth, found) for (name, truth), (_, found) in pairs}
    except HpError:
        return None
    return _largest_jump(wrong, errors)


def first_wrong_module(network: nn.Module, model: onnx.ModelProto, image: Pixels) -> Suspect | None:
    """The first module of the traced `network` whose value `model` does not reproduce.

    Tensors are recognised by their nodes' names, which begin with the module's.
    """
    ends = {node.name.rpartition("/")[0]: node.output[0] for node in model.graph.node}
    values = _module_outputs(network, image)
    there = {name: ends[name] for name in values if name in ends}
    expected = {tensor: values[name].float().numpy() for name, tensor in there.items()}
    try:
        errors = {
            tensor: relative_error(expected[tensor], found)
            for tensor, found in look_inside(model, set(expected), image)
            if expected[tensor].shape == found.shape
        }
    except HpError:
        return None
    for name, tensor in there.items():
        if not (error := errors.get(tensor, 0.0)) <= NOTABLE:
            return Suspect(name, error)
    return None


def relative_error(expected: Values, found: Values) -> float:
    """Root mean square of the difference over that of `expected`.

    Infinite if a value is not finite or the shapes differ.
    """
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    difference = np.asarray(expected, np.float64) - np.asarray(found, np.float64)
    size = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
    return float(np.sqrt(np.mean(difference**2)) / max(size, 1e-12))


def _largest_jump(model: onnx.ModelProto, errors: Mapping[str, float]) -> Suspect | None:
    """The node whose output is worse than its inputs by most; the first one that overflows."""
    reached, worst, largest = dict[str, float](), None, 0.0
    for node in model.graph.node:
        before = max((reached.get(name, 0.0) for name in node.input), default=0.0)
        reached |= {name: errors.get(name, before) for name in node.output}
        error = reached[node.output[0]]
        if np.isinf(error):
            return Suspect(node.name, error)
        if error > NOTABLE and error - before > largest:
            largest, worst = error - before, Suspect(node.name, error)
    return worst


def _floats(model: onnx.ModelProto) -> set[str]:
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16)
    inner = {name for node in model.graph.node for name in node.output}
    return {name for name, kind in tensor_types(model).items() if kind in kinds} & inner


def _module_outputs(network: nn.Module, image: Pixels) -> dict[str, Tensor]:
    """Module → output, for modules without children, in the order in which they ran."""
    values: dict[str, Tensor] = {}
    handles = []
    for name, module in network.named_modules():
        if not list(module.children()):

            def note(_module: nn.Module, _inputs: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor):
                    values.setdefault(name, output.detach())

            handles.append(module.register_forward_hook(note))
    try:
        with torch.inference_mode():
            network(torch.from_numpy(image))
    finally:
        for handle in handles:
            handle.remove()
    return values
