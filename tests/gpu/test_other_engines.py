"""ONNX Runtime and torch as engines of the pipeline, with their GPU calls played on the host."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hp_sdk.errors import BackendError, DeviceOutOfMemory, SchemaMismatch
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.ort_engine import OrtEngine, provider_options
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.ticket import Ask
from hp_sdk.gpu.torch_engine import TorchEngine
from hp_sdk.tta import TTA
from tests.gpu.host_engine import HEADS, SPEC, assert_same, memory_at, photo, scores_of

NAMES = [head.output for head in HEADS.values()]
CLASSES = {head.output: head.domain.num_classes for head in HEADS.values()}
ASK = Ask(heads=("cihp", "pascal"), tta=TTA(flip=True), confidence=True)


@pytest.fixture
def gpu(fake_cuda):
    return Gpu(memory="driver")


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Any, ...]] = {}
        self.outputs: dict[str, tuple[Any, ...]] = {}

    def bind_input(self, name: str, *what: Any) -> None:
        self.inputs[name] = what

    def bind_output(self, name: str, *what: Any) -> None:
        self.outputs[name] = what


class Session:
    """What ONNX Runtime's session does with bound addresses."""

    def __init__(self, side: Any = 64, problem: str = "") -> None:
        self.side, self.problem, self.runs = side, problem, 0

    def get_inputs(self) -> list[Any]:
        shape = ["N", self.side, 96, 3]
        return [SimpleNamespace(name="image", type="tensor(uint8)", shape=shape)]

    def get_outputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, type="tensor(float)", shape=["N", CLASSES[name], 16, 24])
            for name in NAMES
        ]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.entries == {"disable_synchronize_execution_providers": "1"}
        if self.problem:
            raise RuntimeError(f"{self.problem}\nat somewhere.cc:7")
        self.runs += 1
        kind, index, dtype, shape, pointer = binding.inputs["image"]
        assert (kind, index) == ("cuda", 0)
        batch = memory_at(pointer, shape, dtype)
        for _kind, _index, dtype, shape, pointer in binding.outputs.values():
            memory_at(pointer, shape, dtype)[:] = scores_of(batch, shape[1])


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


ORT = SimpleNamespace(RunOptions=RunOptions)


def ort_engine(gpu: Gpu, **given: Any) -> OrtEngine:
    return OrtEngine(ORT, Session(**given), gpu.open_stream(), index=0, batch=(1, 4))


def test_onnx_runtime_writes_into_the_pipelines_buffers(gpu) -> None:
    engine = ort_engine(gpu)
    session = engine.session
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS)
    images = [photo(90 + i, 120, seed=i) for i in range(5)]
    for _ in range(2):
        assert_same(pipeline.parse(images, ASK), images, ASK.tta)
    assert session.runs == 6
    pipeline.close()
    assert engine.session is None


def test_a_session_works_on_the_stream_it_is_told(gpu) -> None:
    stream = gpu.open_stream()
    options = provider_options(1, stream)
    assert options == {"device_id": "1", "user_compute_stream": str(stream.handle)}


@pytest.mark.parametrize(
    ("problem", "kind"),
    [("Failed to allocate memory for requested buffer", DeviceOutOfMemory), ("oh", BackendError)],
)
def test_onnx_runtimes_errors_are_told_in_one_line(gpu, problem, kind) -> None:
    pipeline = DevicePipeline(gpu, ort_engine(gpu, problem=problem), SPEC, HEADS)
    with pytest.raises(kind, match=rf"batch of 2: {problem}$"):
        pipeline.parse([photo(20, 20)], ASK)


def test_a_model_of_no_fixed_size_is_refused(gpu) -> None:
    with pytest.raises(SchemaMismatch, match="only the batch may be dynamic"):
        ort_engine(gpu, side="H")


class FakeTorch:
    """torch whose GPU is the host."""

    def __init__(self, torch: Any) -> None:
        self.uint8, self.OutOfMemoryError = torch.uint8, torch.OutOfMemoryError
        self.inference_mode, self._torch = torch.inference_mode, torch
        self.streams: list[int] = []
        self.cuda = SimpleNamespace(
            stream=self._stream, ExternalStream=lambda handle, device: handle
        )

    def _stream(self, handle: int) -> Any:
        self.streams.append(handle)
        return nullcontext()

    def zeros(self, shape: tuple[int, ...], *, dtype: Any, device: str) -> Any:
        assert device == "cuda:0"
        return self._torch.zeros(shape, dtype=dtype)

    def as_tensor(self, source: Any, *, device: str) -> Any:
        about = source.__cuda_array_interface__
        dtype = np.dtype(about["typestr"]).type
        return self._torch.from_numpy(memory_at(about["data"][0], about["shape"], dtype))


@pytest.fixture
def torch():
    return FakeTorch(pytest.importorskip("torch", reason="torch is not installed"))


def torch_engine(torch: FakeTorch, network: Any) -> TorchEngine:
    return TorchEngine(torch, network, input_hw=SPEC.size_hw, names=NAMES, batch=(1, 4))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_torch_writes_into_the_pipelines_buffers(gpu, torch, kind) -> None:
    def network(pixels: Any) -> tuple[Any, ...]:
        found = (torch._torch.from_numpy(scores_of(pixels.numpy(), CLASSES[k])) for k in NAMES)
        return tuple(scores.to(getattr(torch._torch, kind)) for scores in found)

    engine = torch_engine(torch, network)
    assert {str(tensor.dtype) for tensor in engine.outputs.values()} == {"float32"}
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS)
    images = [photo(90 + i, 120, seed=i) for i in range(3)]
    answers = pipeline.parse(images, ASK)
    if kind == "float32":
        assert_same(answers, images, ASK.tta)
    for answer, image in zip(answers, images, strict=True):
        labels = answer["cihp"].labels
        assert labels is not None
        assert labels.shape == image.shape[:2]
    assert len(set(torch.streams)) == 2  # one of each slot


def test_torchs_errors_are_told_in_one_line(gpu, torch) -> None:
    def breaks(_pixels: Any) -> Any:
        raise ValueError("shapes do not match\nhere and there")

    def has_no_room(_pixels: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BackendError, match=r"batch of 1: shapes do not match$"):
        torch_engine(torch, breaks)
    with pytest.raises(DeviceOutOfMemory, match="smaller batch_size"):
        torch_engine(torch, has_no_room)
