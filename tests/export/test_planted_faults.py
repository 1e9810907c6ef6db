"""Faults that have shipped in other projects, planted one by one: the gate must see each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from hp_export import verify as verify_module
from hp_export.blame import first_wrong_module, worst_layer
from hp_export.graph import HeadGraph, fold_batch_norm
from hp_export.half import to_half
from hp_export.model_file import write_model
from hp_export.observe import run_model
from hp_export.probes import figure
from hp_export.quantise import quantisable, quantise
from hp_export.sides import check_flip_pairs, other_side
from hp_export.to_onnx import to_onnx
from hp_export.verify import ROUNDED, TOLERANCES, Jury, Reference, compare, verify
from hp_sdk.bundle import Artifact, Bundle, HeadSpec, InputSpec
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ChecksumMismatch, CorruptArtifact, VerificationFailed
from hp_sdk.files import sha256_of
from hp_sdk.image import Pixels
from tests.export.small_graphs import SIZE_HW, small_model, with_weight

PARTS = ("background", "head", "torso", "left-arm", "right-arm")


class GraphReference:
    """Stands for the network: what the right graph answers."""

    heads = ("a",)

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model

    def __call__(self, pixels: Pixels) -> dict[str, np.ndarray]:
        return {"a": run_model(self._model, pixels)["logits.a"]}


def bundle_of(model: onnx.ModelProto, folder: Path, precision: str = "fp32") -> Bundle:
    (stored,) = write_model(folder, "model.onnx", model)
    artifact = Artifact(
        runtime="onnx",
        file=stored.file,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        heads=("a",),
        precision_asked=precision,
        precision_found=precision,
        batch_min=1,
        batch_opt=2,
        batch_max=4,
        size_hw=SIZE_HW,
        opset=18,
        outputs=("logits.a",),
    )
    domain = Domain(name="a", names=PARTS, flip_pairs=((3, 4),))
    return Bundle(
        root=folder,
        name="small",
        family="sst",
        version="1",
        license="CC0-1.0",
        input=InputSpec(size_hw=SIZE_HW),
        heads={"a": HeadSpec(domain, "logits.a", 1)},
        artifacts=(artifact,),
    )


Judge = Callable[..., list[dict[str, object]]]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Judges a graph against the right one."""

    def run(
        wrong: onnx.ModelProto,
        right: onnx.ModelProto | None = None,
        *,
        precision: str = "fp32",
        reference: object = None,
    ) -> list[dict[str, object]]:
        right = right or small_model()
        network = cast("Reference", reference or GraphReference(right))

        def suspect(_artifact: Artifact) -> str:
            found = worst_layer(right, wrong, figure(SIZE_HW)[np.newaxis])
            return "" if found is None else f"; look at {found.layer}"

        return verify(bundle_of(wrong, tmp_path, precision), Jury(network, suspect=suspect))

    return run


def test_the_right_graph_passes(judge: Judge) -> None:
    entries = judge(small_model())
    assert {entry["batch"] for entry in entries} == {1, 2, 4}
    assert {entry["verdict"] for entry in entries} == {"pass"}


def test_swapped_colours_are_seen(judge: Judge) -> None:
    wrong = small_model()
    tensor = next(t for t in wrong.graph.initializer if t.name == "w1")
    turned = np.ascontiguousarray(numpy_helper.to_array(tensor)[:, ::-1])
    tensor.CopyFrom(numpy_helper.from_array(turned, "w1"))
    with pytest.raises(VerificationFailed, match="look at conv1; no bundle was written"):
        judge(wrong)


def test_a_tampered_weight_is_seen_and_its_layer_is_named(judge: Judge) -> None:
    with pytest.raises(VerificationFailed, match="look at conv2; no bundle was written"):
        judge(with_weight(small_model(), "w2", 1.02))


def test_the_first_wrong_module_of_a_traced_network_is_named(plain_network: nn.Module) -> None:
    heads = ("cihp", "pascal")
    folded = fold_batch_norm(plain_network, torch.zeros(1, 3, 32, 32))
    graph = HeadGraph(folded, heads, mean=(120, 110, 100), std=(50, 60, 70)).eval()
    model = to_onnx(graph, (32, 32))
    image = figure((32, 32))[np.newaxis]
    assert first_wrong_module(graph, model, image) is None
    found = first_wrong_module(graph, with_weight(model, "network.heads.cihp.weight", 1.1), image)
    assert found is not None
    assert (found.layer, found.error > 0.01) == ("network.heads.cihp", True)


def test_an_overflow_in_float16_is_seen_and_its_layer_is_named(judge: Judge) -> None:
    right = with_weight(small_model(), "w1", 30_000)
    with pytest.raises(VerificationFailed, match=r"values are not finite"):
        judge(to_half(right), right, precision="fp16")


def test_float16_is_judged_with_every_value_rounded(judge: Judge) -> None:
    entries = judge(to_half(small_model()), precision="fp16")
    rounded = [entry for entry in entries if entry["runtime"] == ROUNDED]
    assert len(rounded) == 1
    assert cast("float", rounded[0]["max_abs"]) > 0


def test_int8_with_a_wrong_scale_is_seen(judge: Judge) -> None:
    model = small_model()
    layers = quantisable(model)
    clipped = {name: 0.05 for layer in layers for name in layer.tensors}
    with pytest.raises(VerificationFailed, match="the int8 artifact disagrees"):
        judge(quantise(model, clipped, layers), precision="int8")


def test_another_runtime_s_reading_of_int8_is_recorded_and_warned_of(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = small_model(), with_weight(small_model(), "w2", 3.0)
    open_right = verify_module._open

    def open_other(runtime: str, bundle: Bundle, artifact: Artifact) -> object:
        if runtime == "onnxruntime":
            return open_right(runtime, bundle, artifact)
        folder = bundle.root / "other"
        folder.mkdir(exist_ok=True)
        return open_right("onnxruntime", other := bundle_of(wrong, folder), other.artifacts[0])

    monkeypatch.setattr(verify_module, "OTHER_RUNTIMES", ("openvino",))
    monkeypatch.setattr(verify_module, "_open", open_other)
    entries = judge(right, precision="int8")
    verdicts = {entry["runtime"]: entry["verdict"] for entry in entries}
    assert verdicts == {"onnxruntime": "pass", "openvino": "fail"}
    assert "open it with backend onnxruntime" in caplog.text
    with pytest.raises(VerificationFailed, match=r"\(openvino\)"):
        judge(right, precision="fp32")


def pooled_model(kernel: tuple[int, int]) -> onnx.ModelProto:
    """Pixels, averaged with a fixed kernel and enlarged again, as logits of three classes."""
    h, w = SIZE_HW
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["x"], ["planes"], name="nchw", perm=[0, 3, 1, 2]),
            helper.make_node(
                "AveragePool",
                ["planes"],
                ["pooled"],
                name="pool",
                kernel_shape=kernel,
                strides=kernel,
            ),
            helper.make_node(
                "Resize",
                ["pooled", "", "scales"],
                ["logits.a"],
                name="grow",
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            ),
        ],
        "pooled",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", h, w, 3])],
        [helper.make_tensor_value_info("logits.a", TensorProto.FLOAT, ["N", 3, h, w])],
        [numpy_helper.from_array(np.array([1, 1, *kernel], np.float32), "scales")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


class PoolReference:
    """Adaptive pooling to 2x2, whatever the size."""

    heads = ("a",)

    def __call__(self, pixels: Pixels) -> dict[str, np.ndarray]:
        planes = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        pooled = functional.adaptive_avg_pool2d(planes, 2)
        return {"a": functional.interpolate(pooled, SIZE_HW, mode="bilinear").numpy()}


def test_an_adaptive_pool_baked_for_another_size_is_seen(judge: Judge) -> None:
    h, w = SIZE_HW
    judge(pooled_model((h // 2, w // 2)), reference=PoolReference())
    with pytest.raises(VerificationFailed, match="head a at batch 1"):
        judge(pooled_model((h // 4, w // 4)), reference=PoolReference())


def test_a_truncated_file_is_seen(tmp_path: Path) -> None:
    bundle = bundle_of(small_model(), tmp_path)
    path = tmp_path / "model.onnx"
    path.write_bytes(path.read_bytes()[:-200])
    jury = Jury(cast("Reference", GraphReference(small_model())))
    with pytest.raises(ChecksumMismatch, match="truncated"):
        verify(bundle, jury)
    (artifact,) = bundle.artifacts
    forged = replace(artifact, sha256=sha256_of(path), size_bytes=path.stat().st_size)
    with pytest.raises(CorruptArtifact, match=r"model\.onnx"):
        verify(replace(bundle, artifacts=(forged,)), jury)


def test_pixels_at_a_tie_do_not_fail_the_gate() -> None:
    """Rounding decides ties; a handful of them is no fault."""
    expected = np.random.default_rng(0).normal(size=(2, 5, 40, 40)).astype(np.float32)
    expected[0, :2, 7, 9] = (8.0, 8.0 - 1e-5)
    found = expected.copy()
    found[0, :2, 7, 9] = (8.0 - 1e-5, 8.0)
    agreement = compare(expected, found, head="a", batch=1)
    assert agreement.label_agreement < 1
    assert agreement.margin == pytest.approx(1e-5, rel=0.1)
    assert agreement.faults(TOLERANCES["fp32"]) == []


@pytest.mark.parametrize("name", ["pascal", "atr", "lip", "cihp", "ccp"])
def test_the_flip_pairs_of_shipped_domains_fit_their_names(name: str) -> None:
    check_flip_pairs(load_domain(name))


def test_a_wrong_flip_pair_is_seen() -> None:
    right = load_domain("cihp")
    (a, b), (c, d), *rest = right.flip_pairs
    wrong = replace(right, flip_pairs=((a, c), (b, d), *rest))
    with pytest.raises(VerificationFailed, match="swaps 'left-arm' with 'left-leg'"):
        check_flip_pairs(wrong)
    with pytest.raises(VerificationFailed, match="its twin is 'right-arm'"):
        check_flip_pairs(replace(right, flip_pairs=()))


def test_sides_are_read_from_words_not_from_syllables() -> None:
    assert other_side("left-shoe") == "right-shoe"
    assert other_side("Right_arm") == "left_arm"
    assert other_side("bright-top") is None
    assert other_side("face") is None
