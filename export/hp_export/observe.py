"""Run an ONNX model and look at tensors inside it, through the backend that ships."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hp_export.weights import save_apart, without_large_weights
from hp_sdk.backends.base import BackendOptions
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.image import Pixels

Values = NDArray[Any]
Infos = Mapping[str, onnx.ValueInfoProto]

_GROUP_ELEMENTS = 1 << 28
"""Elements looked at in one session (1 GB of float32); more tensors take more passes."""
FRUGAL = BackendOptions(device="cpu", session_options={"enable_cpu_mem_arena": False})
"""ONNX Runtime without its own store of memory, which takes three times as much for `sst-r50`."""


def run_model(
    model: onnx.ModelProto, images: Pixels, *, outputs: Sequence[str] | None = None
) -> dict[str, Values]:
    """Outputs for pictures (N, h, w, 3), one picture at a time, joined along N."""
    with _written(model) as (path, _):
        parts = list(_run_each(path, images, outputs))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def look_inside(
    model: onnx.ModelProto, names: Collection[str], images: Pixels
) -> Iterator[tuple[str, Values]]:
    """(tensor, its value) for each picture (h, w, 3) of `images` and each tensor in `names`.

    Looking at a tensor keeps the runtime from fusing it away, so an inner value is that of the
    graph as it is written.
    """
    infos = _infos(model)
    with _written(model) as (path, light):
        for group in _groups(infos, sorted(names)):
            path.write_bytes(_showing(light, group, infos).SerializeToString())
            for found in _run_each(path, images, group):
                yield from found.items()


def largest_values(
    model: onnx.ModelProto, names: Collection[str], images: Pixels
) -> dict[str, float]:
    """Tensor → largest absolute value over all pictures; NaN if a value is none.

    Found inside the graph, so that one pass is enough however many tensors there are.
    """
    largest = dict.fromkeys(names, 0.0)
    # A maximum may pass over what is no number; a sum does not.
    for name, (high, low, total) in _reduced(
        model, names, images, ("ReduceMax", "ReduceMin", "ReduceL1")
    ):
        found = np.nan if np.isnan(total) else max(abs(high), abs(low))
        largest[name] = float(np.maximum(largest[name], found))
    return largest


def sizes_of_tensors(
    model: onnx.ModelProto, names: Collection[str], image: Pixels
) -> dict[str, int]:
    """Tensor → its elements for one picture (1, h, w, 3)."""
    return {name: int(size) for name, (size,) in _reduced(model, names, image, ("Size",))}


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


def _reduced(
    model: onnx.ModelProto, names: Collection[str], images: Pixels, operators: Sequence[str]
) -> Iterator[tuple[str, tuple[float, ...]]]:
    """(tensor, what each of `operators` makes of it) for each picture and each tensor of `names`.

    Tensors without elements are passed over.
    """
    infos = _infos(model)
    asked = [name for name in _last_first(model) if name in names and not _is_empty(infos, name)]
    targets = {(name, operator): f"{name}/{operator}" for name in asked for operator in operators}
    with _written(model) as (path, light):
        for (name, operator), target in targets.items():
            # Size is a scalar as it is, and a whole number.
            keep: dict[str, Any] = {} if operator == "Size" else {"keepdims": 0}
            kind = TensorProto.INT64 if operator == "Size" else TensorProto.FLOAT
            light.graph.node.append(helper.make_node(operator, [name], [target], **keep))
            light.graph.output.append(helper.make_tensor_value_info(target, kind, []))
        path.write_bytes(light.SerializeToString())
        for found in _run_each(path, images, list(targets.values())):
            for name in asked:
                yield name, tuple(float(found[targets[name, each]]) for each in operators)


def _last_first(model: onnx.ModelProto) -> list[str]:
    """Tensors, the last one first.

    Of nodes without users ONNX Runtime computes the last one first, so it keeps no tensor longer
    than it has to if the last one looks at the first tensor.
    """
    made = [name for node in model.graph.node for name in node.output if name]
    return [*reversed(made), *(value.name for value in model.graph.input)]


@contextmanager
def _written(model: onnx.ModelProto) -> Iterator[tuple[Path, onnx.ModelProto]]:
    """Path of `model` in a folder of its own, and the graph there without its weights."""
    with tempfile.TemporaryDirectory(prefix="hp-export.") as folder:
        path = Path(folder) / "model.onnx"
        yield path, save_apart(model, path)


def _run_each(
    path: Path, images: Pixels, outputs: Sequence[str] | None
) -> Iterator[dict[str, Values]]:
    """Outputs for each picture in turn."""
    with closing(OrtBackend(path, FRUGAL)) as backend:
        for image in images:
            yield dict(backend.run(image[np.newaxis], outputs=outputs))


def _showing(light: onnx.ModelProto, names: Sequence[str], infos: Infos) -> onnx.ModelProto:
    """The model with `names` among its outputs."""
    shown, there = copy_of(light), {value.name for value in light.graph.output}
    for name in names:
        if name not in there:
            kind = infos[name].type.tensor_type.elem_type if name in infos else TensorProto.FLOAT
            shown.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    return shown


def _groups(infos: Infos, names: Sequence[str]) -> Iterator[list[str]]:
    group, elements = list[str](), 0
    for name in names:
        size = _elements(infos[name]) if name in infos else 1
        if group and elements + size > _GROUP_ELEMENTS:
            yield group
            group, elements = [], 0
        group, elements = [*group, name], elements + size
    if group:
        yield group


def _is_empty(infos: Infos, name: str) -> bool:
    dims = infos[name].type.tensor_type.shape.dim if name in infos else ()
    return any(dim.HasField("dim_value") and dim.dim_value == 0 for dim in dims)


def _elements(value: onnx.ValueInfoProto) -> int:
    return math.prod(max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim)


def _infos(model: onnx.ModelProto) -> Infos:
    graph = onnx.shape_inference.infer_shapes(without_large_weights(model)[0]).graph
    return {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
