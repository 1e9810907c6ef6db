"""Contexts, memory, streams, copies, graphs and kernels, on a driver that runs on the host."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest

from hp_sdk.errors import BackendError, BackendUnavailable, ConfigError, DeviceOutOfMemory
from hp_sdk.gpu import driver
from hp_sdk.gpu.device import ALLOCATORS, Gpu, allocator_order, open_allocator
from hp_sdk.gpu.driver import PrimaryContext


def _works(name: str) -> bool:
    try:
        open_allocator(0, memory=name)
    except BackendUnavailable:
        return False
    return True


@pytest.fixture
def gpu(fake_cuda):
    opened = Gpu(memory="driver")
    yield opened
    opened.close()


def test_bytes_come_back_as_they_went(gpu) -> None:
    stream, values = gpu.open_stream(), np.arange(1000, dtype=np.uint8)
    first, second = gpu.allocator.allocate(1000), gpu.allocator.allocate(1000)
    stream.upload(first.pointer, values)
    stream.copy(second.pointer, first.pointer, 1000)
    found = gpu.allocator.allocate_pinned(1000)
    stream.download(found, second.pointer)
    stream.synchronize()
    assert np.array_equal(found, values)


def test_memory_is_freed_with_its_last_reference(gpu, fake_cuda) -> None:
    before = fake_cuda.fake_used()
    memory = gpu.allocator.allocate(5000)
    assert fake_cuda.fake_used() == before + 5000
    del memory
    gc.collect()
    assert fake_cuda.fake_used() == before


def test_memory_is_freed_in_a_thread_that_knows_of_no_gpu(gpu, fake_cuda) -> None:
    before = fake_cuda.fake_used()
    held = [gpu.allocator.allocate(5000)]
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join(30)
    assert fake_cuda.fake_used() == before


def test_pinned_memory_outlives_its_allocator(fake_cuda) -> None:
    opened = Gpu(memory="driver")
    array = opened.allocator.allocate_pinned(64)
    opened.close()
    del opened
    gc.collect()
    array[:] = 7
    assert array.sum() == 7 * 64


def test_a_full_device_is_reported_as_such(gpu, fake_cuda) -> None:
    fake_cuda.fake_limit(1 << 20)
    with pytest.raises(DeviceOutOfMemory, match="smaller batch_size"):
        gpu.allocator.allocate(2 << 20)
    gpu.allocator.allocate(1000)


def test_a_lost_device_is_named_in_one_line(gpu, fake_cuda) -> None:
    stream = gpu.open_stream()
    fake_cuda.fake_fail(719)
    with pytest.raises(BackendError, match=r"CUDA_ERROR_LAUNCH_FAILED.*new process"):
        stream.synchronize()


def test_a_recorded_graph_does_again_what_was_recorded(gpu) -> None:
    stream = gpu.open_stream()
    source, target = gpu.allocator.allocate(8), gpu.allocator.allocate(8)
    graph = stream.capture(lambda: stream.copy(target.pointer, source.pointer, 8))
    for value in (3, 9):
        stream.upload(source.pointer, np.full(8, value, np.uint8))
        graph.launch(stream)
        found = np.zeros(8, np.uint8)
        stream.download(found, target.pointer)
        assert (found == value).all()


def test_a_failed_capture_leaves_the_stream_usable(gpu) -> None:
    stream = gpu.open_stream()

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stream.capture(fails)
    memory = gpu.allocator.allocate(4)
    stream.upload(memory.pointer, np.full(4, 5, np.uint8))
    found = np.zeros(4, np.uint8)
    stream.download(found, memory.pointer)
    assert (found == 5).all()


def test_events_pass_and_tell_the_time(gpu) -> None:
    stream, other = gpu.open_stream(), gpu.open_stream()
    start = stream.record()
    other.wait(start)
    end = stream.record()
    end.synchronize()
    assert end.has_passed()
    assert end.elapsed_ms(start) > 0


def test_softmax_runs_on_the_device(gpu) -> None:
    stream = gpu.open_stream()
    scores = np.random.default_rng(0).normal(0, 4, (2, 5, 30)).astype(np.float32)
    memory = gpu.allocator.allocate(scores.nbytes)
    stream.upload(memory.pointer, scores)
    arguments = [np.uint64(memory.pointer), np.int32(2), np.int32(5), np.int32(30)]
    gpu.kernels.launch("hp_softmax", (1, 1, 1), (64, 1, 1), arguments, stream.handle)
    found = np.empty_like(scores)
    stream.download(found, memory.pointer)
    exact = np.exp(scores - scores.max(1, keepdims=True))
    assert np.abs(found - exact / exact.sum(1, keepdims=True)).max() < 1e-6


def test_a_gpu_that_is_not_there_is_counted(fake_cuda) -> None:
    with pytest.raises(BackendUnavailable, match="no GPU 3; 1 are visible"):
        PrimaryContext(3)


def test_without_a_driver_the_cpu_is_offered(monkeypatch) -> None:
    monkeypatch.setattr(driver, "_LIBRARY", "libno-such-driver.so.1")
    driver.load_driver.cache_clear()
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver; use device='cpu'"):
        Gpu()
    driver.load_driver.cache_clear()


def test_the_programs_own_library_is_asked_first(monkeypatch) -> None:
    for name in ("torch", "cupy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert allocator_order() == ["cuda-core", "pycuda", "driver"]
    monkeypatch.setitem(sys.modules, "torch", object())
    assert allocator_order()[0] == "torch"


def test_an_unknown_allocator_is_refused_with_the_list(fake_cuda) -> None:
    with pytest.raises(ConfigError, match=f"auto, {', '.join(ALLOCATORS)}"):
        open_allocator(0, memory="numba")


@pytest.mark.parametrize("name", ["torch", "cuda-core", "cupy", "pycuda"])
def test_an_allocator_that_cannot_work_here_says_why(fake_cuda, name) -> None:
    if _works(name):
        assert open_allocator(0, memory=name).name == name
        return
    with pytest.raises(BackendUnavailable, match=rf"^no device memory; {name}: [^\n]+$"):
        open_allocator(0, memory=name)


def test_auto_ends_at_the_driver_itself(fake_cuda, monkeypatch) -> None:
    monkeypatch.setattr("hp_sdk.gpu.device._is_installed", lambda _library: False)
    assert open_allocator(0).name == "driver"
