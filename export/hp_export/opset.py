"""Opset 17, for runtimes of 2022 (TensorRT 8.6): the same graph without what 18 added.

The converter of the onnx package has no way down for Split; the operators in our graphs differ in
three places only, and the checker refuses whatever else is too new.
"""

from __future__ import annotations

import onnx
from onnx import helper, numpy_helper

from hp_export.observe import copy_of, keep_used_weights
from hp_sdk.errors import ExportError

_DEFAULTS = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}
"""Attributes of Resize 18 that say what Resize 13 does."""


def to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in opset 17 that computes the same.

    Raises:
        ExportError: a node cannot be said in opset 17.
    """
    copy = copy_of(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _axes_as_attribute(node, constants)
        elif node.op_type == "Resize":
            _drop(node, _DEFAULTS)
        elif node.op_type == "Split" and len(node.input) > 1:
            _drop(node, {"num_outputs": len(node.output)})
    for entry in copy.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = 17
    keep_used_weights(copy.graph, list(copy.graph.initializer))
    return copy


def _axes_as_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    if len(node.input) < 2 or not node.input[1]:
        return
    if node.input[1] not in constants:
        raise ExportError(f"{node.name!r} computes its axes; opset 17 wants constants, use 18")
    axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", axes))


def _drop(node: onnx.NodeProto, defaults: dict[str, object]) -> None:
    """Remove attributes that opset 17 does not know, if they say what it does anyway."""
    kept = []
    for attribute in node.attribute:
        if attribute.name not in defaults:
            kept.append(attribute)
        elif helper.get_attribute_value(attribute) != defaults[attribute.name]:
            raise ExportError(f"{node.name!r} uses {attribute.name}, which opset 17 lacks; use 18")
    del node.attribute[:]
    node.attribute.extend(kept)
