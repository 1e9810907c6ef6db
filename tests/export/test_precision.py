"""Precision lies in the file: what was asked for is what is found there."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hp_export.census import take_census
from hp_export.precision import apply_precision
from hp_sdk.errors import ConfigError, ExportError


def model_with(weight: np.ndarray) -> onnx.ModelProto:
    """y = x W + b with W (in, out) and a small bias."""
    inputs, outputs = weight.shape
    bias = np.linspace(0, 0.1, outputs, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)


def test_fp32_changes_nothing(weight: np.ndarray) -> None:
    model = model_with(weight)
    assert apply_precision(model, "fp32").model == model


def test_fp16_weights_halve_the_file_and_compute_in_float32(weight: np.ndarray) -> None:
    model = model_with(weight)
    stored = apply_precision(model, "fp16-weights").model
    onnx.checker.check_model(stored, full_check=True)
    assert stored.ByteSize() < 0.6 * model.ByteSize()
    x = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)
    bias = numpy_helper.to_array(model.graph.initializer[1])
    (result,) = ReferenceEvaluator(stored).run(None, {"x": x})
    found = np.asarray(result)
    expected = x @ weight.astype(np.float16).astype(np.float32) + bias
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_small_tensors_keep_their_precision(weight: np.ndarray) -> None:
    stored = apply_precision(model_with(weight), "fp16-weights").model
    types = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    assert types == {"weight.fp16": TensorProto.FLOAT16, "bias": TensorProto.FLOAT}


def test_the_model_given_is_not_changed(weight: np.ndarray) -> None:
    model = model_with(weight)
    before = model.SerializeToString()
    apply_precision(model, "fp16-weights")
    assert model.SerializeToString() == before


def test_a_weight_that_float16_cannot_hold_is_refused(weight: np.ndarray) -> None:
    weight[3, 3] = 70_000
    with pytest.raises(ExportError, match="'weight' reaches 70000"):
        apply_precision(model_with(weight), "fp16-weights")


def test_a_weight_that_is_no_number_is_refused(weight: np.ndarray) -> None:
    weight[3, 3] = np.nan
    with pytest.raises(ExportError, match="'weight' reaches nan"):
        apply_precision(model_with(weight), "fp16-weights")


@pytest.mark.parametrize("precision", ["fp8", "FP32", ""])
def test_a_precision_that_is_not_offered_is_refused_with_what_is(precision: str) -> None:
    with pytest.raises(ConfigError, match="this version writes fp32, fp16-weights, fp16, int8"):
        apply_precision(onnx.ModelProto(), precision)


@pytest.mark.parametrize("precision", ["fp32", "fp16-weights"])
def test_the_census_finds_the_precision_that_was_asked_for(
    weight: np.ndarray, precision: str
) -> None:
    assert take_census(apply_precision(model_with(weight), precision).model).precision == precision


def test_the_census_tells_storage_from_arithmetic(weight: np.ndarray) -> None:
    model = model_with(weight.astype(np.float16))
    assert take_census(model).precision == "fp16"
    assert take_census(model).weights == {"float16": 4096, "float32": 128}
