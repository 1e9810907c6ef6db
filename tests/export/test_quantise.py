"""int8: symmetric, per channel, calibrated, and only where the labels bear it."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from hp_export import precision
from hp_export.calibrate import (
    BINS,
    CLIPS,
    Histogram,
    choose_layers,
    clip_values,
    count_layer_macs,
    expected_harm,
    histograms,
)
from hp_export.census import take_census
from hp_export.observe import run_model
from hp_export.photos import Photos
from hp_export.precision import Evidence, apply_precision
from hp_export.probes import probe_images
from hp_export.quantise import Layer, quantisable, quantise, weight_noise, weight_scale
from tests.export.small_graphs import SIZE_HW, small_model

IMAGES = np.stack(list(probe_images(SIZE_HW).values()))
PHOTOS = Photos(IMAGES[0::2], IMAGES[1::2])


def int8_model(model: onnx.ModelProto) -> onnx.ModelProto:
    layers = quantisable(model)
    measured = {name: seen for layer in layers for name, seen in layer.tensors.items()}
    clips = clip_values(histograms(model, set(measured.values()), IMAGES))["largest"]
    return quantise(model, {name: clips[seen] for name, seen in measured.items()}, layers)


def test_layers_with_weights_may_be_int8_but_not_the_logits() -> None:
    assert [layer.name for layer in quantisable(small_model())] == ["conv1", "conv2", "product"]


def test_zero_points_are_zero_and_weights_have_a_scale_per_channel() -> None:
    quantised = int8_model(small_model())
    onnx.checker.check_model(quantised, full_check=True)
    arrays = {t.name: numpy_helper.to_array(t) for t in quantised.graph.initializer}
    for node in quantised.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not arrays[node.input[2]].any()
            assert arrays[node.input[2]].dtype == np.int8
    assert arrays["w1.scale"].shape == (8,)
    assert arrays["w1.int8"].dtype == np.int8
    assert np.abs(arrays["w1.int8"]).max(axis=(1, 2, 3)).tolist() == [127] * 8
    assert arrays["r1.scale"].shape == ()


def test_biases_stay_as_they_are() -> None:
    quantised = int8_model(small_model())
    types = {t.name: t.data_type for t in quantised.graph.initializer}
    assert types["b1"] == types["b2"] == TensorProto.FLOAT
    assert TensorProto.INT32 not in types.values()


def test_float_weights_leave_the_file() -> None:
    names = {tensor.name for tensor in int8_model(small_model()).graph.initializer}
    assert names.isdisjoint({"w1", "w2", "w3"})
    assert "w4" in names


def test_answers_stay_close() -> None:
    model = small_model()
    right, found = run_model(model, IMAGES)["logits.a"], run_model(int8_model(model), IMAGES)
    difference = np.abs(right - found["logits.a"])
    assert 0 < difference.mean() < 0.03 * np.abs(right).max()


def test_a_convolution_before_a_relu_is_clipped_by_what_the_relu_lets_through() -> None:
    first, second, product = quantisable(small_model())
    assert first.tensors == {"planes": "planes", "c1": "r1"}
    assert second.tensors == {"r1": "r1", "c2": "c2"}
    assert product.tensors == {"norm": "norm"}


def test_the_scale_of_a_channel_without_weights_is_no_zero() -> None:
    weights = np.zeros((2, 3), np.float32)
    weights[:, 1] = (0.5, -1.27)
    scale = weight_scale(weights, axis=1)
    assert scale[1] == pytest.approx(0.01)
    assert (scale > 0).all()


def test_clipping_spares_the_many_and_cuts_the_rare() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // 4] = 10_000
    counts[-1] = 1  # one outlier at the largest value
    assert CLIPS["largest"](counts) == 1
    for rule in ("percentile", "mse"):
        assert CLIPS[rule](counts) == pytest.approx(0.25, rel=0.1)
    counts[-1] = 100_000
    for rule in ("percentile", "mse"):
        assert CLIPS[rule](counts) == pytest.approx(1.0, rel=0.03)


def test_an_outlier_makes_noise_of_everything_else() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[: BINS // 64] = 10_000
    spread = Histogram(2.0, np.full(BINS, 100))
    with_outlier = Histogram(2.0, counts + (np.arange(BINS) == BINS - 1))
    assert with_outlier.noise(2.0) > 100 * spread.noise(2.0)
    assert with_outlier.noise(2.0 / 64) < with_outlier.noise(2.0)
    assert Histogram(0.0, counts).noise(0.0) == 0
    weights = np.random.default_rng(0).normal(size=(8, 1000))
    calm = weight_noise(weights, axis=0)
    assert 0 < calm < 1e-4
    weights[:, 0] = 10
    assert weight_noise(weights, axis=0) > 3 * calm


def test_noise_is_expected_where_the_rounding_is_coarse() -> None:
    model = small_model()
    layers = quantisable(model)
    seen = histograms(model, {name for each in layers for name in each.tensors.values()}, IMAGES)
    clips = clip_values(seen)["largest"]
    harm = expected_harm(model, layers, seen, clips)
    assert harm.keys() == {"conv1", "conv2", "product"}
    assert all(0 < value < 0.01 for value in harm.values())
    coarse = expected_harm(model, layers, seen, clips | {"norm": 100 * clips["norm"]})
    assert coarse["product"] > 100 * harm["product"]
    assert coarse["conv1"] == harm["conv1"]


def layer(name: str) -> Layer:
    return Layer(name=name, operator="Conv", data="x", weight="w", output="y", watched="y")


EQUAL = dict.fromkeys("abcde", 100)


def test_a_large_layer_is_worth_more_harm_than_a_small_one() -> None:
    harm = {"a": 0.03, "b": 0.02, "c": 0.001}

    def agreement(chosen: Collection[Layer]) -> float:
        return 1 - sum(harm[one.name] for one in chosen)

    layers = [layer(name) for name in harm]
    choice = choose_layers(layers, agreement, macs={"a": 900, "b": 10, "c": 10}, required=0.96)
    assert choice.kept == ("b",)


def test_arithmetic_is_counted_per_layer() -> None:
    model = small_model()
    h, w = SIZE_HW
    assert count_layer_macs(model, quantisable(model), IMAGES[:1]) == {
        "conv1": h * w * 8 * 27,
        "conv2": h * w * 8 * 72,
        "product": h * w * 8 * 8,
    }


def test_all_layers_are_taken_if_together_they_pass() -> None:
    layers = [layer(name) for name in "abc"]
    choice = choose_layers(layers, lambda chosen: 1 - 0.01 * len(chosen), macs=EQUAL, required=0.97)
    assert (choice.layers, choice.kept) == (tuple(layers), ())


def test_the_most_harmful_layers_stay_out_and_no_more_than_needed() -> None:
    harm = {"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.02, "e": 0.003}

    def agreement(chosen: Collection[Layer]) -> float:
        return 1 - sum(harm[one.name] for one in chosen)

    choice = choose_layers([layer(name) for name in harm], agreement, macs=EQUAL, required=0.99)
    assert choice.kept == ("b", "d")
    assert {one.name for one in choice.layers} == {"a", "c", "e"}
    assert choice.agreement == pytest.approx(0.994)


def test_layers_whose_harm_is_expected_are_not_tried_alone_but_the_choice_is_measured() -> None:
    harm = {"a": 0.001, "b": 0.05, "c": 0.002, "d": 0.02, "e": 0.003}
    asked: list[int] = []

    def agreement(chosen: Collection[Layer]) -> float:
        asked.append(len(chosen))
        return 1 - sum(harm[one.name] for one in chosen)

    layers = [layer(name) for name in harm]
    choice = choose_layers(
        layers, agreement, macs=EQUAL, required=0.99, expected=lambda: dict(harm, d=0.0001)
    )
    assert asked.count(1) <= 2  # at the end of a ranking
    assert len(asked) <= 7
    assert choice.agreement >= 0.99
    assert {"b", "d"} <= set(choice.kept)  # no wrong guess gets a layer past the measurement


def test_a_gate_that_nothing_passes_leaves_everything_as_it_was() -> None:
    layers = [layer(name) for name in "abc"]
    choice = choose_layers(
        layers, lambda chosen: 1.0 if not chosen else 0.5, macs=EQUAL, required=0.97
    )
    assert choice.layers == ()


def test_int8_says_which_layers_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(precision.TOLERANCES["int8"], miou=0.99)
    monkeypatch.setitem(precision.TOLERANCES, "int8", strict)
    lowered = apply_precision(small_model(), "int8", Evidence(IMAGES, PHOTOS))
    census = take_census(lowered.model)
    kept = lowered.notes["kept_fp32"]
    assert census.computes.get("int8", 0) == 3 - len(kept)
    assert census.computes["float32"] == 1 + len(kept)
    assert lowered.notes["miou_all_int8"].keys() == CLIPS.keys()
    assert lowered.notes["clip"] in CLIPS
    assert lowered.notes["ranked_by"] == "labels, each layer alone"


def test_the_best_rule_of_clipping_is_not_measured_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    lenient = replace(precision.TOLERANCES["int8"], miou=0.0)
    monkeypatch.setitem(precision.TOLERANCES, "int8", lenient)
    asked: list[onnx.ModelProto] = []

    def remember(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
        asked.append(model)
        return run_model(model, images)

    monkeypatch.setattr(precision, "run_model", remember)
    lowered = apply_precision(small_model(), "int8", Evidence(IMAGES, PHOTOS))
    assert not lowered.notes["kept_fp32"]
    assert len(asked) == 1 + len(CLIPS)


def test_int8_says_that_a_search_was_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(precision.TOLERANCES["int8"], miou=0.99)
    monkeypatch.setitem(precision.TOLERANCES, "int8", strict)
    monkeypatch.setattr(precision, "SEARCH_MACS", 1)
    lowered = apply_precision(small_model(), "int8", Evidence(IMAGES, PHOTOS))
    assert lowered.notes["kept_fp32"]
    assert lowered.notes["ranked_by"].startswith("rounding noise of each layer, because")
