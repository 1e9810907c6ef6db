"""The CUDA driver: primary context, streams, events, copies, graphs and launches.

The driver's C interface is called directly. It is there wherever a GPU is, and everything that
allocates (torch, cuda-core, cupy, pycuda) shares the primary context it hands out.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import BackendError, BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.compiler import KERNELS, compile_kernels

Dim = tuple[int, int, int]
LEGACY_STREAM = 1
"""Handle of the default stream, where torch and cupy work unless told otherwise."""

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_OUT_OF_MEMORY, _NOT_READY = 2, 600
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NON_BLOCKING = 1  # a stream that does not wait for the default stream
_THREAD_LOCAL = 1  # capture that other threads' calls do not break


class NoDriver(BackendUnavailable):
    """There is no NVIDIA driver; nothing is broken."""


@cache
def load_driver() -> ctypes.CDLL:
    """The initialised driver.

    Raises:
        NoDriver: it is not installed.
        BackendUnavailable: it does not start.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as exc:
        raise NoDriver("there is no NVIDIA driver; use device='cpu'") from exc
    if code := driver.cuInit(0):
        raise BackendUnavailable(
            f"the NVIDIA driver does not start ({_name(driver, code)}); see nvidia-smi"
        )
    return driver


def check(code: int) -> None:
    """Translate what a driver call returned.

    Raises:
        DeviceOutOfMemory: the device's memory is used up.
        BackendError: anything else; once a kernel has failed, every later call does.
    """
    if not code:
        return
    name = _name(load_driver(), code)
    if code == _OUT_OF_MEMORY:
        raise DeviceOutOfMemory(f"the GPU has no memory left ({name}); take a smaller batch_size")
    raise BackendError(f"the GPU failed ({name}); load the model again, in a new process if lost")


def count_gpus() -> int:
    """GPUs that CUDA shows; 0 without a driver that works."""
    count = c_int()
    try:
        check(load_driver().cuDeviceGetCount(byref(count)))
    except BackendError:
        return 0
    return count.value


def bus_id(index: int) -> str:
    """Where a GPU sits, such as "0000:01:00.0", which tells it from others to every library.

    Raises:
        BackendError: there is no such GPU, or no driver.
    """
    device, text = c_int(), ctypes.create_string_buffer(32)
    check(load_driver().cuDeviceGet(byref(device), index))
    check(load_driver().cuDeviceGetPCIBusId(text, len(text), device))
    return text.value.decode()


class CudaEvent:
    """A point in a stream, with a time."""

    def __init__(self) -> None:
        self._driver = load_driver()
        self.handle = c_void_p()
        check(self._driver.cuEventCreate(byref(self.handle), 0))

    def synchronize(self) -> None:
        """Wait until the stream has come here."""
        check(self._driver.cuEventSynchronize(self.handle))

    def has_passed(self) -> bool:
        """Whether the stream has come here."""
        code = self._driver.cuEventQuery(self.handle)
        if code != _NOT_READY:
            check(code)
        return code == 0

    def elapsed_ms(self, since: CudaEvent) -> float:
        """Milliseconds on the device between two events that have passed."""
        found = c_float()
        check(self._driver.cuEventElapsedTime(byref(found), since.handle, self.handle))
        return found.value

    def __del__(self) -> None:
        if self.handle:
            self._driver.cuEventDestroy_v2(self.handle)


class CudaGraph:
    """Recorded work."""

    def __init__(self, handle: c_void_p) -> None:
        self._driver = load_driver()
        self._executable = c_void_p()
        try:
            check(
                self._driver.cuGraphInstantiateWithFlags(
                    byref(self._executable), handle, c_uint64()
                )
            )
        finally:
            self._driver.cuGraphDestroy(handle)

    def launch(self, stream: CudaStream) -> None:
        """Enqueue it again."""
        check(self._driver.cuGraphLaunch(self._executable, c_void_p(stream.handle)))

    def __del__(self) -> None:
        if self._executable:
            self._driver.cuGraphExecDestroy(self._executable)


class CudaStream:
    """Work in order; `handle` is the integer that TensorRT, ONNX Runtime and torch take."""

    def __init__(self) -> None:
        self._driver = load_driver()
        stream = c_void_p()
        check(self._driver.cuStreamCreate(byref(stream), _NON_BLOCKING))
        self.handle = stream.value or 0

    def record(self) -> CudaEvent:
        """An event after everything enqueued so far."""
        event = CudaEvent()
        check(self._driver.cuEventRecord(event.handle, c_void_p(self.handle)))
        return event

    def wait(self, event: CudaEvent) -> None:
        """Do what is enqueued from now on only after the event; the host does not wait."""
        check(self._driver.cuStreamWaitEvent(c_void_p(self.handle), event.handle, 0))

    def follow(self, other: int) -> None:
        """Do what is enqueued from now on only after what the stream `other` has to do so far."""
        event = CudaEvent()
        check(self._driver.cuEventRecord(event.handle, c_void_p(other)))
        self.wait(event)

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""
        check(self._driver.cuStreamSynchronize(c_void_p(self.handle)))

    def upload(self, target: int, source: NDArray[Any]) -> None:
        """Enqueue a copy of a C-contiguous array to device memory; asynchronous if pinned."""
        check(
            self._driver.cuMemcpyHtoDAsync_v2(
                c_uint64(target), *_bytes_of(source), c_void_p(self.handle)
            )
        )

    def download(self, target: NDArray[Any], source: int) -> None:
        """Enqueue a copy into a C-contiguous array; asynchronous if pinned."""
        at, size = _bytes_of(target)
        check(self._driver.cuMemcpyDtoHAsync_v2(at, c_uint64(source), size, c_void_p(self.handle)))

    def copy(self, target: int, source: int, size_bytes: int) -> None:
        """Enqueue a copy on the device."""
        check(
            self._driver.cuMemcpyDtoDAsync_v2(
                c_uint64(target), c_uint64(source), c_size_t(size_bytes), c_void_p(self.handle)
            )
        )

    def capture(self, work: Callable[[], None]) -> CudaGraph:
        """Record what `work()` enqueues here instead of doing it."""
        stream, graph = c_void_p(self.handle), c_void_p()
        check(self._driver.cuStreamBeginCapture_v2(stream, _THREAD_LOCAL))
        try:
            work()
        finally:
            code = self._driver.cuStreamEndCapture(stream, byref(graph))
        check(code)
        return CudaGraph(graph)

    def __del__(self) -> None:
        if self.handle:
            self._driver.cuStreamDestroy_v2(c_void_p(self.handle))


class PrimaryContext:
    """The context of one GPU that all libraries of a process share.

    Raises:
        BackendUnavailable: no driver, or no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver = load_driver()
        self._device, self._context, count = c_int(), c_void_p(), c_int()
        check(self._driver.cuDeviceGetCount(byref(count)))
        if not 0 <= index < count.value:
            raise BackendUnavailable(f"there is no GPU {index}; {count.value} are visible")
        check(self._driver.cuDeviceGet(byref(self._device), index))
        check(self._driver.cuDevicePrimaryCtxRetain(byref(self._context), self._device))
        self.index, self.name = index, self._read_name()
        self.capability = (self._attribute(_MAJOR), self._attribute(_MINOR))
        self.enter()

    def enter(self) -> None:
        """Make it current in this thread; cheap, and harmless if it is."""
        check(self._driver.cuCtxSetCurrent(self._context))

    @contextmanager
    def entered(self) -> Generator[None]:
        """Current in this thread inside the block; the caller's own GPU is current again after."""
        before = c_void_p()
        check(self._driver.cuCtxGetCurrent(byref(before)))
        self.enter()
        try:
            yield
        finally:
            if before:
                self._driver.cuCtxSetCurrent(before)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = c_size_t(), c_size_t()
        check(self._driver.cuMemGetInfo_v2(byref(free), byref(total)))
        return free.value, total.value

    def close(self) -> None:
        """Let go of it; others keep it alive."""
        if self._context:
            self._driver.cuDevicePrimaryCtxRelease_v2(self._device)
            self._context = c_void_p()

    def _read_name(self) -> str:
        name = ctypes.create_string_buffer(256)
        check(self._driver.cuDeviceGetName(name, len(name), self._device))
        return name.value.decode(errors="replace")

    def _attribute(self, which: int) -> int:
        value = c_int()
        check(self._driver.cuDeviceGetAttribute(byref(value), which, self._device))
        return value.value


class KernelModule:
    """kernels.cu, compiled for and loaded into the current context.

    Raises:
        BackendUnavailable: no run-time compiler.
    """

    def __init__(self, capability: tuple[int, int]) -> None:
        self._driver = load_driver()
        self._module = c_void_p()
        check(self._driver.cuModuleLoadData(byref(self._module), compile_kernels(capability)))
        self._functions = {name: self._function(name) for name in KERNELS}

    def launch(
        self, name: str, grid: Dim, block: Dim, arguments: Sequence[Any], stream: int
    ) -> None:
        """Enqueue a kernel; arguments are NumPy scalars of the types kernels.cu declares."""
        values = [np.asarray(value) for value in arguments]
        table = (c_void_p * len(values))(*(value.ctypes.data for value in values))
        check(
            self._driver.cuLaunchKernel(
                self._functions[name], *grid, *block, 0, c_void_p(stream), table, None
            )
        )

    def close(self) -> None:
        """Unload it."""
        if self._module:
            self._driver.cuModuleUnload(self._module)
            self._module = c_void_p()

    def _function(self, name: str) -> c_void_p:
        function = c_void_p()
        check(self._driver.cuModuleGetFunction(byref(function), self._module, name.encode()))
        return function


def _bytes_of(array: NDArray[Any]) -> tuple[c_void_p, c_size_t]:
    assert array.flags.c_contiguous
    return c_void_p(array.ctypes.data), c_size_t(array.nbytes)


def _name(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorName(code, byref(text))
    return (text.value or f"CUDA error {code}".encode()).decode()
