"""Devices: what is asked for by name works, or says why not; nothing falls back in silence."""

import logging
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hp_sdk import backends
from hp_sdk.backends import BACKENDS, BackendEntry, open_backend, ort
from hp_sdk.backends.base import Absent, BackendOptions
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.bundle import read_bundle, write_manifest
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    DeviceOutOfMemory,
    ProviderFallback,
)
from hp_sdk.testing import FAKE, FakeBackend, make_bundle

SIZE = 32
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeRuntime:
    """Pretends to be the onnxruntime module, with providers as wanted and as got."""

    __version__ = "9.9"

    def __init__(self, *, available, started, failure=None):
        self._available, self._started, self._failure = available, started, failure
        self.sessions = []

    def get_available_providers(self):
        return self._available

    def SessionOptions(self):
        return SimpleNamespace()

    def InferenceSession(self, path, *, sess_options, providers):
        self.sessions.append((providers, sess_options))
        if self._failure:
            raise self._failure
        wanted = [p if isinstance(p, str) else p[0] for p in providers]
        return FakeSession([p for p in wanted if p in self._started])


class FakeSession:
    def __init__(self, providers):
        self._providers = providers

    def get_providers(self):
        return self._providers

    def get_inputs(self):
        return [SimpleNamespace(name="image", type="tensor(uint8)", shape=["n", SIZE, SIZE, 3])]

    def get_outputs(self):
        return [SimpleNamespace(name="logits.cihp")]

    def run(self, names, feeds):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1")


@pytest.fixture
def fake_runtime(monkeypatch):
    def install(**settings):
        runtime = FakeRuntime(**settings)
        monkeypatch.setattr(ort, "_runtime", lambda: runtime)
        return runtime

    return install


@pytest.fixture
def onnx_bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", size_hw=(SIZE, SIZE), runtime="onnx")


def test_a_cuda_device_on_a_cpu_build_is_unavailable(fake_runtime):
    fake_runtime(available=[CPU], started=[CPU])

    with pytest.raises(BackendUnavailable, match=rf"{CUDA}.*hp-sdk\[gpu\]"):
        OrtBackend("m.onnx", BackendOptions(device="cuda:0"))


def test_a_silent_fallback_is_an_error(fake_runtime):
    fake_runtime(available=[CUDA, CPU], started=[CPU])

    with pytest.raises(ProviderFallback, match=CUDA):
        OrtBackend("m.onnx", BackendOptions(device="cuda"))


def test_an_allowed_fallback_is_noted(fake_runtime, onnx_bundle, caplog):
    fake_runtime(available=[CUDA, CPU], started=[CPU])

    with caplog.at_level(logging.WARNING):
        backend = open_backend(onnx_bundle, device="cuda", allow_fallback=True)

    assert backend.provider == CPU
    (note,) = backend.facts.notes
    assert CUDA in note
    assert CUDA in caplog.text


def test_a_fallback_from_an_own_list_of_providers_is_noted_too(fake_runtime, onnx_bundle):
    fake_runtime(available=["Tensorrt", CUDA, CPU], started=[CPU])

    backend = open_backend(onnx_bundle, providers=["Tensorrt", CUDA, CPU], allow_fallback=True)

    assert backend.provider == CPU
    assert "Tensorrt" in backend.facts.notes[0]


def test_the_device_number_reaches_the_runtime(fake_runtime):
    runtime = fake_runtime(available=[CUDA, CPU], started=[CUDA, CPU])

    backend = OrtBackend("m.onnx", BackendOptions(device="cuda:3"))

    assert backend.provider == CUDA
    assert runtime.sessions[0][0] == [(CUDA, {"device_id": 3}), CPU]


def test_without_a_device_cuda_is_tried_and_the_cpu_is_no_failure(fake_runtime, onnx_bundle):
    fake_runtime(available=[CUDA, CPU], started=[CUDA, CPU])
    assert open_backend(onnx_bundle).provider == CUDA

    fake_runtime(available=[CUDA, CPU], started=[CPU])
    assert open_backend(onnx_bundle).provider == CPU


def test_without_a_device_a_cuda_that_does_not_start_is_noted_and_one_not_there_is_not(
    fake_runtime, onnx_bundle
):
    fake_runtime(available=[CUDA, CPU], started=[CPU])
    assert CUDA in open_backend(onnx_bundle).facts.notes[0]

    fake_runtime(available=[CPU], started=[CPU])
    assert open_backend(onnx_bundle).facts.notes == ()


def test_what_keeps_the_cuda_libraries_from_loading_is_told(fake_runtime, capsys):
    runtime = fake_runtime(available=[CUDA, CPU], started=[CPU])
    runtime.preload_dlls = lambda: sys.stdout.write("Failed to load libcublas.so.13\nmore")

    with pytest.raises(ProviderFallback, match=r"libcublas\.so\.13"):
        OrtBackend("m.onnx", BackendOptions(device="cuda"))
    assert capsys.readouterr().out == ""


def test_every_provider_of_an_own_list_is_insisted_on(fake_runtime):
    fake_runtime(available=["Tensorrt", CUDA, CPU], started=[CUDA, CPU])

    with pytest.raises(ProviderFallback, match="Tensorrt"):
        OrtBackend("m.onnx", BackendOptions(providers=["Tensorrt", CUDA, CPU]))


def test_a_device_that_fails_to_start_is_unavailable(fake_runtime):
    fake_runtime(available=[CUDA, CPU], started=[], failure=RuntimeError("CUDA failure 35:\nmore"))

    with pytest.raises(BackendUnavailable, match="CUDA failure 35"):
        OrtBackend("m.onnx", BackendOptions(device="cuda"))


def test_running_out_of_memory_advises_a_smaller_batch(fake_runtime):
    fake_runtime(available=[CPU], started=[CPU])

    with pytest.raises(DeviceOutOfMemory, match="batch_size"):
        OrtBackend("m.onnx").run(np.zeros((2, SIZE, SIZE, 3), np.uint8))


def test_own_session_options_are_passed_on_and_exclude_threads(fake_runtime):
    runtime, mine = fake_runtime(available=[CPU], started=[CPU]), SimpleNamespace()

    OrtBackend("m.onnx", BackendOptions(session_options=mine))

    assert runtime.sessions[0][1] is mine
    with pytest.raises(ConfigError, match="not both"):
        OrtBackend("m.onnx", BackendOptions(session_options=mine, num_threads=2))


def test_session_options_may_be_a_mapping_beside_threads():
    backend_options = BackendOptions(session_options={"enable_mem_pattern": False}, num_threads=1)

    settings = ort._session_options(pytest.importorskip("onnxruntime"), backend_options)

    assert settings.enable_mem_pattern is False
    assert settings.intra_op_num_threads == 1


def test_a_session_option_of_the_wrong_type_is_refused_by_name():
    backend_options = BackendOptions(session_options={"enable_mem_pattern": "perhaps"})

    with pytest.raises(ConfigError, match="enable_mem_pattern cannot be 'perhaps'"):
        ort._session_options(pytest.importorskip("onnxruntime"), backend_options)


def test_a_session_option_that_does_not_exist_is_refused_by_name(fake_runtime):
    fake_runtime(available=[CPU], started=[CPU])

    with pytest.raises(ConfigError, match="'enable_magic'"):
        OrtBackend("m.onnx", BackendOptions(session_options={"enable_magic": True}))


def test_threads_reach_the_runtime(fake_runtime):
    runtime = fake_runtime(available=[CPU], started=[CPU])

    OrtBackend("m.onnx", BackendOptions(num_threads=3))

    assert runtime.sessions[0][1].intra_op_num_threads == 3
    with pytest.raises(ConfigError, match="num_threads is 0"):
        BackendOptions(num_threads=0)


def test_while_cuda_is_tried_the_runtime_logs_nothing_and_then_as_before(fake_runtime):
    runtime, severities = fake_runtime(available=[CUDA, CPU], started=[CPU]), []
    runtime.set_default_logger_severity = severities.append

    with pytest.raises(ProviderFallback):
        OrtBackend("m.onnx", BackendOptions(device="cuda"))

    assert severities == [4, 2]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "CPU", "cpu:0", ""])
def test_an_unknown_device_is_refused(fake_runtime, device):
    fake_runtime(available=[CPU], started=[CPU])
    if device == "":
        assert OrtBackend("m.onnx", BackendOptions(device=device)).provider == CPU
        return
    with pytest.raises(ConfigError, match="cuda:0"):
        OrtBackend("m.onnx", BackendOptions(device=device))


def test_a_corrupt_network_is_corrupt_on_whatever_device(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")

    with pytest.raises(CorruptArtifact):
        OrtBackend(path, BackendOptions(providers=[CPU]))


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def runtimes(monkeypatch):
    """Replace all runtimes by fakes: name → {device: what opening raises, or None}."""

    def install(**table):
        monkeypatch.setattr(backends, "BACKENDS", {})
        for name, outcomes in table.items():
            module = SimpleNamespace(open_artifact=_opener(name, outcomes))
            monkeypatch.setitem(sys.modules, f"fake_{name}", module)
            entry = BackendEntry(f"fake_{name}", name, "fake", tuple(outcomes))
            monkeypatch.setitem(backends.BACKENDS, name, entry)

    return install


def _opener(name, outcomes):
    def open_artifact(bundle, artifact, options):
        if outcomes[options.device.partition(":")[0]] is not None:
            raise outcomes[options.device.partition(":")[0]]
        backend = FakeBackend(bundle)
        backend.name, backend.provider = name, options.device
        backend.facts = replace(backend.facts, notes=options.notes)
        return backend

    return open_artifact


def test_auto_prefers_the_better_device_to_the_earlier_runtime(bundle, runtimes):
    runtimes(a={"cuda": Absent("a: no cuda"), "cpu": None}, b={"cuda": None, "cpu": None})

    opened = open_backend(bundle)

    assert (opened.name, opened.provider) == ("b", "cuda")
    assert opened.facts.notes == ()


def test_auto_says_once_what_it_chose_and_why_not_the_others(bundle, runtimes, caplog):
    runtimes(a={"cuda": Absent("a is gone"), "cpu": Absent("a is gone")}, b={"cpu": None})

    with caplog.at_level(logging.INFO):
        open_backend(bundle)

    assert [record.message for record in caplog.records] == [
        "chose b on cpu; passed over: a is gone"
    ]


def test_auto_passes_over_runtimes_that_read_other_artifacts(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    with caplog.at_level(logging.INFO):
        backend = open_backend(make_bundle(tmp_path / "b"))

    assert backend.name == "fake"
    assert "'onnxruntime' needs an artifact of kind 'onnx'" in caplog.text


def test_auto_with_nothing_that_works_lists_every_reason(bundle, runtimes):
    runtimes(a={"cuda": Absent("no a"), "cpu": Absent("no a")}, b={"cpu": Absent("no b")})

    with pytest.raises(BackendUnavailable, match=r"works: no a; no b$"):
        open_backend(bundle)


def test_the_one_broken_thing_is_told_before_what_is_merely_not_there(bundle, runtimes):
    runtimes(a={"cuda": ProviderFallback("a came back on the CPU")}, b={"cuda": Absent("no b")})

    with pytest.raises(ProviderFallback, match="a came back"):
        open_backend(bundle, device="cuda")


def test_a_device_asked_for_is_tried_on_every_runtime_before_a_fallback(bundle, runtimes, caplog):
    nowhere = Absent("a: no cuda")
    runtimes(a={"cuda": nowhere, "cpu": None}, b={"cuda": None, "cpu": None})
    assert open_backend(bundle, device="cuda:1", allow_fallback=True).provider == "cuda:1"

    runtimes(a={"cuda": nowhere, "cpu": None}, b={"cuda": Absent("b: no cuda"), "cpu": None})
    opened = open_backend(bundle, device="cuda:1", allow_fallback=True)

    assert (opened.name, opened.provider) == ("a", "cpu")
    assert [note[-10:] for note in opened.facts.notes] == ["a: no cuda", "b: no cuda"]
    assert caplog.records[-1].levelname == "WARNING"


def test_a_fallback_is_for_devices_not_for_mistakes(bundle, runtimes):
    runtimes(a={"cuda": None, "cpu": None})

    for wrong in ("cuda:x", "cuda:-1", "gpu", "CUDA", "cpu:0", "GPU"):
        with pytest.raises(ConfigError, match=r"allowed are auto, cpu, cuda"):
            open_backend(bundle, device=wrong, allow_fallback=True)


@pytest.mark.parametrize("given", [None, "auto", ""])
def test_no_device_is_auto(bundle, runtimes, given):
    runtimes(a={"cpu": None, "NPU": None})

    assert open_backend(bundle, device=given).provider == "cpu"
    assert open_backend(bundle, device="NPU").provider == "NPU"


def test_an_unknown_backend_or_precision_is_refused(bundle, monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    with pytest.raises(ConfigError, match=r"'tensorflow'.*onnxruntime"):
        open_backend(bundle, backend="tensorflow")
    for backend in ("fake", "auto"):
        with pytest.raises(ConfigError, match=r"no int8.*fp32"):
            open_backend(bundle, backend=backend, precision="int8")


def test_precision_chooses_among_artifacts(bundle, monkeypatch):
    full = bundle.artifacts[0]
    half = replace(full, precision_found="fp16", batch_max=3)
    write_manifest(replace(bundle, artifacts=(full, half)), bundle.root)
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    opened = open_backend(read_bundle(bundle.root), backend="fake", precision="fp16")

    assert opened.facts.batch_max == 3


def test_a_precision_only_a_runtime_can_compute_in_is_offered(bundle, monkeypatch):
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    with pytest.raises(ConfigError, match=r"openvino can compute fp32 in bf16"):
        open_backend(bundle, backend="fake", precision="bf16")

    monkeypatch.setitem(BACKENDS, "fake", FAKE._replace(computes=("bf16",)))
    assert open_backend(bundle, backend="fake", precision="bf16").name == "fake"
