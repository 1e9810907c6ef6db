"""One way to build for every version: what a version has is used, what it lacks is not."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hp_export.tensorrt.builder import build_plan
from hp_export.tensorrt.library import Refusal, describe_library, open_library

VERSIONS = ["8.6.1.6", "10.16.1.11", "11.4.0.106", "1.7.1.116"]
Fake = Callable[..., ModuleType]


def request(onnx: Path, **changes: Any) -> dict[str, Any]:
    shapes = {"min": [1, 32, 32, 3], "opt": [2, 32, 32, 3], "max": [4, 32, 32, 3]}
    usual = {
        "onnx": str(onnx),
        "profile": {"image": shapes},
        "compute_capabilities": [],
        "workspace_bytes": 1 << 30,
        "optimization_level": None,
        "tf32": False,
        "weak_flags": ["FP16"],
        "timing_cache": None,
    }
    return usual | changes


def build(trt: Any, onnx: Path, **changes: Any) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Network, configuration and progress of a build with the stand-in."""
    told: list[dict[str, Any]] = []
    build_plan(trt, request(onnx, **changes), told.append)
    return *trt.Builder.last, told


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_with_the_batches_and_the_workspace_asked_for(
    version: str, fake: Fake, onnx_file: Path
) -> None:
    trt = fake(version)
    plan, facts = build_plan(trt, request(onnx_file), lambda _event: None)
    _network, config = trt.Builder.last
    assert plan[24:28] == bytes(int(number) for number in version.split("."))
    assert config._profiles[0]._shapes["image"] == ((1, 32, 32, 3), (2, 32, 32, 3), (4, 32, 32, 3))
    assert config._limits == {trt.MemoryPoolType.WORKSPACE: 1 << 30}
    assert facts["outputs"] == {"logits.pascal": {"dtype": "float", "shape": [-1, 7, 8, 8]}}


@pytest.mark.parametrize(
    ("version", "flags", "builder_flags"),
    [
        ("8.6.1.6", 0b01, {"FP16"}),  # explicit batch; may use the float16 that the graph holds
        ("10.16.1.11", 0b11, set()),  # explicit batch, strongly typed
        ("11.4.0.106", 0b10, set()),
        ("1.7.1.116", 0b10, set()),
    ],
)
def test_precision_is_the_graph_s_wherever_the_version_can_be_told_so(
    version: str, flags: int, builder_flags: set[str], fake: Fake, onnx_file: Path
) -> None:
    network, config, _told = build(fake(version), onnx_file)
    assert network._flags == flags
    assert config._flags == builder_flags


def test_float32_is_rounded_to_tf32_only_if_asked_for(fake: Fake, onnx_file: Path) -> None:
    trt = fake("11.4.0.106")
    assert build(trt, onnx_file)[1]._flags == set()
    assert build(trt, onnx_file, tf32=True)[1]._flags == {"TF32"}


@pytest.mark.parametrize(("version", "sources"), [("8.6.1.6", 0b1000), ("11.4.0.106", 0b1)])
def test_an_engine_needs_no_cublas_and_no_cudnn(
    version: str, sources: int, fake: Fake, onnx_file: Path
) -> None:
    assert build(fake(version), onnx_file)[1]._sources == sources


def test_an_engine_is_built_for_the_compute_capabilities_asked_for(
    fake: Fake, onnx_file: Path
) -> None:
    config = build(fake(), onnx_file, compute_capabilities=["8.0", "12.0"])[1]
    assert config._capabilities == [80, 120]
    assert config.num_compute_capabilities == 2


def test_the_optimisation_level_is_passed_on(fake: Fake, onnx_file: Path) -> None:
    trt = fake("10.16.1.11")
    assert build(trt, onnx_file)[1].builder_optimization_level == 3
    assert build(trt, onnx_file, optimization_level=5)[1].builder_optimization_level == 5


def test_timings_of_one_build_serve_the_next(fake: Fake, onnx_file: Path, tmp_path: Path) -> None:
    trt, timings = fake("11.4.0.106"), tmp_path / "timings"
    for expected in (b"timed;", b"timed;timed;"):
        build(trt, onnx_file, timing_cache=str(timings))
        assert timings.read_bytes() == expected
    timings.write_bytes(b"damaged")
    build(trt, onnx_file, timing_cache=str(timings))
    assert timings.read_bytes() == b"timed;"


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_is_told_where_the_version_can(version: str, fake: Fake, onnx_file: Path) -> None:
    told = build(fake(version), onnx_file)[2]
    steps = [{"phase": "Timing tactics", "step": step, "steps": 2} for step in (0, 1)]
    assert told == ([] if version.startswith("8.") else steps)


@pytest.mark.parametrize(
    ("version", "words"),
    [("8.6.1.6", "node 2: Assertion"), ("11.4.0.106", r"node 'sampler' \(DeformConv\): Assertion")],
)
def test_a_graph_that_cannot_be_read_is_refused_with_the_node_named(
    version: str, words: str, fake: Fake, onnx_file: Path
) -> None:
    with pytest.raises(Refusal, match=f"{version} does not take model.onnx: {words}") as caught:
        build(fake(version, "parse"), onnx_file)
    assert "cudaError" not in str(caught.value)


def test_a_graph_that_cannot_be_built_is_refused_with_the_reason_not_the_noise(
    fake: Fake, onnx_file: Path
) -> None:
    with pytest.raises(Refusal, match=r"builds no engine: no runners for node sampler$"):
        build(fake(fault="refuse"), onnx_file)


def test_a_missing_gpu_is_said_and_the_kit_is_named(fake: Fake, onnx_file: Path) -> None:
    with pytest.raises(Refusal, match=r"machine with a GPU.*error: 35.*--defer") as caught:
        build(fake("11.4.0.106", "gpu"), onnx_file)
    assert caught.value.kind == "gpu"


@pytest.mark.parametrize(
    ("version", "strong", "capabilities"),
    [
        ("8.6.1.6", False, []),
        ("11.4.0.106", True, []),
        ("1.7.1.116", True, ["7.5", "8.0", "8.9", "12.0"]),
    ],
)
def test_a_library_tells_what_can_be_asked_of_it(
    version: str, strong: bool, capabilities: list[str], fake: Fake
) -> None:
    told = describe_library(fake(version))
    assert told["version"] == version
    assert told["strongly_typed"] is strong
    assert told["capabilities"] == capabilities


def test_a_library_that_is_not_installed_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(Refusal, match="pip install tensorrt-rtx-cu13") as caught:
        open_library("tensorrt-rtx")
    assert caught.value.kind == "missing"
