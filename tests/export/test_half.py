"""float16 where it is safe, float32 where it is not, and no overflow that goes unseen."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from hp_export.census import take_census
from hp_export.half import out_of_range, rounded_in_float, to_half
from hp_export.observe import run_model
from hp_export.precision import Evidence, apply_precision
from hp_export.probes import probe_images
from hp_export.to_onnx import quiet
from hp_trainer.models.encoder import CORES
from tests.export.small_graphs import SIZE_HW, small_model, types_computed, with_weight

IMAGES = np.stack(list(probe_images(SIZE_HW).values()))


def test_convolutions_and_products_compute_in_float16() -> None:
    found = types_computed(to_half(small_model()))
    assert {found[name] for name in ("conv1", "relu1", "conv2", "add", "product")} == {"float16"}


def test_islands_stay_in_float32() -> None:
    found = types_computed(to_half(small_model()))
    assert {found[n] for n in ("sub", "div", "norm", "softmax", "head")} == {"float"}


def test_inputs_and_outputs_keep_their_types() -> None:
    half = to_half(small_model())
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert half.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_answers_stay_close_even_with_every_value_rounded() -> None:
    model = small_model()
    right = run_model(model, IMAGES)["logits.a"]
    rounded = run_model(rounded_in_float(to_half(model)), IMAGES)["logits.a"]
    difference = np.abs(right - rounded).max()
    assert 0 < difference < 2e-2 * np.abs(right).max()


def test_a_tensor_cast_for_several_nodes_is_cast_once() -> None:
    half = to_half(small_model())
    sources = [node.input[0] for node in half.graph.node if node.op_type == "Cast"]
    assert len(sources) == len(set(sources))


def test_layers_whose_values_leave_the_range_stay_in_float32() -> None:
    model = with_weight(small_model(), "w1", 20_000)
    kept = out_of_range(model, IMAGES)
    assert {"conv1", "relu1", "conv2"} <= kept
    assert "softmax" not in kept
    lowered = apply_precision(model, "fp16", Evidence(IMAGES))
    assert types_computed(lowered.model)["conv2"] == "float"
    assert "conv1" in lowered.notes["kept_fp32"]
    found = run_model(rounded_in_float(lowered.model), IMAGES)["logits.a"]
    assert np.isfinite(found).all()


def test_an_overflow_shows_where_every_value_is_rounded() -> None:
    model = to_half(with_weight(small_model(), "w1", 30_000))
    assert not np.isfinite(run_model(rounded_in_float(model), IMAGES)["logits.a"]).all()


def test_the_census_counts_what_computes_in_which_type() -> None:
    census = take_census(to_half(small_model()))
    assert census.precision == "fp16"
    assert census.computes == {"float16": 3, "float32": 1}


@pytest.mark.parametrize("core", ["grid_sample", "gather"])
def test_sampling_positions_stay_in_float32(core: str) -> None:
    """Coordinates, bilinear weights and their sum: half a pixel would be lost at 64 columns."""

    class Sampler(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.nn.Linear(8, 8)
            self.offsets = torch.nn.Linear(8, 2 * 2 * 4)
            self.out = torch.nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n, tokens, _ = x.shape
            value = self.value(x).reshape(n, tokens, 2, 4)
            places = self.offsets(x).reshape(n, tokens, 2, 1, 4, 2).sigmoid()
            weights = torch.full((n, tokens, 2, 1, 4), 0.25)
            sampled = CORES[core](value, [(4, 6)], places, weights)
            return self.out(self.out(sampled))

    with quiet():
        program = torch.onnx.export(
            Sampler().eval(), (torch.randn(1, 24, 8),), dynamo=True, opset_version=18, verbose=False
        )
    assert program is not None
    model = program.model_proto
    for k, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}.{k}"
    half = to_half(model)
    types = types_computed(half)
    samplers = {"GridSample"} if core == "grid_sample" else {"Floor", "Abs", "ReduceSum"}
    kinds = {types[n.name] for n in half.graph.node if n.op_type in samplers}
    assert kinds == {"float"}
    products = [types[n.name] for n in half.graph.node if n.op_type in ("MatMul", "Gemm")]
    assert products.count("float16") >= 2  # the value and the first product behind the sampling
    weights = {t.name: numpy_helper.to_array(t).dtype for t in half.graph.initializer}
    assert np.dtype(np.float16) in weights.values()
