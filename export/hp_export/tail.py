"""What servers want of a graph, as passes over a finished ONNX file.

    Triton      image ─ … ─ labels.<head>, confidence.<head>          (logits stay inside)
    DeepStream  planes ─ transpose ─ … ─ logits ─ resize ─ softmax ─► probabilities

Everything lies inside the file, so that a server needs no program of its own around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common

from hp_export.labels import add_labels, label_names
from hp_export.observe import copy_of
from hp_export.to_onnx import BATCH, INPUT, quiet
from hp_sdk.bundle import Bundle, HeadSpec
from hp_sdk.errors import ExportError

PROBABILITIES = "probabilities"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a file, without its batch."""

    name: str
    element: str
    """UINT8, FLOAT, FLOAT16 …, as in ONNX."""
    dims: tuple[int, ...]


def inputs_of(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Inputs of a file."""
    return tuple(map(_spec, model.graph.input))


def outputs_of(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Outputs of a file."""
    return tuple(map(_spec, model.graph.output))


def with_labels(model: onnx.ModelProto, bundle: Bundle) -> onnx.ModelProto:
    """A copy that answers with labels and confidence instead of logits.

    Those that the file computes already stay as they are.

    Raises:
        ExportError: the result is no valid graph.
    """
    there = {value.name for value in model.graph.output}
    missing = [head for head in bundle.heads if label_names(head)[0] not in there]
    h, w, _ = inputs_of(model)[0].dims
    copy = add_labels(model, missing, (h, w)) if missing else copy_of(model)
    logits = {head.output for head in bundle.heads.values()}
    return _with_outputs(copy, [v for v in copy.graph.output if v.name not in logits])


def with_probabilities(model: onnx.ModelProto, head: HeadSpec) -> onnx.ModelProto:
    """A copy that takes planes (N, 3, h, w) float32 and answers for one head with probabilities.

    Pixels stay RGB in 0..255; the output is (N, Z, h, w) float32.

    Raises:
        ExportError: the result is no valid graph.
    """
    h, w, _ = inputs_of(model)[0].dims
    copy = copy_of(model)
    _take_planes(copy.graph, (h, w))
    scales = np.array([1, 1, head.stride, head.stride], np.float32)
    copy.graph.initializer.append(numpy_helper.from_array(scales, "serve.scales"))
    large = "serve.large"
    _add(copy.graph, "Resize", [head.output, "", "serve.scales"], large, mode="linear")
    _add(copy.graph, "Softmax", [large], PROBABILITIES, axis=1)
    shape = [BATCH, head.domain.num_classes, h, w]
    output = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, shape)
    return _with_outputs(copy, [output])


def _take_planes(graph: onnx.GraphProto, size_hw: tuple[int, int]) -> None:
    """Let `image` be (N, 3, h, w) float32 and transpose it first."""
    pixels = "serve.pixels"
    for node in graph.node:
        for k, name in enumerate(node.input):
            if name == INPUT:
                node.input[k] = pixels
    value = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, 3, *size_hw])
    graph.input[0].CopyFrom(value)
    node = helper.make_node("Transpose", [INPUT], [pixels], name=pixels, perm=[0, 2, 3, 1])
    graph.node.insert(0, node)


def _add(
    graph: onnx.GraphProto, operator: str, inputs: Sequence[str], output: str, **attributes: Any
) -> None:
    graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))


def _with_outputs(
    model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """Exchange the outputs, drop what none of them needs, check the result."""
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    del model.graph.value_info[:]  # some are of tensors whose type has changed
    with quiet():
        clean = onnx_ir.from_proto(model)
        common.RemoveUnusedNodesPass()(clean)
        result = onnx_ir.to_proto(clean)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the graph to be served is not valid: {exc}") from exc
    return result


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    return TensorSpec(
        value.name,
        TensorProto.DataType.Name(tensor.elem_type),
        tuple(int(d.dim_value) for d in tensor.shape.dim[1:]),
    )
