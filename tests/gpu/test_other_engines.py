"""ONNX Runtime and torch as engines of the pipeline, with their GPU calls played on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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
        self.batch: Any = "N"
        self.graphs: list[str | None] = []

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        shape = [self.batch, self.side, 96, 3]
        return [SimpleNamespace(name="image", type="tensor(uint8)", shape=shape)]

    def get_outputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, type="tensor(float)", shape=["N", CLASSES[name], 16, 24])
            for name in NAMES
        ]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.entries["disable_synchronize_execution_providers"] == "1"
        self.graphs.append(options.entries.get("gpu_graph_id"))
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


def ort_engine(gpu: Gpu, *, graphs: bool = False, **given: Any) -> OrtEngine:
    session, stream = Session(**given), gpu.open_stream()
    return OrtEngine(ORT, session, stream, index=0, batch=(1, 4), graphs=graphs)


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
    assert provider_options(1, stream, graphs=True) == options | {"enable_cuda_graph": "1"}


@pytest.mark.parametrize(("graphs", "names"), [(True, ["1", "1", "2", "1"]), (False, [None] * 4)])
def test_a_session_that_records_is_told_which_graph_a_batch_is(gpu, graphs, names) -> None:
    engine = ort_engine(gpu, graphs=graphs)
    session = engine.session
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS, slots=1)
    plain = Ask(heads=("cihp",), tta=TTA())
    for count in (1, 1, 2, 1):
        images = [photo(40 + i, 30, seed=i) for i in range(count)]
        assert_same(pipeline.parse(images, plain), images)
    assert session.graphs == names


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


class Graph:
    """Work of the fake torch, done again by `replay`."""

    def __init__(self) -> None:
        self.works: list[Callable[[], Any]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for work in self.works:
            work()


class Address:
    """A tensor at an address, whose copies can be recorded."""

    def __init__(self, torch: FakeTorch, tensor: Any) -> None:
        self._torch, self.tensor = torch, tensor

    def __len__(self) -> int:
        return len(self.tensor)

    def numpy(self) -> np.ndarray:
        return self.tensor.numpy()

    def copy_(self, source: Any) -> None:
        def work() -> None:
            self.tensor.copy_(source.to(self.tensor.dtype))

        work()
        if self._torch.recording is not None:
            self._torch.recording.works.append(work)


class FakeTorch:
    """torch whose GPU is the host."""

    __version__ = "9.9"

    def __init__(self, torch: Any) -> None:
        self.uint8, self.OutOfMemoryError = torch.uint8, torch.OutOfMemoryError
        self.inference_mode, self.real = torch.inference_mode, torch
        self.float16 = torch.float16
        self.streams: list[int] = []
        self.autocasts: list[tuple[str, Any]] = []
        self.graphs: list[Graph] = []
        self.recording: Graph | None = None
        self.refuses_graphs = False
        self.cuda = SimpleNamespace(
            stream=self._stream,
            ExternalStream=lambda handle, device: handle,
            CUDAGraph=Graph,
            graph=self._graph,
            is_available=lambda: True,
            device_count=lambda: 1,
        )
        self.backends = SimpleNamespace(cuda=SimpleNamespace(is_built=lambda: True))

    def _stream(self, handle: int) -> Any:
        self.streams.append(handle)
        return nullcontext()

    def autocast(self, kind: str, dtype: Any) -> Any:
        self.autocasts.append((kind, dtype))
        return nullcontext()

    @contextmanager
    def _graph(self, graph: Graph, *, stream: int, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert stream in self.streams
        if self.refuses_graphs:
            raise RuntimeError("operation not permitted when stream is capturing\nhere")
        self.recording = graph
        self.graphs.append(graph)
        yield
        self.recording = None

    def zeros(self, shape: tuple[int, ...], *, dtype: Any, device: str) -> Any:
        assert device == "cuda:0"
        return self.real.zeros(shape, dtype=dtype)

    def as_tensor(self, source: Any, *, device: str) -> Any:
        assert device == "cuda:0"
        about = source.__cuda_array_interface__
        dtype = np.dtype(about["typestr"]).type
        tensor = self.real.from_numpy(memory_at(about["data"][0], about["shape"], dtype))
        return Address(self, tensor)


class Network:
    """The small network of the tests as a torch module; it works again when it is replayed."""

    def __init__(self, torch: FakeTorch, kind: str = "float32") -> None:
        self.torch, self.kind, self.runs = torch, kind, 0

    def __call__(self, pixels: Any) -> tuple[Any, ...]:
        found = tuple(self._scores(pixels, name) for name in NAMES)
        if self.torch.recording is not None:

            def work() -> None:
                with self.torch.inference_mode():
                    for tensor, name in zip(found, NAMES, strict=True):
                        tensor.copy_(self._scores(pixels, name))

            self.torch.recording.works.append(work)
        self.runs += 1
        return found

    def _scores(self, pixels: Any, name: str) -> Any:
        scores = self.torch.real.from_numpy(scores_of(pixels.numpy(), CLASSES[name]))
        return scores.to(getattr(self.torch.real, self.kind))


@pytest.fixture
def torch():
    return FakeTorch(pytest.importorskip("torch", reason="torch is not installed"))


def torch_engine(torch: FakeTorch, network: Any, **options: Any) -> TorchEngine:
    shape = {"input_hw": SPEC.size_hw, "names": NAMES, "batch": (1, 4)}
    return TorchEngine(torch, network, **shape, **options)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_torch_writes_into_the_pipelines_buffers(gpu, torch, kind) -> None:
    engine = torch_engine(torch, Network(torch, kind))
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


def test_torchs_network_is_recorded_at_its_second_run_and_then_replayed(gpu, torch) -> None:
    network = Network(torch)
    pipeline = DevicePipeline(gpu, torch_engine(torch, network), SPEC, HEADS, slots=1)
    ask = Ask(heads=("cihp",), tta=TTA())
    for seed in range(5):
        images = [photo(70, 50, seed=seed)]
        assert_same(pipeline.parse(images, ask), images)
    assert network.runs == 3  # to learn the shapes, as it is, recorded
    (graph,) = torch.graphs
    assert graph.replays == 4  # recording alone does no work on a GPU
    pair = [photo(60, 50, seed=8), photo(50, 60, seed=9)]
    assert_same(pipeline.parse(pair, ask), pair)
    assert len(torch.graphs) == 1  # another batch size begins anew


@pytest.mark.parametrize("graphs", [True, False])
def test_a_network_that_cannot_be_recorded_goes_on_without_a_graph(
    gpu, torch, graphs, caplog
) -> None:
    torch.refuses_graphs = True
    network = Network(torch)
    pipeline = DevicePipeline(
        gpu, torch_engine(torch, network, graphs=graphs), SPEC, HEADS, slots=1
    )
    ask = Ask(heads=("cihp",), tta=TTA())
    for seed in range(4):
        images = [photo(70, 50, seed=seed)]
        assert_same(pipeline.parse(images, ask), images)
    assert network.runs == 5
    assert caplog.text.count("without a CUDA graph: operation not permitted") == graphs


def test_torchs_errors_are_told_in_one_line(gpu, torch) -> None:
    def breaks(_pixels: Any) -> Any:
        raise ValueError("shapes do not match\nhere and there")

    def has_no_room(_pixels: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BackendError, match=r"batch of 1: shapes do not match$"):
        torch_engine(torch, breaks)
    with pytest.raises(DeviceOutOfMemory, match="smaller batch_size"):
        torch_engine(torch, has_no_room)
