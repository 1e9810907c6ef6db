"""What an ONNX file really holds: types of its weights, operators, shapes, description."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from hp_sdk.errors import CorruptArtifact, ModelNotFound

MANIFEST_KEY = "hp_sdk.bundle"
"""Key in `metadata_props` under which the manifest lies."""


WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that carry the weights and nearly all of the arithmetic."""


@dataclass(frozen=True, slots=True)
class Census:
    """Numbers counted in the file, as opposed to what was asked for."""

    size_bytes: int
    opset: int
    weights: Mapping[str, int]
    """Element type → bytes, largest first."""
    operators: Mapping[str, int]
    """Operator → nodes, most frequent first."""
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    computes: Mapping[str, int]
    """Element type → convolutions and products that compute in it."""
    precision: str
    """fp32, fp16-weights, fp16, bf16 or int8: the lowest that computes."""
    metadata: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        return asdict(self)


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read one ONNX file.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: the file is truncated or no ONNX file.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file {str(path)!r}; give an .onnx file")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError) as exc:
        raise CorruptArtifact(
            f"{str(path)!r} is truncated or no ONNX file; export or copy it again"
        ) from exc
    if not model.opset_import or not model.graph.node:
        raise CorruptArtifact(f"{str(path)!r} holds no ONNX graph; export or copy it again")
    return model


def take_census(model: onnx.ModelProto) -> Census:
    """Count what is in a model."""
    return Census(
        size_bytes=model.ByteSize(),
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0),
        weights=_sorted(_weights(model)),
        operators=_sorted(Counter(node.op_type for node in model.graph.node)),
        inputs={value.name: _describe(value) for value in model.graph.input},
        outputs={value.name: _describe(value) for value in model.graph.output},
        computes=_sorted(_computes(model)),
        precision=_precision(model),
        metadata={prop.key: prop.value for prop in model.metadata_props},
    )


def census_lines(census: Census) -> Iterator[str]:
    """The census for people."""
    yield f"{_mega(census.size_bytes)}, opset {census.opset}, precision {census.precision}"
    for kind, tensors in (("input", census.inputs), ("output", census.outputs)):
        for name, text in tensors.items():
            yield f"{kind:8}{name}  {text}"
    yield "weights " + ", ".join(f"{k} {_mega(v)}" for k, v in census.weights.items())
    yield "compute " + ", ".join(f"{k} {v}" for k, v in census.computes.items())
    yield f"nodes   {sum(census.operators.values())}: " + ", ".join(
        f"{op} {count}" for op, count in census.operators.items()
    )
    yield from _manifest_lines(census.metadata)


def _manifest_lines(metadata: Mapping[str, str]) -> Iterator[str]:
    for key, value in metadata.items():
        if key != MANIFEST_KEY:
            yield f"note    {key}: {value:.80}"
    if MANIFEST_KEY not in metadata:
        yield "bundle  no description inside"
        return
    try:
        manifest = json.loads(metadata[MANIFEST_KEY])
        heads = ", ".join(f"{k} ({len(head['names'])})" for k, head in manifest["heads"].items())
        yield f"bundle  {manifest['name']} {manifest['version']} ({manifest['family']}), {heads}"
    except (ValueError, KeyError, TypeError, AttributeError):
        yield "bundle  the description inside cannot be read"


def _precision(model: onnx.ModelProto) -> str:
    """Named after what computes: weights that are cast back first are only stored in float16."""
    computes = _computes(model)
    for kind, name in (("int8", "int8"), ("float16", "fp16"), ("bfloat16", "bf16")):
        if computes[kind]:
            return name
    return "fp16-weights" if _weights(model)["float16"] else "fp32"


def _computes(model: onnx.ModelProto) -> Counter[str]:
    """Types in which the nodes with constant weights compute."""
    constants = {t.name: t.data_type for t in model.graph.initializer}
    make = {name: node for node in model.graph.node for name in node.output}

    def kind_of(name: str) -> str | None:
        node = make.get(name)
        if node is not None and node.op_type == "DequantizeLinear":
            return _type_name(constants.get(node.input[0], TensorProto.INT8))
        if node is not None and node.op_type == "Cast" and node.input[0] in constants:
            return _type_name(node.attribute[0].i)
        return _type_name(constants[name]) if name in constants else None

    weighted = (n for n in model.graph.node if n.op_type in WEIGHTED and len(n.input) > 1)
    return Counter(kind for node in weighted if (kind := kind_of(node.input[1])))


def _type_name(kind: int) -> str:
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name


def _weights(model: onnx.ModelProto) -> Counter[str]:
    found: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        found[dtype.name] += int(np.prod(tensor.dims)) * dtype.itemsize
    return found


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _describe(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = (d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
    return f"{helper.tensor_dtype_to_np_dtype(tensor.elem_type).name} [{', '.join(dims)}]"


def _mega(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.2f} MB"
