"""Devices: what is asked for by name works, or says why not; nothing falls back in silence."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from hp_sdk.backends import ort
from hp_sdk.backends.base import BackendOptions
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    DeviceOutOfMemory,
    ProviderFallback,
)

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


def test_a_cuda_device_on_a_cpu_build_is_unavailable(fake_runtime):
    fake_runtime(available=[CPU], started=[CPU])

    with pytest.raises(BackendUnavailable, match=rf"{CUDA}.*hp-sdk\[gpu\]"):
        OrtBackend("m.onnx", BackendOptions(device="cuda:0"))


def test_a_silent_fallback_is_an_error(fake_runtime):
    fake_runtime(available=[CUDA, CPU], started=[CPU])

    with pytest.raises(ProviderFallback, match=CUDA):
        OrtBackend("m.onnx", BackendOptions(device="cuda"))


def test_an_allowed_fallback_is_noted(fake_runtime, caplog):
    fake_runtime(available=[CUDA, CPU], started=[CPU])

    with caplog.at_level(logging.WARNING):
        backend = OrtBackend("m.onnx", BackendOptions(device="cuda", allow_fallback=True))

    assert backend.provider == CPU
    assert CUDA in backend.facts.notes[0]
    assert CUDA in caplog.text


def test_the_device_number_reaches_the_runtime(fake_runtime):
    runtime = fake_runtime(available=[CUDA, CPU], started=[CUDA, CPU])

    backend = OrtBackend("m.onnx", BackendOptions(device="cuda:3"))

    assert backend.provider == CUDA
    assert runtime.sessions[0][0] == [(CUDA, {"device_id": 3}), CPU]


def test_without_a_device_cuda_is_tried_and_the_cpu_is_no_failure(fake_runtime):
    fake_runtime(available=[CUDA, CPU], started=[CPU])
    assert OrtBackend("m.onnx").provider == CPU

    fake_runtime(available=[CUDA, CPU], started=[CUDA, CPU])
    assert OrtBackend("m.onnx").provider == CUDA


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


def test_threads_reach_the_runtime(fake_runtime):
    runtime = fake_runtime(available=[CPU], started=[CPU])

    OrtBackend("m.onnx", BackendOptions(num_threads=3))

    assert runtime.sessions[0][1].intra_op_num_threads == 3
    with pytest.raises(ConfigError, match="num_threads is 0"):
        OrtBackend("m.onnx", BackendOptions(num_threads=0))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "CPU", "cpu:0", ""])
def test_an_unknown_device_is_refused(fake_runtime, device):
    fake_runtime(available=[CPU], started=[CPU])
    if device == "":
        assert OrtBackend("m.onnx", BackendOptions(device=device)).provider == CPU
        return
    with pytest.raises(ConfigError, match="cuda:0"):
        OrtBackend("m.onnx", BackendOptions(device=device))
