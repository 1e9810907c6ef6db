"""float16 where it is safe: convolutions, products and what lies between them.

Islands stay float32 (spec §5.3): sampling coordinates and the sampling itself, softmax, norms and
other sums over many values, the normalisation of pixels, logits; also every tensor that was seen
to leave float16's range, with the nodes around it.  Inputs and outputs keep their types.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hp_export.census import WEIGHTED
from hp_export.observe import (
    consumers_of,
    keep_used_weights,
    largest_values,
    producers_of,
    tensor_types,
)
from hp_export.weights import with_weights
from hp_sdk.image import Pixels

LARGEST_HALF = float(np.finfo(np.float16).max)
HEADROOM = 4.0
"""Pictures of the field are more extreme than those looked at."""

ISLANDS = frozenset(
    (
        *("Softmax", "LogSoftmax", "Exp", "Log", "CumSum", "Floor", "GridSample", "Cast"),
        *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization"),
        *("ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        *("Sqrt", "Pow", "Reciprocal"),
    )
)
"""Operators that always compute in float32."""
_MOVES = frozenset(
    (
        *("Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Gather", "Split", "Flatten"),
        *("Expand", "Identity", "Concat", "DepthToSpace", "SpaceToDepth", "Tile"),
    )
)
"""Operators that only move values: they take whatever type their data has."""
_ELEMENTWISE = frozenset(["Add", "Sub", "Mul", "Div", "Neg", "Max", "Min", "Clip", "Abs"])
_STATISTICS = frozenset(name for name in ISLANDS if name.startswith("Reduce")) | {
    "Sqrt",
    "Pow",
    "Reciprocal",
    "Exp",
}
_FIXED = {"Resize": (1, 2), "Upsample": (1,)}
"""Operator → inputs whose type is float32 whatever the data's type is."""


def to_half(
    model: onnx.ModelProto, *, keep: Collection[str] = (), dtype: int = TensorProto.FLOAT16
) -> onnx.ModelProto:
    """A copy whose nodes compute in `dtype`, except islands and the nodes named in `keep`."""
    kept = island_nodes(model) | set(keep)
    return _Conversion(model, kept, dtype).run()


def out_of_range(model: onnx.ModelProto, images: Pixels) -> set[str]:
    """Names of the nodes beside a tensor that float16 may not hold, measured on pictures."""
    types = tensor_types(model)
    inner = [
        name
        for node in model.graph.node
        for name in node.output
        if types.get(name) == TensorProto.FLOAT
    ]
    large = {
        name
        for name, value in (largest_values(model, inner, images) | _largest_weights(model)).items()
        if not value * HEADROOM <= LARGEST_HALF  # also true of NaN
    }
    return {
        node.name
        for node in model.graph.node
        if large.intersection(node.input) or large.intersection(node.output)
    }


def island_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that stay float32 by rule."""
    make, takers = producers_of(model), consumers_of(model)
    types = tensor_types(model)
    found = [node for node in model.graph.node if node.op_type in ISLANDS]
    for node in model.graph.node:
        if node.op_type == "GridSample":
            found += _upstream(node.input[1:2], make)
        elif node.op_type == "Cast" and types.get(node.output[0]) != TensorProto.FLOAT:
            positions = list(_upstream(node.input[:1], make))  # they become indices
            found += [*positions, *_weighed_by(positions, takers)]
        elif node.op_type in _STATISTICS:
            found += [make[x] for x in node.input if x in make and _is_elementwise(make[x])]
            found += [n for x in node.output for n in takers(x) if _is_elementwise(n)]
    found += _upstream([value.name for value in model.graph.output], make)
    pixels = [value.name for value in model.graph.input]
    found += _downstream(pixels, takers, lambda node: node.op_type not in WEIGHTED)
    return {node.name for node in found}


def _is_elementwise(node: onnx.NodeProto) -> bool:
    return node.op_type in _ELEMENTWISE


def _upstream(names: Iterable[str], make: dict[str, onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes before `names`, up to and with the nearest ones that have weights."""
    todo, seen = list(names), set[str]()
    while todo:
        node = make.get(todo.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        yield node
        if node.op_type not in WEIGHTED:
            todo += node.input


def _weighed_by(
    positions: Iterable[onnx.NodeProto], takers: Callable[[str], list[onnx.NodeProto]]
) -> Iterator[onnx.NodeProto]:
    """Bilinear weights and what is multiplied with them."""
    names = [name for node in positions for name in node.output]
    return _downstream(names, takers, _is_elementwise)


def _downstream(
    names: Iterable[str],
    takers: Callable[[str], list[onnx.NodeProto]],
    goes_on: Callable[[onnx.NodeProto], bool],
) -> Iterator[onnx.NodeProto]:
    """Nodes behind `names`, as far as `goes_on` holds."""
    todo, seen = list(names), set[str]()
    while todo:
        for node in takers(todo.pop()):
            if goes_on(node) and node.name not in seen:
                seen.add(node.name)
                yield node
                todo += node.output


def _largest_weights(model: onnx.ModelProto) -> dict[str, float]:
    return {
        tensor.name: float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def rounded_in_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """What a float16 graph answers on a device that has float16: a float32 graph that rounds.

    ONNX Runtime's CPU computes float16 nodes in float32 and drops the casts between them, so the
    graph itself shows neither rounding nor overflow there.
    """
    copy, types = with_weights(model, ()), tensor_types(model)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        rounded = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        if node.op_type == "Cast" and rounded:
            node.attribute[0].i = TensorProto.FLOAT
        for i, name in enumerate(node.output):
            node.output[i] = f"{name}.exact" if name in rounded else name
        nodes.append(node)
        for name in rounded:
            nodes += _round_trip(f"{name}.exact", name)
    for tensor in model.graph.initializer:
        half = tensor.data_type == TensorProto.FLOAT16
        kept = _cast_weight(tensor, tensor.name, TensorProto.FLOAT) if half else tensor
        copy.graph.initializer.append(kept)
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    return copy


def _round_trip(source: str, target: str) -> list[onnx.NodeProto]:
    half = f"{target}.half"
    return [
        helper.make_node("Cast", [source], [half], name=half, to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [target], name=f"{half}.back", to=TensorProto.FLOAT),
    ]


class _Conversion:
    """One walk along the nodes that keeps track of every tensor's new type."""

    def __init__(self, model: onnx.ModelProto, kept: Collection[str], dtype: int) -> None:
        self.model, self.kept, self.dtype = with_weights(model, ()), kept, dtype
        self.suffix = helper.tensor_dtype_to_string(dtype).rpartition(".")[2].lower()
        self.types = tensor_types(model)
        self.floats = {name for name, kind in self.types.items() if kind == TensorProto.FLOAT}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.model.graph
        for node in graph.node:
            self._convert(node)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        keep_used_weights(graph, list(self.weights.values()))
        return self.model

    def _convert(self, node: onnx.NodeProto) -> None:
        kind = self._type_of(node)
        fixed = _FIXED.get(node.op_type, ())
        for i, name in enumerate(node.input):
            if name in self.floats and i not in fixed and node.op_type != "Cast":
                node.input[i] = self._as(name, kind)
        self.nodes.append(node)
        for name in node.output:
            if name in self.floats:
                self.types[name] = kind

    def _type_of(self, node: onnx.NodeProto) -> int:
        if node.name in self.kept:
            return TensorProto.FLOAT
        data = {self.types[x] for x in node.input if x in self.floats and x not in self.weights}
        # What gives no float (Shape, a comparison) takes its data as it is, too.
        moves = node.op_type in _MOVES or self.floats.isdisjoint(node.output)
        return TensorProto.FLOAT if moves and data == {TensorProto.FLOAT} else self.dtype

    def _as(self, name: str, kind: int) -> str:
        """The tensor of that name in type `kind`; made once."""
        if self.types[name] == kind:
            return name
        if (name, kind) not in self.made:
            new = f"{name}.{self.suffix if kind == self.dtype else 'float'}"
            self.made[name, kind] = new
            if name in self.weights:
                self.weights[new] = _cast_weight(self.weights[name], new, kind)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [new], name=new, to=kind))
        return self.made[name, kind]


def _cast_weight(tensor: onnx.TensorProto, name: str, kind: int) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
