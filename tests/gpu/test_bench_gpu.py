"""hp-bench on a GPU, on a driver whose clock counts launches and bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hp_sdk.backends import ort, tensorrt
from hp_sdk.backends import torch as torch_backend
from hp_sdk.bench import gpu as bench_gpu
from hp_sdk.bench.gpu import ROUNDS, GpuPlan, GpuReport, measure_gpu
from hp_sdk.bench.measure import Subject
from hp_sdk.bench.pictures import photo_sets
from hp_sdk.cli.bench import main
from hp_sdk.errors import BackendError, BackendUnavailable
from hp_sdk.gpu import device, sensors
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.sensors import read_sensors
from hp_sdk.gpu.timing import copy_rates
from hp_sdk.gpu.torch_baseline import TorchBaseline, matmul_tflops
from hp_sdk.parser import Parser
from hp_sdk.tta import TTA
from tests.gpu.fake_tensorrt import make_trt
from tests.gpu.test_backend import OUTPUTS, VERSION, write  # noqa: F401 - a fixture
from tests.gpu.test_other_backends import Runtime
from tests.gpu.test_other_engines import Session

LAUNCH_MS, BYTES_PER_MS = 0.25, 1e6
SIZE_HW = (80, 60)
NETWORK_BYTES = 64 * 96 * 3  # what the stand-in engine copies, besides its outputs
OUTPUT_BYTES = 4 * sum(int(np.prod(shape)) for shape in OUTPUTS.values())


@pytest.fixture
def gpu(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(device, "_is_installed", lambda _library: False)
    gpu = Gpu(memory="driver")
    monkeypatch.setattr(tensorrt, "_runtime", lambda: make_trt(VERSION["tensorrt"], gpu))
    monkeypatch.setattr(bench_gpu, "copy_rates", lambda opened: copy_rates(opened, 1 << 18))
    fake_cuda.fake_clock(LAUNCH_MS, BYTES_PER_MS)
    return gpu


@pytest.fixture
def subjects(gpu: Gpu, write: Callable[..., Any]) -> Any:  # noqa: F811
    """A maker of subjects of the stand-in engine at some batches."""
    opened: list[Parser] = []

    def make(*batches: int) -> list[Subject]:
        parser = Parser.load(write().root, backend="tensorrt")
        opened.append(parser)
        (photos,) = photo_sets((), [SIZE_HW])
        receipt = parser.predict(photos.files[0]).receipt
        assert receipt is not None
        return [Subject(parser, photos, receipt, batch) for batch in batches]

    yield make
    for parser in opened:
        parser.close()


PLAN = GpuPlan(head="cihp", tta=TTA(), macs=10**6, duration_s=0.06)


def measured(subjects: list[Subject], **changes: Any) -> GpuReport:
    found = measure_gpu(subjects, replace(PLAN, **changes))
    assert found is not None
    return found


def test_stages_rates_and_shares_are_what_the_clock_says(subjects, monkeypatch) -> None:
    monkeypatch.setattr(torch_backend, "matmul_peak", lambda _index: 0.5)
    found = measured(subjects(2))
    assert (found.name, found.capability) == ("Host", "9.0")
    assert found.copies_gb_per_s is not None
    assert found.copies_gb_per_s.up == pytest.approx(1.0)
    assert found.matmul_tflops == 0.5
    assert found.missing == {}
    (row,) = found.rows
    network_ms = (NETWORK_BYTES + 2 * OUTPUT_BYTES) / BYTES_PER_MS
    assert row.network_ms == pytest.approx(network_ms, rel=1e-4)
    assert row.network_photos_per_s == pytest.approx(2e3 / network_ms, rel=1e-4)
    photo_bytes = 3 * SIZE_HW[0] * SIZE_HW[1]
    assert row.stages_ms["upload"] == pytest.approx(2 * photo_bytes / BYTES_PER_MS, rel=1e-3)
    assert row.stages_ms["network"] == pytest.approx(network_ms, rel=1e-3)
    assert row.stages_ms["download"] == pytest.approx(2 * photo_bytes / 3e6, rel=1e-3)
    for stage in ("fit", "label"):  # a launch, and the descriptors that it reads
        assert LAUNCH_MS < row.stages_ms[stage] < LAUNCH_MS + 0.01
    assert row.upload_gb_per_s == pytest.approx(1.0, rel=1e-3)
    assert row.upload_share == pytest.approx(1.0, rel=1e-3)
    assert row.download_share == pytest.approx(1.0, rel=1e-3)
    assert row.network_tflops == pytest.approx(2 * 1e6 * 2 / (network_ms * 1e9), rel=1e-4)
    assert row.matmul_share == pytest.approx(row.network_tflops / 0.5)  # type: ignore[operator]
    assert 0 < row.enqueue_ms <= row.latency_ms
    assert row.overhead_ms == pytest.approx(row.latency_ms - row.network_ms)
    assert row.rounds == ROUNDS


def test_without_macs_and_torch_the_shares_are_unknown_and_the_reason_is_named(
    subjects, monkeypatch
) -> None:
    def missing(_index: int) -> float:
        raise BackendUnavailable("torch is not installed; pip install it")

    monkeypatch.setattr(torch_backend, "matmul_peak", missing)
    found = measured(subjects(1), macs=None)
    (row,) = found.rows
    assert row.network_tflops is row.matmul_share is found.matmul_tflops is None
    assert found.missing == {"matrix product": "torch is not installed; pip install it"}


def test_engines_and_batches_take_turns_and_who_fails_is_named(subjects, monkeypatch) -> None:
    monkeypatch.setattr(torch_backend, "matmul_peak", lambda _index: 0.5)
    turns: list[str] = []
    plan = replace(PLAN, seed=1)
    found = measure_gpu(subjects(1, 2, 8), plan, progress=lambda what, _share: turns.append(what))
    assert found is not None
    assert [row.batch for row in found.rows] == [1, 2]
    ((name, why),) = found.missing.items()
    assert "batch 8" in name
    assert why == "the engine takes 4 inputs at once, not 8"
    rounds = [turns[first : first + 3] for first in range(0, len(turns), 3)]
    assert len(rounds) == ROUNDS
    assert all(sorted(each) == sorted(rounds[0]) for each in rounds)
    assert any(each != rounds[0] for each in rounds)  # in another order


def test_clocks_and_power_are_read_before_while_and_after(subjects, monkeypatch) -> None:
    monkeypatch.setattr(bench_gpu, "_SENSOR_PERIOD_S", 0.001)
    found = measured(subjects(1))
    assert set(found.sensors) == {"before", "working", "after"}
    for told in found.sensors.values():
        assert told is not None
        assert (told.sm_mhz, told.sm_max_mhz, told.memory_mhz) == (1980, 1985, 2619)
        assert (told.power_w, told.power_limit_w) == (350.5, 700.0)
        assert told.celsius is None  # this GPU does not tell


def test_without_a_management_library_the_rest_is_measured(subjects, monkeypatch) -> None:
    monkeypatch.setattr(sensors, "_LIBRARY", "libno-such-thing.so.1")
    found = measured(subjects(1))
    assert set(found.sensors.values()) == {None}
    assert found.rows
    assert "clocks and power are unknown" in found.missing["clocks and power"]
    with pytest.raises(BackendUnavailable):
        read_sensors(0)


class Alone:
    """A network alone, in a runtime of its own."""

    def __init__(self, name: str, ms: float, problem: str = "") -> None:
        self.name, self.ms, self.problem, self.is_closed = name, ms, problem, False

    def network_ms(self, count: int, runs: int) -> float:
        if self.problem:
            raise BackendError(self.problem)
        return self.ms * count

    def close(self) -> None:
        self.is_closed = True


def test_baselines_run_in_the_same_turns_and_are_closed(subjects, monkeypatch) -> None:
    eager, compiled = Alone("torch eager fp16", 2.0), Alone("compiled", 1.0, "no Triton")
    openers: dict[str, Any] = {"eager": lambda *_: eager, "compiled": lambda *_: compiled}
    monkeypatch.setattr(bench_gpu, "BASELINES", bench_gpu.BASELINES | openers)
    found = measured(subjects(1, 2), baselines=("eager", "compiled", "onnxruntime"))
    assert [asdict(row) for row in found.baselines] == [
        {
            "name": "torch eager fp16",
            "batch": batch,
            "rounds": ROUNDS,
            "network_ms": 2.0 * batch,
            "photos_per_s": 500.0,
        }
        for batch in (1, 2)
    ]
    assert found.missing["compiled, batch 1"] == "no Triton"
    assert found.missing["onnxruntime alone"].startswith("the bundle has no artifact of kind")
    assert eager.is_closed
    assert compiled.is_closed


def test_a_parser_on_the_cpu_has_nothing_to_measure_there() -> None:
    subject: Any = SimpleNamespace(parser=SimpleNamespace(pipeline=None))
    assert measure_gpu([subject], PLAN) is None


def test_onnx_runtime_alone_replays_its_own_graphs(gpu, write, monkeypatch) -> None:  # noqa: F811
    runtime = Runtime(Session())
    monkeypatch.setattr(ort, "_runtime", lambda: runtime)
    bundle = write()
    artifact = replace(bundle.artifacts[0], runtime="onnx", outputs=tuple(OUTPUTS))
    alone = ort.open_baseline(bundle, artifact, 0)
    alone.network_ms(2, 3)
    alone.close()
    ((cuda, _cpu),) = runtime.providers
    assert cuda[1]["enable_cuda_graph"] == "1"
    assert set(runtime.session.graphs) == {"1"}


class Event:
    """Events of a torch whose every run lasts `run_ms`."""

    now_ms = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at_ms = 0.0

    def record(self) -> None:
        self.at_ms = Event.now_ms

    def elapsed_time(self, later: Event) -> float:
        return later.at_ms - self.at_ms


def fake_torch(torch: Any, compiled: list[dict[str, Any]]) -> Any:
    def compile_it(network: Any, **how: Any) -> Any:
        compiled.append(how)
        return network

    def randn(*shape: int, device: str, dtype: Any) -> Any:
        assert device == "cuda:1"
        return Matrix()

    return SimpleNamespace(
        uint8=torch.uint8,
        float16=torch.float16,
        OutOfMemoryError=torch.OutOfMemoryError,
        inference_mode=torch.inference_mode,
        autocast=lambda kind, dtype: torch.autocast("cpu", torch.bfloat16),
        compile=compile_it,
        randn=randn,
        zeros=lambda shape, dtype, device: torch.zeros(shape, dtype=dtype),
        cuda=SimpleNamespace(Event=Event, synchronize=lambda: None),
    )


class Matrix:
    """Whose product takes two milliseconds."""

    def __matmul__(self, other: Matrix) -> None:
        Event.now_ms += 2.0


def test_torch_alone_is_timed_by_events_of_the_device() -> None:
    real = pytest.importorskip("torch", reason="torch is not installed")
    compiled: list[dict[str, Any]] = []
    torch = fake_torch(real, compiled)

    def network(pixels: Any) -> None:
        assert pixels.shape == (3, 8, 9, 3)
        Event.now_ms += 1.5

    about: dict[str, Any] = {"input_hw": (8, 9), "index": 0}
    eager = TorchBaseline(torch, network, compiled=False, **about)
    assert eager.network_ms(3, 4) == pytest.approx(1.5)
    assert (eager.name, compiled) == ("torch eager fp16", [])
    other = TorchBaseline(torch, network, compiled=True, **about)
    assert other.network_ms(3, 4) == pytest.approx(1.5)
    assert compiled == [{"mode": "max-autotune", "dynamic": False}]
    with pytest.raises(BackendError, match="torch eager fp16 fails on a batch of 2"):
        eager.network_ms(2, 4)  # the network above takes 3
    assert matmul_tflops(torch, 1, size=1000) == pytest.approx(1.0)  # 2e9 operations in 2 ms


def test_the_command_writes_what_the_gpu_did(
    gpu,
    write,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report, root = tmp_path / "bench.json", str(write().root)
    options = ["--backend", "tensorrt", "--batch", "1,2", "--size", "80x60", "--cold", "0"]
    main([root, *options, "--duration", "0.05", "--baselines", "eager", "--json", str(report)])
    told = json.loads(report.read_text())["gpu"]
    assert [row["batch"] for row in told["rows"]] == [1, 2]
    assert told["rows"][0]["stages_ms"]["upload"] > 0
    assert told["sensors"]["before"]["power_w"] == 350.5
    assert "eager alone" in told["missing"]
    shown = capsys.readouterr().out
    assert "on Host, device ms per batch" in shown
    assert "copies GB/s 1.0 up, 1.0 down" in shown
    assert "eager alone: not measured: the bundle has no artifact of kind 'torch'" in shown
