"""int8 in the graph: QuantizeLinear / DequantizeLinear pairs around layers that have weights.

    x ─ Q ─ DQ ─┐
    int8 W ─ DQ ─┴ Conv (+ float bias) ─ Q ─ DQ ─►        MatMul: the same without the last pair

Symmetric throughout (zero point 0, as TensorRT demands): weights with one scale per output
channel, activations with one scale per tensor, biases as they are.  The pair behind a convolution
lets ONNX Runtime fuse it into one integer kernel; sums of branches stay float32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hp_export.half import island_nodes
from hp_export.observe import consumers_of, keep_used_weights
from hp_export.weights import with_weights

LEVELS = 127
"""Steps on each side of zero."""
CHANNEL_AXIS = {"Conv": 0, "MatMul": 1}
"""Operator → axis of its weight that counts output channels."""
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or product with constant weights."""

    name: str
    operator: str
    data: str
    weight: str
    output: str
    watched: str
    """Tensor that says where `output` is clipped: itself, or behind the Relu that alone takes it,
    where values below zero no longer count."""

    @property
    def tensors(self) -> dict[str, str]:
        """Activation that gets a scale → activation that is measured for it."""
        tensors = {self.data: self.data}
        return tensors | {self.output: self.watched} if self.operator == "Conv" else tensors


def quantisable(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Layers that int8 may take: not those that give coordinates or logits (spec §5.3)."""
    weights = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    islands, takers = island_nodes(model), consumers_of(model)

    def watched(output: str) -> str:
        users = takers(output)
        return users[0].output[0] if [n.op_type for n in users] == ["Relu"] else output

    return tuple(
        Layer(
            name=node.name,
            operator=node.op_type,
            data=node.input[0],
            weight=node.input[1],
            output=node.output[0],
            watched=watched(node.output[0]),
        )
        for node in model.graph.node
        if node.op_type in CHANNEL_AXIS
        and node.name not in islands
        and weights.get(node.input[1], 0) >= 2
        and node.input[0] not in weights
        and (node.op_type == "Conv" or weights[node.input[1]] == 2)
    )


def quantise(
    model: onnx.ModelProto, largest: Mapping[str, float], layers: Collection[Layer]
) -> onnx.ModelProto:
    """A copy whose `layers` compute in int8; `largest` says where each activation is clipped."""
    return _Insertion(model, largest, {layer.name: layer for layer in layers}).run()


class _Insertion:
    """One walk along the nodes that puts the pairs between them."""

    def __init__(
        self, model: onnx.ModelProto, largest: Mapping[str, float], layers: Mapping[str, Layer]
    ) -> None:
        self.model, self.largest, self.layers = with_weights(model, ()), largest, layers
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.quantised: dict[str, int] = {}
        """Activation → how often it was dequantised."""
        self.replaced: set[str] = set()
        """Outputs of int8 convolutions: every user takes them dequantised."""

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            for i, name in enumerate(node.input):
                if name in self.replaced:
                    node.input[i] = self._activation(name)
            layer = self.layers.get(node.name)
            if layer is None:
                self.nodes.append(node)
            else:
                self._insert(node, layer)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        keep_used_weights(graph, list(self.weights.values()))
        return self.model

    def _insert(self, node: onnx.NodeProto, layer: Layer) -> None:
        if node.input[0] == layer.data:  # else it comes from an int8 convolution
            node.input[0] = self._activation(layer.data)
        node.input[1] = self._weight(layer.weight, CHANNEL_AXIS[layer.operator])
        self.nodes.append(node)
        if layer.operator == "Conv":
            self._quantise(layer.output)
            self.replaced.add(layer.output)

    def _activation(self, name: str) -> str:
        """The tensor, quantised once and dequantised for each user, as fusions want it."""
        self._quantise(name)
        self.quantised[name] += 1
        new = f"{name}.dq{self.quantised[name]}"
        self._node("DequantizeLinear", name, f"{name}.int8", new)
        return new

    def _quantise(self, name: str) -> None:
        if name in self.quantised:
            return
        self.quantised[name] = 0
        scale = max(self.largest[name] / LEVELS, _SMALLEST)
        self._constant(f"{name}.scale", np.asarray(scale, np.float32))
        self._constant(f"{name}.zero", np.asarray(0, np.int8))
        self._node("QuantizeLinear", name, name, f"{name}.int8")

    def _weight(self, name: str, axis: int) -> str:
        new = f"{name}.dq"
        if f"{name}.int8" not in self.weights:
            steps, scale = _weight_steps(numpy_helper.to_array(self.weights[name]), axis)
            self._constant(f"{name}.int8", steps.astype(np.int8))
            self._constant(f"{name}.scale", scale)
            self._constant(f"{name}.zero", np.zeros(len(scale), np.int8))
            self._node("DequantizeLinear", name, f"{name}.int8", new, axis=axis)
        return new

    def _node(self, operator: str, owner: str, source: str, target: str, **attributes: Any) -> None:
        inputs = [source, f"{owner}.scale", f"{owner}.zero"]
        self.nodes.append(
            helper.make_node(operator, inputs, [target], name=f"{target}/{operator}", **attributes)
        )

    def _constant(self, name: str, values: np.ndarray) -> None:
        self.weights[name] = numpy_helper.from_array(values, name)


def weight_scale(values: np.ndarray, axis: int) -> np.ndarray:
    """One step per output channel: the largest weight is 127 of them."""
    others = tuple(k for k in range(values.ndim) if k != axis)
    largest = np.abs(values).max(axis=others)
    return np.maximum(largest / LEVELS, _SMALLEST).astype(np.float32)


def weight_noise(values: np.ndarray, axis: int) -> float:
    """Power of a weight's rounding to int8, as a part of its own."""
    steps, scale = _weight_steps(values, axis)
    error = steps * _along(scale, axis, values.ndim) - values
    return float(np.square(error).sum() / max(np.square(values).sum(), _SMALLEST))


def _weight_steps(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole steps, and how large a step is for each output channel."""
    scale = weight_scale(values, axis)
    steps = values / _along(scale, axis, values.ndim)
    return np.rint(steps).clip(-LEVELS, LEVELS), scale


def _along(scale: np.ndarray, axis: int, dimensions: int) -> np.ndarray:
    return np.expand_dims(scale, [k for k in range(dimensions) if k != axis])
