"""ONNX Runtime and torch on "cuda": from `Parser.load` to the result by the pipeline."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hp_sdk.backends import open_backend, ort
from hp_sdk.backends import torch as torch_backend
from hp_sdk.bundle import Artifact, Bundle, read_bundle, write_manifest
from hp_sdk.errors import ConfigError, ProviderFallback, SchemaMismatch
from hp_sdk.gpu import device, driver
from hp_sdk.parser import Parser
from tests.gpu.host_engine import (
    HEADS,
    PLAIN,
    SPEC,
    OnDevice,
    memory_at,
    on_the_cpu,
    photo,
    scores_of,
)
from tests.gpu.test_other_engines import (
    CLASSES,
    NAMES,
    FakeTorch,
    Network,
    RunOptions,
    Session,
)

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
Write = Callable[..., Bundle]


class Runtime:
    """The module `onnxruntime` whose GPU is the host; it notes what it is asked for."""

    __version__ = "9.9"
    RunOptions = RunOptions

    def __init__(self, session: Any = None) -> None:
        self.session = session or Session()
        self.providers: list[Any] = []
        self.preloaded = 0

    def preload_dlls(self) -> None:
        self.preloaded += 1

    def get_available_providers(self) -> list[str]:
        return [CUDA, CPU]

    def SessionOptions(self) -> Any:
        return type("Options", (), {})()

    def InferenceSession(self, path: str, *, sess_options: Any, providers: list[Any]) -> Any:
        assert Path(path).is_file()
        self.providers.append(providers)
        return self.session


class HostSession(Session):
    """A session whose network runs on the GPU, and whose photos come from the host."""

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [scores_of(feeds["image"], CLASSES[name]) for name in names]


@pytest.fixture(autouse=True)
def _no_pools(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_is_installed", lambda _library: False)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a bundle of one artifact, whose content nobody reads."""

    def write(runtime: str, **changes: Any) -> Bundle:
        content = b"a network"
        (tmp_path / "model.bin").write_bytes(content)
        about: dict[str, Any] = {
            "runtime": runtime,
            "file": "model.bin",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
            "heads": tuple(HEADS),
            "precision_asked": "fp32",
            "precision_found": "fp32",
            "batch_min": 1,
            "batch_opt": 2,
            "batch_max": 4,
            "size_hw": SPEC.size_hw,
            "outputs": tuple(NAMES),
        }
        bundle = Bundle(
            root=tmp_path,
            name="others",
            family="sst",
            version="1",
            license="CC0-1.0",
            input=SPEC,
            heads=HEADS,
            artifacts=(Artifact(**about | changes),),
        )
        write_manifest(bundle, tmp_path)
        return read_bundle(tmp_path)

    return write


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime()
    monkeypatch.setattr(ort, "_runtime", lambda: found)
    return found


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    """A torch whose exported program is the small network of the tests."""
    real = pytest.importorskip("torch", reason="torch is not installed")
    found = FakeTorch(real)
    monkeypatch.setattr(torch_backend, "_runtime", lambda: found)
    monkeypatch.setattr(torch_backend, "_load", lambda _torch, _path: "program")
    port = torch_backend.Port("uint8", True, ("n", *SPEC.size_hw, 3))
    monkeypatch.setattr(torch_backend, "_ports", lambda _program: [port])
    monkeypatch.setattr(torch_backend, "_output_names", lambda _program, names, _path: names)
    monkeypatch.setattr(torch_backend, "_moved", lambda *_: Network(found))
    return found


def check_parser(bundle: Bundle, backend: str, fake_cuda: Any) -> None:
    """Labels are the CPU path's; a photo of the host goes up, and only labels come down."""
    images = [photo(50 + 9 * i, 70, seed=i) for i in range(5)]
    with Parser.load(bundle.root, backend=backend, device="cuda:0") as parser:
        downs = fake_cuda.fake_copies_down()
        results = parser.predict(images, batch_size=2)
        assert fake_cuda.fake_copies_down() - downs == 3  # one per batch
        for image, result in zip(images, results, strict=True):
            expected, _ = on_the_cpu(image, "cihp", PLAIN)
            assert (result.labels != expected).mean() < 5e-3
            assert {"upload", "fit", "network", "labels", "download"} <= set(result.timing)
        streamed = list(parser.stream(images, batch_size=2))
        pairs = zip(streamed, results, strict=True)
        assert all(np.array_equal(one.labels, other.labels) for one, other in pairs)
        receipt = results[0].receipt
        assert receipt is not None
        assert (receipt.backend, receipt.provider) == (f"{backend} 9.9", "cuda:0 Host")
        assert receipt.notes == ()


def test_onnx_runtime_parses_photos_on_the_gpu(write, runtime, fake_cuda) -> None:
    check_parser(write("onnx"), "onnxruntime", fake_cuda)
    ((cuda, cpu),) = runtime.providers
    assert (cuda[0], cpu) == (CUDA, CPU)
    assert cuda[1]["device_id"] == "0"
    assert int(cuda[1]["user_compute_stream"]) > 0
    assert runtime.preloaded == 1
    assert runtime.session.runs == 6


def test_torch_parses_photos_on_the_gpu(write, torch, fake_cuda) -> None:
    check_parser(write("torch"), "torch", fake_cuda)
    assert torch.graphs


def test_torch_computes_in_half_precision_when_asked_to(write, torch) -> None:
    bundle = write("torch")
    with Parser.load(bundle.root, backend="torch", device="cuda", precision="fp16") as parser:
        result = parser.predict(photo(60, 50))
    assert torch.autocasts
    assert set(torch.autocasts) == {("cuda", torch.float16)}
    assert result.receipt is not None
    assert result.receipt.precision == "fp16"
    with pytest.raises(ConfigError, match="on cuda only"):
        Parser.load(bundle.root, backend="torch", device="cpu", precision="fp16")


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_photos_and_labels_stay_on_the_gpu(write, runtime, torch, fake_cuda, name) -> None:
    bundle = write({"onnxruntime": "onnx"}.get(name, name))
    image = photo(80, 70)
    with Parser.load(bundle.root, backend=name, device="cuda") as parser:
        backend: Any = parser._backend
        there: Any = OnDevice(backend.pipeline.gpu, image, None)
        ups = fake_cuda.fake_copies_up()
        result = parser.predict(there, labels_device=True)
        assert fake_cuda.fake_copies_up() - ups == 2  # the two tables
        about = result.labels_device.__cuda_array_interface__
        on_device = memory_at(about["data"][0], about["shape"], np.uint8)
        assert np.array_equal(on_device, result.labels)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_logits_come_to_the_host_when_asked_for(write, runtime, torch, name) -> None:
    bundle = write({"onnxruntime": "onnx"}.get(name, name))
    with Parser.load(bundle.root, backend=name, device="cuda") as parser:
        result = parser.predict(photo(64, 96), logits=True)
    assert result.logits is not None
    assert result.logits.shape == (20, 16, 24)


def test_a_graph_of_a_fixed_batch_is_filled_up_on_the_gpu_too(write, runtime) -> None:
    runtime.session.batch = 3
    with Parser.load(write("onnx").root, backend="onnxruntime", device="cuda") as parser:
        assert parser.predict(photo(40, 40)).labels.shape == (40, 40)
        backend: Any = parser._backend
        assert (backend.facts.batch_min, backend.facts.batch_max) == (3, 3)
        assert backend.pipeline.engine.batch_min == 3


def test_without_our_kernels_the_network_alone_is_on_the_gpu_and_the_receipt_says_so(
    write, runtime, monkeypatch
) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libno-such-driver.so.1")
    driver.load_driver.cache_clear()
    runtime.session = HostSession()
    image = photo(50, 60)
    with Parser.load(write("onnx").root, backend="onnxruntime", device="cuda") as parser:
        result = parser.predict(image)
    assert (result.labels != on_the_cpu(image, "cihp", PLAIN)[0]).mean() < 5e-3
    assert result.receipt is not None
    (note,) = result.receipt.notes
    assert note.startswith("photos are fitted and labelled on the CPU: ")
    assert result.receipt.provider == CUDA


def test_a_list_of_providers_is_used_as_it_is(write, runtime) -> None:
    runtime.session = HostSession()
    backend: Any = open_backend(write("onnx"), backend="onnxruntime", providers=[CUDA, CPU])
    assert not hasattr(backend, "pipeline")
    assert runtime.providers == [[CUDA, CPU]]


def test_a_session_that_came_back_without_cuda_is_refused_and_leaves_nothing_behind(
    write, runtime, monkeypatch, fake_cuda
) -> None:
    used = fake_cuda.fake_used()
    monkeypatch.setattr(runtime.session, "get_providers", lambda: [CPU])
    with pytest.raises(ProviderFallback, match=CUDA):
        open_backend(write("onnx"), backend="onnxruntime", device="cuda")
    assert fake_cuda.fake_used() == used


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_an_artifact_of_another_size_than_the_bundles_is_refused(
    write, runtime, torch, name
) -> None:
    bundle = write({"onnxruntime": "onnx"}.get(name, name), size_hw=(32, 96))
    with pytest.raises(SchemaMismatch, match="export again"):
        open_backend(bundle, backend=name, device="cuda")


def test_auto_takes_what_there_is_for_the_gpu(write, runtime, caplog) -> None:
    with caplog.at_level(logging.INFO):
        backend: Any = open_backend(write("onnx"))
    assert backend.pipeline is not None
    assert "chose onnxruntime on cuda:0" in caplog.text
    backend.close()
