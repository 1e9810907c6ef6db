"""Device memory straight from the driver: no library needed, no pool shared."""

from __future__ import annotations

from ctypes import byref, c_size_t, c_uint64, c_void_p

import numpy as np

from hp_sdk.gpu.device import Bytes
from hp_sdk.gpu.driver import check, load_driver


class DriverMemory:
    """A block of its own."""

    def __init__(self, size_bytes: int) -> None:
        self._driver, at = load_driver(), c_uint64()
        self._context = c_void_p()
        check(self._driver.cuCtxGetCurrent(byref(self._context)))
        check(self._driver.cuMemAlloc_v2(byref(at), c_size_t(max(1, size_bytes))))
        self.pointer, self.size_bytes = at.value, size_bytes

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            # the last reference may go in a thread that knows of no GPU
            self._driver.cuCtxSetCurrent(self._context)
            self._driver.cuMemFree_v2(c_uint64(self.pointer))


class _Pinned:
    """Keeps page-locked host memory while an array looks at it."""

    def __init__(self, size_bytes: int) -> None:
        self._driver, self.at = load_driver(), c_void_p()
        check(self._driver.cuMemHostAlloc(byref(self.at), c_size_t(max(1, size_bytes)), 0))
        self.__array_interface__ = {
            "shape": (size_bytes,),
            "typestr": "|u1",
            "data": (self.at.value, False),
            "version": 3,
        }

    def __del__(self) -> None:
        if getattr(self, "at", None):
            self._driver.cuMemFreeHost(self.at)


class DriverAllocator:
    """Blocks from cuMemAlloc."""

    name = "driver"

    def allocate(self, size_bytes: int) -> DriverMemory:
        """Uninitialised device memory."""
        return DriverMemory(size_bytes)

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised page-locked memory; freed with the array."""
        return np.asarray(_Pinned(size_bytes))


def open_allocator(index: int) -> DriverAllocator:
    """Memory of the current context, which is the GPU's primary one."""
    del index
    return DriverAllocator()
