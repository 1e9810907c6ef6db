"""Device memory from PyCUDA, in the primary context; `pycuda.autoinit` would make another."""

from __future__ import annotations

from typing import Any

import numpy as np

from hp_sdk.errors import BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.device import Bytes


class PycudaMemory:
    """A block of its own."""

    def __init__(self, cuda: Any, size_bytes: int) -> None:
        try:
            self.block: Any = cuda.mem_alloc(max(1, size_bytes))
        except cuda.MemoryError as exc:
            raise DeviceOutOfMemory(
                f"no {size_bytes / 1e6:.0f} MB left on the GPU ({exc}); take a smaller batch_size"
            ) from exc
        self.pointer, self.size_bytes = int(self.block), size_bytes


class PycudaAllocator:
    """Blocks from PyCUDA."""

    name = "pycuda"

    def __init__(self, cuda: Any, index: int) -> None:
        cuda.init()
        self._cuda = cuda
        self._context = cuda.Device(index).retain_primary_context()

    def allocate(self, size_bytes: int) -> PycudaMemory:
        """Uninitialised device memory."""
        self._context.push()
        try:
            return PycudaMemory(self._cuda, size_bytes)
        finally:
            self._context.pop()

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised page-locked memory; freed with the array."""
        self._context.push()
        try:
            return self._cuda.pagelocked_empty(size_bytes, np.uint8)
        finally:
            self._context.pop()


def open_allocator(index: int) -> PycudaAllocator:
    """Memory of one GPU.

    Raises:
        BackendUnavailable: pycuda finds no such GPU.
    """
    try:
        import pycuda.driver as cuda
    except ImportError as exc:  # without a driver its library does not load
        raise BackendUnavailable(
            f"pycuda cannot be imported ({exc}); is the driver there?"
        ) from exc
    try:
        return PycudaAllocator(cuda, index)
    except cuda.Error as exc:
        raise BackendUnavailable(f"pycuda cannot open GPU {index} ({exc})") from exc
