"""Device memory from cuda-core's stream-ordered pool."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from hp_sdk.errors import BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.device import Bytes


class CudaCoreMemory:
    """A block of the pool."""

    def __init__(self, pool: Any, size_bytes: int, device: Any) -> None:
        try:
            self.buffer = pool.allocate(max(1, size_bytes), stream=device.default_stream)
            device.default_stream.sync()  # other streams may use the block from now on
        except Exception as exc:
            raise DeviceOutOfMemory(
                f"no {size_bytes / 1e6:.0f} MB left on the GPU ({exc}); take a smaller batch_size"
            ) from exc
        self.pointer, self.size_bytes = int(self.buffer.handle), size_bytes


class CudaCoreAllocator:
    """Blocks of cuda-core's pool."""

    name = "cuda-core"

    def __init__(self, core: Any, index: int) -> None:
        self._device = core.Device(index)
        self._device.set_current()
        self._pool = core.DeviceMemoryResource(index)
        self._pinned = core.LegacyPinnedMemoryResource()

    def allocate(self, size_bytes: int) -> CudaCoreMemory:
        """Uninitialised device memory."""
        return CudaCoreMemory(self._pool, size_bytes, self._device)

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised page-locked memory; freed with the array."""
        buffer = self._pinned.allocate(max(1, size_bytes), stream=self._device.default_stream)
        return np.from_dlpack(buffer).view(np.uint8)[:size_bytes]


def open_allocator(index: int) -> CudaCoreAllocator:
    """Memory of one GPU.

    Raises:
        BackendUnavailable: cuda-core cannot open it.
    """
    try:
        core: Any = import_module("cuda.core")  # its names appear at run time only
        return CudaCoreAllocator(core, index)
    except Exception as exc:
        raise BackendUnavailable(f"cuda-core cannot open GPU {index} ({exc})") from exc
