"""Precisions, as passes over the ONNX graph: precision lies in the file, never in a builder flag.

`fp32` leaves the graph as it is. `fp16-weights` stores large weights as float16 and casts them
back when the file is opened: half the size, the same float32 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hp_sdk.errors import ConfigError, ExportError

_LARGEST_HALF = float(np.finfo(np.float16).max)
_SMALL = 256
"""Tensors of fewer elements (biases, norms, shapes) are not worth a cast."""


def apply_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of `model` in the precision asked for.

    Raises:
        ConfigError: a precision this version does not offer.
        ExportError: the weights do not survive it.
    """
    check_precision(precision)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    PRECISIONS[precision](copy)
    return copy


def check_precision(precision: str) -> None:
    """Refuse what this version does not offer.

    Raises:
        ConfigError: the message lists what there is.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision is {precision!r}; this version writes {' or '.join(PRECISIONS)}"
        )


def _keep(_model: onnx.ModelProto) -> None:
    """fp32: nothing changes."""


def _store_weights_in_fp16(model: onnx.ModelProto) -> None:
    casts: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(_half(tensor), f"{name}.fp16"))
        casts.append(
            helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}.fp32", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _half(tensor: onnx.TensorProto) -> np.ndarray:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= _LARGEST_HALF:  # also true of NaN
        raise ExportError(
            f"weight {tensor.name!r} reaches {largest:g}, more than float16 can hold; "
            "export with --precision fp32"
        )
    return values.astype(np.float16)


PRECISIONS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "fp32": _keep,
    "fp16-weights": _store_weights_in_fp16,
}
