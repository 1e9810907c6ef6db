"""A HeadGraph becomes one ONNX file: opset 18, static height and width, dynamic batch `N`.

Opset 18 because opset 20 renames GridSample's `bilinear` to `linear`, which TensorRT's parser
reads as nearest, and because ONNX Runtime's CUDA provider lacks Resize 19; 17 on request.
"""

from __future__ import annotations

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes import common
from onnxscript import optimizer

from hp_export.graph import HeadGraph, output_name
from hp_export.opset import to_opset_17
from hp_export.weights import without_large_weights
from hp_sdk.errors import ConfigError, ExportError

OPSET = 18
OPSETS = (17, 18, 19)
INPUT = "image"
BATCH = "N"
MAPS = ("labels.", "confidence.")
"""Beginnings of the outputs that are (N, h, w) uint8."""
FORBIDDEN = ("Loop", "If", "Scan", "NonZero", "BatchNormalization", "SequenceConstruct")
"""Nothing whose cost or shape depends on the values; batch norms must have been folded."""

_FOLD_LIMIT = 1 << 17
"""Largest constant, in elements, that folding may store; above it a file grows for no gain."""
_NOISY = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")


def to_onnx(
    graph: HeadGraph, size_hw: tuple[int, int], *, opset: int = OPSET, batch_max: int = 64
) -> onnx.ModelProto:
    """Trace `graph` and clean the result; `check_model` has passed.

    Raises:
        ConfigError: an opset this version does not write.
        ExportError: the network cannot be traced, or the result breaks a rule of `check_model`.
    """
    if opset not in OPSETS:
        raise ConfigError(f"opset is {opset}; this version writes {' or '.join(map(str, OPSETS))}")
    model = _cleaned(_traced(graph, size_hw, max(OPSET, opset), batch_max))
    model = to_opset_17(model) if opset == 17 else model
    check_model(model, opset=opset)
    return model


def stamp(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Write key/value texts into the file, so that a lone file still says what it is."""
    onnx.helper.set_model_props(model, dict(metadata))


def check_model(model: onnx.ModelProto, *, opset: int = OPSET) -> None:
    """Refuse a file that some runtime would refuse, or worse, silently compute wrongly.

    Raises:
        ExportError: the first rule that is broken.
    """
    try:
        light, weights = without_large_weights(model)
        onnx.checker.check_model(light, full_check=True)
        for tensor in weights:
            onnx.checker.check_tensor(tensor)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as exc:
        raise ExportError(f"the ONNX checker refuses the graph: {exc}") from exc
    broken = [*_broken_interface(model, opset), *_broken_nodes(model)]
    if broken:
        raise ExportError(f"the ONNX graph cannot ship: {broken[0]}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's warnings and log lines, which are about itself, from the user."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _traced(
    graph: HeadGraph, size_hw: tuple[int, int], opset: int, batch_max: int
) -> onnx_ir.Model:
    # Two images, because torch.export takes sizes 0 and 1 for constants.
    example = torch.zeros(2, *size_hw, 3, dtype=torch.uint8)
    batch = torch.export.Dim(BATCH, min=1, max=max(2, batch_max))
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[output_name(head) for head in graph.heads],
                dynamic_shapes=({0: batch},),
                optimize=False,  # `_cleaned` does it, once; twice finds nothing more
                verbose=False,
                report=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as exc:
        cause = exc.__cause__ or exc
        reason = str(cause).strip().splitlines() or [""]
        raise ExportError(
            f"the network cannot be traced: {type(cause).__name__}: {reason[0]}"
        ) from exc
    if program is None:
        raise ExportError("the exporter of this torch version returned nothing; use torch 2.6 on")
    return program.model


def _cleaned(model: onnx_ir.Model) -> onnx.ModelProto:
    with quiet():
        optimizer.optimize(model, num_iterations=1)
        _split_weights(model)
        optimizer.fold_constants(
            model,
            onnx_shape_inference=False,
            input_size_limit=_FOLD_LIMIT,
            output_size_limit=_FOLD_LIMIT,
        )
        _name_nodes(model)
        # The exporter notes the source line of every node, with paths of the exporting machine.
        common.ClearMetadataAndDocStringPass()(model)
        common.RemoveUnusedNodesPass()(model)
        common.DeduplicateInitializersPass()(model)
        proto = onnx_ir.to_proto(model)
    proto.graph.name = "hp"
    return proto


def _split_weights(model: onnx_ir.Model) -> None:
    """Split weights once, here, so that every layer has a constant weight of its own."""
    for node in list(model.graph):
        weight = node.inputs[0] if node.op_type == "Split" else None
        if weight is None or not weight.is_initializer():
            continue
        constants = [onnx_ir.convenience.get_const_tensor(x) for x in node.inputs if x is not None]
        values = [constant.numpy() for constant in constants if constant is not None]
        if len(values) < len(node.inputs):
            continue
        given, *sizes = values
        axis = node.attributes.get_int("axis", 0)
        each = -(-given.shape[axis] // len(node.outputs))  # the last part may be smaller
        ends = np.cumsum(sizes[0]) if sizes else np.arange(1, len(node.outputs)) * each
        for k, part in enumerate(np.split(given, ends, axis)[: len(node.outputs)]):
            tensor = onnx_ir.tensor(np.ascontiguousarray(part), name=f"{weight.name}_{k}")
            own = onnx_ir.Value(
                name=tensor.name,
                type=onnx_ir.TensorType(tensor.dtype),
                shape=onnx_ir.Shape(part.shape),
                const_value=tensor,
            )
            model.graph.register_initializer(own)
            node.outputs[k].replace_all_uses_with(own)
        model.graph.remove(node, safe=True)


def _name_nodes(model: onnx_ir.Model) -> None:
    """Name every node after the module it comes from: `network.backbone.conv1/Conv`."""
    used: Counter[str] = Counter()
    scope = ""
    for node in model.graph:
        scope = _scope(node) or scope  # what the exporter adds belongs to what came before
        name = f"{scope}/{node.op_type}" if scope else node.op_type
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}.{used[name]}"


def _scope(node: onnx_ir.Node) -> str:
    """Path of the module a node comes from: the one whose weights it takes, else as noted.

    The exporter's note ends where a part of the network runs under an autocast of its own.
    """
    noted = _noted_scope(node)
    owners = _owners(node)
    if not owners and node.op_type == "MatMul":  # its weight was transposed and lost its name
        owners = [owner for user in node.outputs[0].consumers() for owner in _owners(user)]
    return next((owner for owner in owners if owner.startswith(noted)), noted)


def _owners(node: onnx_ir.Node) -> list[str]:
    """Modules that own the weights a node takes."""
    names = [x.name or "" for x in node.inputs if x is not None and x.is_initializer()]
    return [name.rpartition(".")[0] for name in names if "." in name]


def _noted_scope(node: onnx_ir.Node) -> str:
    try:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    except (ValueError, SyntaxError):
        return ""
    return scopes[-2] if len(scopes) > 1 else ""


def _broken_interface(model: onnx.ModelProto, opset: int) -> Iterator[str]:
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found != {"": opset}:
        yield f"its operator sets are {found}, asked was {opset}"
    inputs = [(value.name, *_type_of(value)) for value in model.graph.input]
    if len(inputs) != 1 or inputs[0][:2] != (INPUT, onnx.TensorProto.UINT8):
        yield f"its inputs are {inputs}, expected one uint8 {INPUT!r}"
    for name, kind, shape in inputs + [(v.name, *_type_of(v)) for v in model.graph.output]:
        is_map = name.startswith(MAPS)
        if (
            len(shape) != (3 if is_map else 4)
            or shape[0] != BATCH
            or not all(isinstance(s, int) for s in shape[1:])
        ):
            yield f"{name!r} has shape {shape}, expected ({BATCH}, fixed, fixed, fixed)"
        wanted = onnx.TensorProto.UINT8 if is_map or name == INPUT else onnx.TensorProto.FLOAT
        if kind != wanted:
            yield f"{name!r} is not {onnx.TensorProto.DataType.Name(wanted).lower()}"


def _broken_nodes(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in FORBIDDEN:
            yield f"node {node.name!r} is a {node.domain}{node.op_type}"
        mode = next((a.s for a in node.attribute if a.name == "mode"), b"")
        if node.op_type == "GridSample" and mode == b"linear":
            yield f"GridSample {node.name!r} has mode `linear`, which TensorRT reads as nearest"
    if model.functions:
        yield "it holds functions of its own"
    if any(tensor.external_data for tensor in model.graph.initializer):
        yield "its weights lie in a second file"


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    shape = tuple(d.dim_param if d.HasField("dim_param") else int(d.dim_value) for d in dims)
    return tensor.elem_type, shape
