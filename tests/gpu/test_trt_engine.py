"""TensorRT engines of every version, on stand-ins whose work goes through the CUDA driver."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    CorruptArtifact,
    DeviceOutOfMemory,
    EngineIncompatible,
    SchemaMismatch,
)
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.engine_file import Origin, check_origin, read_origin
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.ticket import Ask
from hp_sdk.gpu.trt_engine import TrtEngine
from hp_sdk.planes import View
from hp_sdk.postprocess import merged_labels
from hp_sdk.preprocess import plan as geometry_of
from hp_sdk.tta import TTA
from tests.export.tensorrt.test_bindings import bindings, missing_names  # noqa: F401 - a fixture
from tests.gpu.fake_tensorrt import make_trt, plan_of, table_of

VERSIONS = ["8.6.1.6", "10.0.1.6", "11.4.0.106", "1.7.1.116"]
SPEC = InputSpec(size_hw=(64, 96))
HEADS = {name: HeadSpec(load_domain(name), f"logits.{name}") for name in ("pascal", "cihp")}
OUTPUTS = {head.output: [head.domain.num_classes, 16, 24] for head in HEADS.values()}
ORIGIN = Origin(name="model.engine")
ASK = Ask(heads=("cihp", "pascal"), tta=TTA())


@pytest.fixture
def gpu(fake_cuda):
    return Gpu(memory="driver")


def engine_of(gpu: Gpu, version: str = "10.0.1.6", *, fault: str = "", **changes: Any) -> TrtEngine:
    plan = plan_of(OUTPUTS, version=version, **changes)
    trt = make_trt(version, gpu, fault=fault)
    return TrtEngine(trt, plan, origin=ORIGIN, capability="9.0")


def expected(head: str, place: int, source_hw: tuple[int, int]) -> np.ndarray:
    scores = table_of(HEADS[head].output, OUTPUTS[HEADS[head].output], place)
    return merged_labels([View(scores, geometry_of(source_hw, SPEC))])


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 99, np.uint8)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_answers_every_photo_of_every_batch(gpu, fake_cuda, version) -> None:
    engine = engine_of(gpu, version)
    assert (engine.input_hw, engine.batch_min, engine.batch_max) == ((64, 96), 1, 4)
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS, slots=2)
    sizes = [(40, 60), (90, 50), (64, 96), (130, 210), (33, 71), (20, 20)]
    for _ in range(4):  # as it is, recorded, replayed; each size of batch in each slot
        answers = pipeline.parse([grey(*size) for size in sizes], ASK)
        for number, (answer, size) in enumerate(zip(answers, sizes, strict=True)):
            for head, found in answer.items():
                wrong = found.labels != expected(head, number % 4, size)
                assert wrong.mean() < 1e-3, (version, number, head)
    pipeline.close()


def test_a_context_follows_to_another_batch_and_other_addresses(gpu) -> None:
    engine, stream = engine_of(gpu), gpu.open_stream()
    image, scratch = gpu.allocator.allocate(4 * 64 * 96 * 3), gpu.allocator.allocate(4096)
    context = engine.open_context(scratch.pointer)
    for count in (1, 3):
        memory = {n: gpu.allocator.allocate(4 * t.size_bytes) for n, t in engine.outputs.items()}
        pointers = {name: each.pointer for name, each in memory.items()}
        context.enqueue(count, image.pointer, pointers, stream)
        for name, shape in OUTPUTS.items():
            found = np.empty((count, *shape), np.float32)
            stream.download(found, pointers[name])
            assert np.array_equal(found[-1], table_of(name, shape, count - 1))
    with pytest.raises(BackendError, match="does not take a batch of 5"):
        context.enqueue(5, image.pointer, pointers, stream)


def test_the_network_sees_the_fitted_photo(gpu) -> None:
    engine = engine_of(gpu)
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pipeline.parse([image], ASK)
    seen = np.empty_like(image)
    gpu.open_stream().download(seen, engine._engine._seen.pointer)
    assert np.array_equal(seen, image)


def test_half_precision_scores_reach_the_host_as_they_are(gpu) -> None:
    pipeline = DevicePipeline(gpu, engine_of(gpu, scores="HALF"), SPEC, HEADS)
    name = "logits.cihp"
    found = pipeline.scores(np.zeros((2, 64, 96, 3), np.uint8), [name])[name]
    assert found.dtype == np.float16
    assert np.array_equal(found[1], table_of(name, OUTPUTS[name], 1).astype(np.float16))


def test_a_batch_that_fails_is_told_with_tensorrts_own_words(gpu) -> None:
    pipeline = DevicePipeline(gpu, engine_of(gpu, fault="run"), SPEC, HEADS)
    with pytest.raises(BackendError, match="batch of 1: Cask: no kernel image"):
        pipeline.parse([grey(50, 50)], ASK)


def test_no_memory_for_a_context_is_out_of_memory(gpu) -> None:
    pipeline = DevicePipeline(gpu, engine_of(gpu, fault="memory"), SPEC, HEADS)
    for _ in range(2):  # and the pipeline can be used on
        with pytest.raises(DeviceOutOfMemory, match="out of memory"):
            pipeline.parse([grey(50, 50)], ASK)


def test_what_rtx_compiled_is_kept_for_the_next_start(gpu, tmp_path) -> None:
    file = tmp_path / "deep" / "kernels"
    for content in (b"kernels", b"kernels again"):
        trt = make_trt("1.7.1.116", gpu)
        plan = plan_of(OUTPUTS, version="1.7.1.116")
        engine = TrtEngine(trt, plan, origin=ORIGIN, capability="9.0", cache_file=file)
        engine.close()
        assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.6.0.1"}, "another version of TensorRT"),
        ({"capability": "8.9"}, "another compute capability"),
        ({"version": "1.6.0.1", "capability": "8.9"}, "another version.*, it is for GPUs"),
    ],
)
def test_rtx_says_before_opening_that_an_engine_does_not_fit(gpu, changes, message) -> None:
    plan = plan_of(OUTPUTS, **{"version": "1.7.1.116", **changes})
    with pytest.raises(EngineIncompatible, match=rf"{message}.*python -m hp_export\.tensorrt"):
        TrtEngine(make_trt("1.7.1.116", gpu), plan, origin=ORIGIN, capability="9.0")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_file_that_is_no_engine_is_refused(gpu, version) -> None:
    with pytest.raises(EngineIncompatible, match=r"(Magic tag|damaged).*build it again"):
        TrtEngine(make_trt(version, gpu), b"no engine", origin=ORIGIN, capability="9.0")


def test_an_engine_for_something_else_is_refused_by_its_tensors(gpu) -> None:
    with pytest.raises(SchemaMismatch, match=r"takes image FLOAT \(-1, 64, 96, 3\); expected"):
        engine_of(gpu, type="FLOAT")
    with pytest.raises(SchemaMismatch, match="one UINT8 input"):
        engine_of(gpu, input=[-1, -1, -1, 3])
    with pytest.raises(SchemaMismatch, match=r"gives logits\.pascal BF16"):
        engine_of(gpu, scores="BF16")


def test_a_runtime_that_does_not_start_is_unavailable(gpu) -> None:
    trt = make_trt("10.0.1.6", gpu)

    def broken(log: Any) -> Any:
        log.log(trt.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = broken
    with pytest.raises(BackendUnavailable, match=r"error: 35.*check the driver"):
        TrtEngine(trt, plan_of(OUTPUTS), origin=ORIGIN, capability="9.0")


def sidecar(folder: Path, **changes: Any) -> Path:
    told = {
        "version": "10.0.1.6",
        "compute_capabilities": ["9.0"],
        "system": f"{platform.system()} {platform.machine()}",
        "rebuild": "python -m hp_export.tensorrt BUNDLE --format tensorrt --batch 1:2:4",
    }
    engine = folder / "model.engine"
    engine.with_name("model.engine.json").write_text(json.dumps(told | changes))
    return engine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "8.6.1.6"}, r"TensorRT 8\.6\.1\.6 wrote it, and 10\.0\.1\.6 is installed"),
        ({"compute_capabilities": ["8.0", "8.6"]}, r"8\.0, 8\.6, and this GPU has 9\.0"),
        ({"system": "Windows AMD64"}, "it is for Windows AMD64, and this is"),
    ],
)
def test_an_engine_of_another_place_is_refused_with_the_command(tmp_path, changes, message) -> None:
    origin = read_origin(sidecar(tmp_path, **changes), tmp_path)
    with pytest.raises(EngineIncompatible, match=message) as caught:
        check_origin(origin, version="10.0.1.6", capability="9.0")
    command = f"python -m hp_export.tensorrt {tmp_path} --format tensorrt --batch 1:2:4"
    assert str(caught.value).endswith(command)


def test_an_engine_of_this_place_passes(tmp_path) -> None:
    for given in ({}, {"compute_capabilities": []}):
        origin = read_origin(sidecar(tmp_path, **given), tmp_path)
        check_origin(origin, version="10.0.1.6", capability="9.0")
    without = read_origin(tmp_path / "other.engine", tmp_path)
    check_origin(without, version="10.0.1.6", capability="9.0")


def test_a_damaged_sidecar_is_named(tmp_path) -> None:
    (tmp_path / "model.engine.json").write_text("{")
    with pytest.raises(CorruptArtifact, match=r"model\.engine\.json"):
        read_origin(tmp_path / "model.engine", tmp_path)


def names_used(gpu: Gpu, version: str, tmp_path: Path) -> list[str]:
    trt = make_trt(version, gpu)
    origin, plan = ORIGIN, plan_of(OUTPUTS, version=version)
    engine = TrtEngine(
        trt, plan, origin=origin, capability="9.0", cache_file=tmp_path / f"{version}.cache"
    )
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS, slots=1)
    for _ in range(2):
        pipeline.parse([grey(30, 30)], ASK)
    engine.close()
    if hasattr(trt, "EngineValidity"):
        with pytest.raises(EngineIncompatible):
            TrtEngine(trt, b"", origin=origin, capability="9.0")
    return sorted({*trt.USED, "ILogger.log", "ILogger.ERROR", "ILogger.INTERNAL_ERROR"})


@pytest.mark.tensorrt
def test_every_name_used_exists_in_tensorrt_rtx(gpu, tmp_path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install tensorrt-rtx-cu13")
    names = names_used(gpu, "1.7.1.116", tmp_path)
    assert "IExecutionContext.is_stream_capturable" in names
    assert "IRuntimeConfig.create_runtime_cache" in names
    assert missing_names("tensorrt_rtx", [*names, "Runtime.dream"]) == ["Runtime.dream"]


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_every_name_used_exists_in_classic_tensorrt(
    gpu,
    tmp_path,
    version,
    bindings,  # noqa: F811 - the fixture imported above
) -> None:
    places = bindings(version.partition(".")[0])
    names = names_used(gpu, version, tmp_path)
    assert "IExecutionContext.set_device_memory" in names
    assert missing_names("tensorrt_bindings", names, **places) == []


@pytest.mark.tensorrt
def test_the_real_tensorrt_rtx_refuses_a_damaged_engine_before_opening_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    with pytest.raises(EngineIncompatible, match=r"the file is damaged.*build it again"):
        TrtEngine(trt, b"x" * 4096, origin=ORIGIN, capability="9.0")
