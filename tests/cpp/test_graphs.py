"""Graphs unlike the bundled one: half precision, a fixed batch, stretched photos, wrong shapes."""

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.domains import Domain
from hp_sdk.errors import InputError, SchemaMismatch
from hp_sdk.testing import make_bundle

onnx = pytest.importorskip("onnx", reason="needs onnx to make graphs")

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]

HW = (32, 48)
COLOURS = Domain(name="colours", names=("background", "left-glove", "right-glove"))


def graph_of(*, half=False, batch="N", channels=3, input_type="UINT8"):
    """A network whose three classes are the mean red, green and blue of 4 x 4 pixels."""
    node, types = onnx.helper.make_node, onnx.TensorProto
    answer = types.FLOAT16 if half else types.FLOAT
    nodes = [
        node("Cast", ["image"], ["real"], to=types.FLOAT),
        node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["planes"], ["means"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Cast", ["means"], ["logits.colours"], to=answer),
    ]
    image = onnx.helper.make_tensor_value_info(
        "image", getattr(types, input_type), [batch, *HW, channels]
    )
    cells = [batch, channels, HW[0] // 4, HW[1] // 4]
    logits = onnx.helper.make_tensor_value_info("logits.colours", answer, cells)
    graph = onnx.helper.make_graph(nodes, "colours", [image], [logits])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    return model.SerializeToString()


def blocks(sizes):
    """Photos of 5 x 4 blocks of one colour."""
    rng = np.random.default_rng(8)
    coarse = [rng.integers(0, 256, (5, 4, 3), dtype=np.uint8) for _ in sizes]
    return [
        np.repeat(np.repeat(each, h // 5 + 1, 0), w // 4 + 1, 1)[:h, :w].copy()
        for each, (h, w) in zip(coarse, sizes, strict=True)
    ]


def bundle_of(folder, *, resize="letterbox", **graph):
    make_bundle(
        folder,
        domains=[COLOURS],
        size_hw=HW,
        resize=resize,
        runtime="onnx",
        content=graph_of(**graph),
    )
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"half": True},
        {"batch": 3},
        {"resize": "stretch"},
        {"resize": "stretch", "half": True},
        {"resize": "shortest-side"},
        {"resize": "shortest-side", "half": True, "batch": 3},
    ],
)
def test_other_graphs_agree_with_python(native, runtime, tmp_path, kind):
    folder = bundle_of(tmp_path / "bundle", **kind)
    photos = blocks([(40, 50), (99, 20), (32, 48), (7, 130), (64, 96)])
    with Parser.load(folder, backend=runtime, device="cpu", num_threads=1) as ours:
        expected = ours.predict(photos, tta="ms+flip")
        plain = ours.predict(photos)
    with native.load(folder, backend=runtime) as theirs:
        found = theirs.parse(photos, tta="ms+flip")
        assert found[0].names == COLOURS.names
        for a, b in zip(found, expected, strict=True):
            assert (a.labels == b.labels).mean() >= 0.999
        for a, b in zip(theirs.parse(photos), plain, strict=True):
            assert (a.labels == b.labels).mean() >= 0.999
            assert len(np.unique(a.labels)) > 1


@pytest.mark.parametrize("resize", ["letterbox", "shortest-side"])
@pytest.mark.parametrize("tta", ["graphonomy", "schnet+flip"])
def test_the_sets_of_the_papers_are_read_through_windows_as_in_python(
    native, onnxruntime_only, tmp_path, resize, tta
):
    folder = bundle_of(tmp_path / "bundle", resize=resize)
    photos = blocks([(40, 50), (20, 99), (140, 48)])
    with Parser.load(folder, backend="onnxruntime", device="cpu", num_threads=1) as ours:
        expected = ours.predict(photos, tta=tta, confidence=True)
    with native.load(folder, backend="onnxruntime", tta=tta) as theirs:
        for a, b in zip(theirs.parse(photos, confidence=True), expected, strict=True):
            assert (a.labels == b.labels).mean() >= 0.999
            assert np.abs(a.confidence.astype(int) - b.confidence).max() <= 1


def test_windows_are_more_inputs_than_a_run_takes(native, onnxruntime_only, tmp_path):
    """The bundle's usual batch is 2; the long photo has more than ten windows."""
    folder = bundle_of(tmp_path / "bundle", resize="shortest-side")
    photos = blocks([(32, 190), (32, 48)])
    with Parser.load(folder, backend="onnxruntime", device="cpu", num_threads=1) as ours:
        expected = ours.predict(photos)
    with native.load(folder, backend="onnxruntime") as theirs:
        for a, b in zip(theirs.parse(photos), expected, strict=True):
            assert (a.labels == b.labels).mean() >= 0.999


def test_a_photo_that_would_fill_all_memory_is_refused_by_name(native, onnxruntime_only, tmp_path):
    folder = bundle_of(tmp_path / "bundle", resize="shortest-side")
    manifest = folder / "bundle.json"
    text = manifest.read_text("utf-8")
    manifest.write_text(text.replace('"layout"', '"longest_px": 2000000000, "layout"'), "utf-8")
    with (
        native.load(folder, backend="onnxruntime") as parser,
        pytest.raises(InputError, match=r"1 x 2000000 .*cut it into parts"),
    ):
        parser.parse([np.zeros((1, 2_000_000, 3), np.uint8)])


@pytest.mark.parametrize("kind", [{"channels": 4}, {"input_type": "INT8"}])
def test_a_graph_with_another_input_is_refused(native, runtime, tmp_path, kind):
    folder = bundle_of(tmp_path / "bundle", **kind)
    with pytest.raises(SchemaMismatch, match="expected is one uint8 input"):
        native.load(folder, backend=runtime)


def test_a_graph_with_other_classes_is_refused(native, runtime, tmp_path):
    folder = tmp_path / "bundle"
    more = Domain(name="colours", names=("background", "a", "b", "c"))
    make_bundle(folder, domains=[more], size_hw=HW, runtime="onnx", content=graph_of())
    photo = np.zeros((9, 9, 3), np.uint8)
    with (
        native.load(folder, backend=runtime) as parser,
        pytest.raises(SchemaMismatch, match=r"3 classes .* has 4"),
    ):
        parser.parse([photo])
