"""The `e2e` flavour: labels and their confidence at network size, computed in the graph.

    logits.<head> ─ Resize to (h, w) ─┬ ArgMax ─ Cast ─► labels.<head> uint8 (N, h, w)
                                      └ Softmax ─ max ─ · 255 ─ Cast ─► confidence.<head> uint8

Two bytes per pixel leave the device instead of four per class; UINT8 is cast last, as TensorRT
demands.  Confidence is the winner's probability times 255, as in `hp_sdk.postprocess`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hp_export.graph import output_name
from hp_export.observe import copy_of


def label_names(head: str) -> tuple[str, str]:
    """Names of a head's label and confidence outputs."""
    return f"labels.{head}", f"confidence.{head}"


def add_labels(
    model: onnx.ModelProto, heads: Sequence[str], size_hw: tuple[int, int]
) -> onnx.ModelProto:
    """A copy that also answers labels and confidence of `heads`, (N, h, w) uint8 each."""
    copy = copy_of(model)
    constants = {"e2e.classes": np.array([1], np.int64), "e2e.levels": np.float32(255)}
    for head in heads:
        logits = next(v for v in copy.graph.output if v.name == output_name(head))
        dims = [dim.dim_value for dim in logits.type.tensor_type.shape.dim]
        factors = [1, 1, size_hw[0] / dims[2], size_hw[1] / dims[3]]
        constants[f"e2e.scales.{head}"] = np.array(factors, np.float32)
        copy.graph.node.extend(_tail(head))
        shape = ["N", *size_hw]
        copy.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.UINT8, shape)
            for name in label_names(head)
        )
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return copy


def _tail(head: str) -> list[onnx.NodeProto]:
    labels, confidence = label_names(head)

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(
            operator, inputs, [output], name=f"e2e.{head}/{operator}.{output}", **attributes
        )

    def inner(what: str) -> str:
        return f"e2e.{what}.{head}"

    return [
        node(
            "Resize",
            [output_name(head), "", inner("scales")],
            inner("large"),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        node("ArgMax", [inner("large")], inner("best"), axis=1, keepdims=0),
        node("Cast", [inner("best")], labels, to=TensorProto.UINT8),
        node("Softmax", [inner("large")], inner("probabilities"), axis=1),
        node("ReduceMax", [inner("probabilities"), "e2e.classes"], inner("winner"), keepdims=0),
        node("Mul", [inner("winner"), "e2e.levels"], inner("scaled")),
        node("Round", [inner("scaled")], inner("rounded")),
        node("Cast", [inner("rounded")], confidence, to=TensorProto.UINT8),
    ]
