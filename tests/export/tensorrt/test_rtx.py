"""Real engines, built by TensorRT-RTX without a GPU."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hp_export.tensorrt.__main__ import main
from hp_export.tensorrt.engines import build_engines, describe_library
from hp_export.tensorrt.kit import write_kit
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.plan import inspect_plan
from hp_export.write import ExportReport
from hp_sdk.bundle import read_bundle, verify_files
from hp_sdk.errors import CorruptArtifact, ExportError
from hp_sdk.models import find_bundle

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"
    ),
]
ModelOf = Callable[[list[onnx.NodeProto], dict[str, np.ndarray]], onnx.ModelProto]
SMALL = EngineOptions(batch=(1, 2, 4))
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


def test_the_library_knows_the_compute_capabilities_we_build_for() -> None:
    library = describe_library("tensorrt-rtx")
    assert set(CAPABILITIES) <= set(library.capabilities)
    assert library.strongly_typed


def test_an_engine_for_each_gpu_says_in_its_header_which_it_is_for(
    onnx_file: Path, tmp_path: Path
) -> None:
    options = replace(SMALL, compute_capabilities=(*CAPABILITIES, "7.5+12.1"))
    artifacts = build_engines(onnx_file, tmp_path, options)
    reports = [inspect_plan(tmp_path / artifact.file) for artifact in artifacts]
    assert [r.compute_capabilities for r in reports] == [
        *((c,) for c in CAPABILITIES),
        ("7.5", "12.1"),
    ]
    version = describe_library("tensorrt-rtx").version
    assert {report.version for report in reports} == {version}
    assert not any(report.and_newer for report in reports)
    assert all(report.notes == () for report in reports)


def test_a_portable_engine_runs_on_all_of_them_and_on_newer_ones(
    onnx_file: Path, tmp_path: Path
) -> None:
    (artifact,) = build_engines(onnx_file, tmp_path, SMALL)
    report = inspect_plan(tmp_path / artifact.file)
    assert set(CAPABILITIES) <= set(report.compute_capabilities)
    assert report.and_newer
    whole = (tmp_path / artifact.file).read_bytes()
    (tmp_path / artifact.file).write_bytes(whole[:-1])
    with pytest.raises(CorruptArtifact, match=f"its header says {len(whole)}"):
        inspect_plan(tmp_path / artifact.file)


@pytest.mark.timeout(900)  # an export comes first if no other test needed it
def test_the_smallest_sst_builds_for_every_gpu(exported: ExportReport, tmp_path: Path) -> None:
    origin = exported.bundle.artifacts[0]
    options = EngineOptions(batch=(1, 2, 4), compute_capabilities=("+".join(CAPABILITIES),))
    (artifact,) = build_engines(exported.bundle.root / origin.file, tmp_path, options)
    assert artifact.heads == ("pascal", "cihp")
    report = inspect_plan(tmp_path / artifact.file)
    assert report.compute_capabilities == CAPABILITIES
    assert report.sidecar is not None
    assert report.sidecar.outputs["logits.cihp"] == {"dtype": "float", "shape": [-1, 20, 16, 24]}


def test_the_bundled_model_builds_for_every_gpu(tmp_path: Path) -> None:
    root, _head = find_bundle("universal")
    origin = read_bundle(root).artifacts[0]
    options = EngineOptions(batch=(1, 1, 1), compute_capabilities=("+".join(CAPABILITIES),))
    (artifact,) = build_engines(root / origin.file, tmp_path, options)
    assert artifact.outputs == origin.outputs
    assert inspect_plan(tmp_path / artifact.file).compute_capabilities == CAPABILITIES
    assert artifact.size_bytes > 1e6


def test_a_node_that_tensorrt_lacks_is_named(model_of: ModelOf, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["image"], ["nchw"], name="moves_bytes", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["nchw"], ["float"], name="to_float", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["float", "w"], ["logits.pascal"], name="head", strides=[4, 4]),
    ]
    onnx.save(model_of(nodes, {"w": np.zeros((7, 3, 4, 4), np.float32)}), tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match=r"'moves_bytes' \(Transpose\).*UInt8") as caught:
        build_engines(tmp_path / "bad.onnx", tmp_path / "out", SMALL)
    assert "cudaError" not in str(caught.value)


def test_float16_in_the_graph_is_float16_in_the_engine(model_of: ModelOf, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], name="to_half", to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["half"], ["nchw"], name="to_nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["logits.pascal"], name="head", strides=[4, 4]),
    ]
    model = model_of(nodes, {"w": np.ones((7, 3, 4, 4), np.float16)})
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    (artifact,) = build_engines(tmp_path / "half.onnx", tmp_path, SMALL)
    sidecar = inspect_plan(tmp_path / artifact.file).sidecar
    assert sidecar is not None
    assert artifact.precision_found == "fp16"
    assert artifact.file.startswith("half.fp16.")
    assert sidecar.outputs["logits.pascal"]["dtype"] == "half"


def test_the_real_builder_may_crash_and_we_do_not(
    model_of: ModelOf, tmp_path: Path, own_home: Path
) -> None:
    # TensorRT-RTX 1.7.1 ends with SIGSEGV at the fused attention node of opset 23.
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="to_float", to=TensorProto.FLOAT),
        helper.make_node("Attention", ["float", "float", "float"], ["seen"], name="attention"),
        helper.make_node("Transpose", ["seen"], ["nchw"], name="to_nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["logits.pascal"], name="head", strides=[4, 4]),
    ]
    model = model_of(nodes, {"w": np.ones((7, 3, 4, 4), np.float32)})
    model.opset_import[0].version = 23
    onnx.save(model, tmp_path / "attention.onnx")
    try:
        assert build_engines(tmp_path / "attention.onnx", tmp_path / "out", SMALL)
    except ExportError as exc:
        assert "building attention.onnx for tensorrt-rtx portable: " in str(exc)  # noqa: PT017
        assert not [path for path in own_home.rglob("*") if path.is_file()]
        assert not (tmp_path / "out").exists()


def test_a_kit_builds_a_real_engine(small_bundle: Path, tmp_path: Path) -> None:
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    assert main([str(kit), "--no-verify"]) == 0
    bundle = read_bundle(kit)
    verify_files(bundle)
    assert inspect_plan(kit / bundle.artifacts[1].file).runtime == "tensorrt-rtx"
