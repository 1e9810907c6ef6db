"""Hand-made graphs that run in milliseconds, with the parts that matter to a precision."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE_HW = (16, 24)


def small_model(*, scale: float = 0.3, seed: int = 0) -> onnx.ModelProto:
    """image ─ Conv ─ Relu ─ Conv ─ Add ─ LayerNorm ─ MatMul ─ softmax ─ Add ─ head."""
    rng = np.random.default_rng(seed)
    weights = {
        "mean": np.array([120, 110, 100]),
        "std": np.array([50, 60, 70]),
        "w1": rng.normal(0, scale, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, scale, (8, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 8),
        "gain": rng.normal(1, 0.1, 8),
        "shift": rng.normal(0, 0.1, 8),
        "w3": rng.normal(0, 0.5, (8, 8)),
        "w4": rng.normal(0, 1.0, (5, 8, 1, 1)),
        "b4": rng.normal(0, 0.1, 5),
    }
    node = helper.make_node
    pads: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        node("Sub", ["pixels", "mean"], ["centred"], name="sub"),
        node("Div", ["centred", "std"], ["normal"], name="div"),
        node("Transpose", ["normal"], ["planes"], name="nchw", perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "w1", "b1"], ["c1"], name="conv1", **pads),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", **pads),
        node("Add", ["c2", "r1"], ["sum"], name="add"),
        node("Transpose", ["sum"], ["nhwc"], name="nhwc", perm=[0, 2, 3, 1]),
        node("LayerNormalization", ["nhwc", "gain", "shift"], ["norm"], name="norm"),
        node("MatMul", ["norm", "w3"], ["mixed"], name="product"),
        node("Softmax", ["mixed"], ["soft"], name="softmax"),
        node("Add", ["norm", "soft"], ["rest"], name="residual"),
        node("Transpose", ["rest"], ["last"], name="back", perm=[0, 3, 1, 2]),
        node("Conv", ["last", "w4", "b4"], ["logits.a"], name="head"),
    ]
    h, w = SIZE_HW
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", h, w, 3])],
        [helper.make_tensor_value_info("logits.a", TensorProto.FLOAT, ["N", 5, h, w])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_weight(model: onnx.ModelProto, name: str, change: float) -> onnx.ModelProto:
    """A copy in which one weight is multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == name)
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(change), name)
    )
    return copy


def types_computed(model: onnx.ModelProto) -> dict[str, str]:
    """Node → element type of its first output, for nodes that were in the graph from the start."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    infos = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    return {
        node.name: TensorProto.DataType.Name(infos[node.output[0]]).lower()  # type: ignore[arg-type]
        for node in graph.node
        if node.output[0] in infos
    }
