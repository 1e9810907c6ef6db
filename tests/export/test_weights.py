"""Graph and weights apart: nothing is copied that need not be, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hp_export import observe, weights
from hp_export.blame import worst_layer
from hp_export.half import rounded_in_float, to_half
from hp_export.model_file import write_model
from hp_export.observe import largest_values, look_inside, run_model, sizes_of_tensors
from hp_export.probes import probe_images
from hp_export.quantise import quantise
from hp_export.weights import save_apart, with_weights, without_large_weights
from hp_sdk.backends.ort import OrtBackend
from tests.export.small_graphs import SIZE_HW, small_model, with_weight

IMAGES = np.stack(list(probe_images(SIZE_HW).values()))
COLUMNS = 100_000
INNER = {"r1", "c2", "norm", "soft", "logits.a"}


def test_a_copy_with_other_weights_keeps_everything_else() -> None:
    model = small_model()
    helper.set_model_props(model, {"who": "me"})
    model.producer_name, model.producer_version = "torch", "2"
    copy = with_weights(model, model.graph.initializer)
    assert copy == model
    assert not with_weights(model, ()).graph.initializer
    assert model.graph.initializer


def test_large_weights_become_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "LARGE_BYTES", 500)
    light, large = without_large_weights(small_model())
    assert {tensor.name for tensor in large} == {"w1", "w2"}
    assert {value.name for value in light.graph.input} == {"image", "w1", "w2"}
    assert observe.tensor_types(small_model())["c2"] == TensorProto.FLOAT


@pytest.mark.parametrize("larger_than", [-1, 200, 1 << 20])
def test_weights_beside_the_graph_answer_the_same(tmp_path: Path, larger_than: int) -> None:
    model = small_model()
    path = tmp_path / "model.onnx"
    before = model.SerializeToString()
    light = save_apart(model, path, larger_than=larger_than)
    assert model.SerializeToString() == before
    assert onnx.load(path, load_external_data=False) == light
    onnx.checker.check_model(str(path), full_check=True)
    read = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(read[tensor.name], numpy_helper.to_array(tensor))
    found = OrtBackend(path).run(IMAGES[:1])["logits.a"]
    np.testing.assert_array_equal(found, run_model(model, IMAGES[:1])["logits.a"])


def test_weights_of_every_type_are_written(tmp_path: Path) -> None:
    half = to_half(small_model())
    typed = half.graph.initializer[0]
    values = numpy_helper.to_array(typed)
    typed.ClearField("raw_data")
    typed.data_type = TensorProto.FLOAT
    typed.float_data.extend(values.astype(np.float32).ravel())
    save_apart(half, tmp_path / "model.onnx", larger_than=0)
    for kept, read in zip(
        half.graph.initializer, onnx.load(tmp_path / "model.onnx").graph.initializer, strict=True
    ):
        np.testing.assert_array_equal(numpy_helper.to_array(kept), numpy_helper.to_array(read))


def test_large_weights_are_not_copied_to_look_at_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    infer = onnx.shape_inference.infer_shapes

    def remember(model: onnx.ModelProto) -> onnx.ModelProto:
        asked.append(model.ByteSize())
        return infer(model)

    heavy, infos = _heavy(), {}
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", remember)
    for name, values in look_inside(heavy, {"mixed"}, IMAGES[:1]):
        infos[name] = values.shape
    assert infos == {"mixed": (1, *SIZE_HW, COLUMNS)}
    largest_values(heavy, {"mixed"}, IMAGES[:1])
    assert max(asked) < 10_000 < heavy.ByteSize()


def test_no_pass_copies_the_weights_it_changes_nothing_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_model: onnx.ModelProto) -> onnx.ModelProto:
        raise AssertionError("a copy of everything")

    model = small_model()
    passes: list[Callable[[], object]] = [
        lambda: to_half(model),
        lambda: rounded_in_float(to_half(model)),
        lambda: quantise(model, {}, []),
        lambda: write_model(tmp_path, "model.onnx", model, limit_bytes=0),
    ]
    for module in ("half", "quantise", "model_file"):
        monkeypatch.setattr(f"hp_export.{module}.copy_of", refuse, raising=False)
    before = model.SerializeToString()
    for run in passes:
        run()
    assert model.SerializeToString() == before


def test_the_largest_values_are_those_that_are_there() -> None:
    model = small_model()
    expected = dict.fromkeys(INNER, 0.0)
    for name, values in look_inside(model, INNER, IMAGES):
        expected[name] = max(expected[name], float(np.abs(values).max()))
    assert largest_values(model, INNER, IMAGES) == pytest.approx(expected)


def test_a_value_that_is_no_number_makes_the_largest_none() -> None:
    found = largest_values(with_weight(small_model(), "b2", np.nan), INNER, IMAGES[:2])
    assert np.isnan(found["c2"])
    assert np.isfinite(found["r1"])


def test_many_tensors_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    class Counted(OrtBackend):
        def __init__(self, path: Path, *rest: object) -> None:
            opened.append(path)
            super().__init__(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(observe, "OrtBackend", Counted)
    monkeypatch.setattr(observe, "_GROUP_ELEMENTS", 1)
    largest_values(small_model(), INNER, IMAGES)
    assert len(opened) == 1


def test_what_is_looked_at_first_is_computed_first() -> None:
    order = observe._last_first(small_model())
    assert order.index("logits.a") < order.index("norm") < order.index("r1") < order.index("image")


def test_a_tensor_without_elements_has_no_largest_value() -> None:
    model = small_model()
    model.graph.node.insert(0, helper.make_node("Slice", ["b4", "zero", "zero"], ["none"]))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    assert largest_values(model, {"none", "r1"}, IMAGES[:1])["none"] == 0


def test_sizes_are_those_of_one_picture() -> None:
    h, w = SIZE_HW
    sizes = sizes_of_tensors(small_model(), {"c1", "logits.a"}, IMAGES[:1])
    assert sizes == {"c1": 8 * h * w, "logits.a": 5 * h * w}


def test_the_layer_to_blame_is_found_with_few_tensors_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "_GROUP_ELEMENTS", 1)
    alive: list[str] = []
    look = observe.look_inside

    def watched(model: onnx.ModelProto, names: set[str], images: np.ndarray):
        for name, values in look(model, names, images):
            alive.append(name)
            yield name, values

    monkeypatch.setattr("hp_export.blame.look_inside", watched)
    found = worst_layer(small_model(), with_weight(small_model(), "w2", 1.02), IMAGES[:1])
    assert found is not None
    assert found.layer == "conv2"
    assert alive[0::2] == alive[1::2]  # each tensor of the one beside that of the other


def _heavy() -> onnx.ModelProto:
    """`small_model` up to its product, whose weight takes megabytes."""
    model, (h, w) = small_model(), SIZE_HW
    wide = numpy_helper.from_array(np.zeros((8, COLUMNS), np.float32), "w3")
    next(t for t in model.graph.initializer if t.name == "w3").CopyFrom(wide)
    product = [node.name for node in model.graph.node].index("product")
    del model.graph.node[product + 1 :], model.graph.output[:]
    output = helper.make_tensor_value_info("mixed", TensorProto.FLOAT, ["N", h, w, COLUMNS])
    model.graph.output.append(output)
    return model
