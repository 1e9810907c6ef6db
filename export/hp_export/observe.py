"""Run an ONNX model and look at tensors inside it, through the backend that ships."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hp_sdk.backends.base import BackendOptions
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.image import Pixels

Values = NDArray[Any]

_GROUP_ELEMENTS = 1 << 26
"""Elements looked at in one session (256 MB of float32); more tensors take more passes."""
FRUGAL = BackendOptions(device="cpu", session_options={"enable_cpu_mem_arena": False})
"""ONNX Runtime without its own store of memory, which takes three times as much for `sst-r50`."""


def run_model(
    model: onnx.ModelProto, images: Pixels, *, outputs: Sequence[str] | None = None
) -> dict[str, Values]:
    """Outputs for pictures (N, h, w, 3), one picture at a time, joined along N."""
    parts = list(_run_each(model, images, outputs))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def look_inside(
    model: onnx.ModelProto, names: Collection[str], images: Pixels
) -> Iterator[tuple[str, Values]]:
    """(tensor, its value) for each picture (h, w, 3) of `images` and each tensor in `names`.

    Looking at a tensor keeps the runtime from fusing it away, so an inner value is that of the
    graph as it is written.
    """
    for group in _groups(model, sorted(names)):
        for found in _run_each(_showing(model, group), images, group):
            yield from found.items()


def largest_values(
    model: onnx.ModelProto, names: Collection[str], images: Pixels
) -> dict[str, float]:
    """Tensor → largest absolute value over all pictures."""
    largest = dict.fromkeys(names, 0.0)
    for name, values in look_inside(model, names, images):
        largest[name] = max(largest[name], float(np.abs(values).max(initial=0.0)))
    return largest


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that shape inference knows."""
    return {name: value.type.tensor_type.elem_type for name, value in _infos(model).items()} | {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }


def producers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Tensor → the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers_of(model: onnx.ModelProto) -> Callable[[str], list[onnx.NodeProto]]:
    """Tensor → the nodes that take it."""
    takers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            takers.setdefault(name, []).append(node)
    return lambda name: takers.get(name, [])


def keep_used_weights(graph: onnx.GraphProto, weights: Sequence[onnx.TensorProto]) -> None:
    """Make those of `weights` that a node reads the graph's only initialisers, in place."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in weights if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that shares nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _run_each(
    model: onnx.ModelProto, images: Pixels, outputs: Sequence[str] | None
) -> Iterator[dict[str, Values]]:
    with tempfile.TemporaryDirectory(prefix="hp-export.") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        with closing(OrtBackend(path, FRUGAL)) as backend:
            for image in images:
                yield dict(backend.run(image[np.newaxis], outputs=outputs))


def _showing(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with `names` among its outputs."""
    shown, there = copy_of(model), {value.name for value in model.graph.output}
    infos = _infos(model)
    for name in names:
        if name not in there:
            kind = infos[name].type.tensor_type.elem_type if name in infos else TensorProto.FLOAT
            shown.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return shown


def _groups(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[list[str]]:
    infos, group, elements = _infos(model), list[str](), 0
    for name in names:
        size = _elements(infos[name]) if name in infos else 1
        if group and elements + size > _GROUP_ELEMENTS:
            yield group
            group, elements = [], 0
        group, elements = [*group, name], elements + size
    if group:
        yield group


def _elements(value: onnx.ValueInfoProto) -> int:
    return math.prod(max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _infos(model: onnx.ModelProto) -> Mapping[str, onnx.ValueInfoProto]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
