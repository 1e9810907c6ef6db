"""A graph and its weights apart: what asks about the graph alone needs no copy of gigabytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto, helper, numpy_helper

LARGE_BYTES = 1 << 20
"""Weights above this are kept apart from the graph."""
_ALIGNMENT = 64


def with_weights(model: onnx.ModelProto, weights: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
    """A copy of `model` that has `weights` instead of its own, which are not copied on the way."""
    graph = model.graph
    copy = helper.make_model(
        helper.make_graph(
            graph.node, graph.name, graph.input, graph.output, value_info=graph.value_info
        ),
        functions=model.functions,
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )
    copy.metadata_props.extend(model.metadata_props)
    copy.graph.initializer.extend(weights)
    return copy


def without_large_weights(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, list[onnx.TensorProto]]:
    """The graph with its large weights as inputs, and these weights.

    Checker and shape inference work on a serialised copy: several times the gigabytes, and
    impossible above two.
    """
    large = [tensor for tensor in model.graph.initializer if tensor.ByteSize() > LARGE_BYTES]
    names = {tensor.name for tensor in large}
    light = with_weights(model, (t for t in model.graph.initializer if t.name not in names))
    light.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large
    )
    return light, large


def save_apart(
    model: onnx.ModelProto, path: Path, *, larger_than: int = LARGE_BYTES
) -> onnx.ModelProto:
    """Write `model`, and its weights of more than so many bytes into `<path>.data`.

    Answers with what was written to `path`: a graph that says where its weights lie, so that a
    variant of it may be written beside the same data.
    """
    data = path.with_name(f"{path.name}.data")
    with data.open("wb") as file:
        weights = [
            _moved(tensor, file, data.name) if tensor.ByteSize() > larger_than else tensor
            for tensor in model.graph.initializer
        ]
    light = with_weights(model, weights)
    path.write_bytes(light.SerializeToString())
    return light


def _moved(tensor: onnx.TensorProto, file: BinaryIO, location: str) -> onnx.TensorProto:
    """Append the content of `tensor` to `file`; the tensor that points there."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    moved = TensorProto(
        name=tensor.name,
        data_type=tensor.data_type,
        dims=tensor.dims,
        data_location=TensorProto.EXTERNAL,
    )
    start = file.tell()
    raw = tensor.HasField("raw_data")
    length = file.write(tensor.raw_data if raw else numpy_helper.to_array(tensor).tobytes())
    for key, value in (("location", location), ("offset", start), ("length", length)):
        moved.external_data.add(key=key, value=str(value))
    return moved
