"""Device memory from CuPy's pool, for programs that use cupy already."""

from __future__ import annotations

from typing import Any

import numpy as np

from hp_sdk.errors import BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.device import Bytes


class CupyMemory:
    """A block of the pool."""

    def __init__(self, cupy: Any, size_bytes: int) -> None:
        try:
            self.block: Any = cupy.cuda.alloc(max(1, size_bytes))
        except cupy.cuda.memory.OutOfMemoryError as exc:
            raise DeviceOutOfMemory(
                f"cupy has no {size_bytes / 1e6:.0f} MB left ({exc}); take a smaller batch_size"
            ) from exc
        self.pointer, self.size_bytes = int(self.block.ptr), size_bytes


class CupyAllocator:
    """Blocks of cupy's pool."""

    name = "cupy"

    def __init__(self, cupy: Any, index: int) -> None:
        self._cupy, self._device = cupy, cupy.cuda.Device(index)

    def allocate(self, size_bytes: int) -> CupyMemory:
        """Uninitialised device memory."""
        with self._device:
            return CupyMemory(self._cupy, size_bytes)

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised page-locked memory; freed with the array."""
        block = self._cupy.cuda.alloc_pinned_memory(max(1, size_bytes))
        return np.frombuffer(block, np.uint8, size_bytes)


def open_allocator(index: int) -> CupyAllocator:
    """Memory of one GPU.

    Raises:
        BackendUnavailable: cupy finds no such GPU.
    """
    import cupy

    try:
        found = int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError as exc:
        raise BackendUnavailable(f"cupy finds no GPU ({exc})") from exc
    if index >= found:
        raise BackendUnavailable(f"cupy finds {found} GPUs, not number {index}")
    return CupyAllocator(cupy, index)
