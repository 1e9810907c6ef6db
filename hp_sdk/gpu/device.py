"""One GPU: its context, its kernels, and memory from whichever library the program uses.

The program's own torch or cupy pool should serve our buffers too, so memory comes through an
`Allocator`; everything else (streams, copies, events, graphs, launches) is the driver's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import BackendUnavailable, ConfigError
from hp_sdk.gpu.driver import CudaStream, KernelModule, PrimaryContext

Bytes = NDArray[np.uint8]


class Memory(Protocol):
    """A block on the device; freed when the last reference goes."""

    pointer: int
    size_bytes: int


class Allocator(Protocol):
    """Where memory comes from."""

    name: str

    def allocate(self, size_bytes: int) -> Memory:
        """Uninitialised device memory, aligned to 256 bytes.

        Raises:
            DeviceOutOfMemory: there is not enough.
        """
        ...

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised host memory that the device copies from and to by itself."""
        ...


class AllocatorEntry(NamedTuple):
    """Where an allocator lies."""

    module: str
    """Holds `open_allocator(index) -> Allocator`."""
    library: str
    """Module that must be there; empty if none."""
    install: str


ALLOCATORS: dict[str, AllocatorEntry] = {
    "torch": AllocatorEntry("hp_sdk.gpu.torch_memory", "torch", "install PyTorch with CUDA"),
    "cuda-core": AllocatorEntry(
        "hp_sdk.gpu.cuda_core_memory", "cuda.core", 'pip install "hp-sdk[tensorrt]"'
    ),
    "cupy": AllocatorEntry("hp_sdk.gpu.cupy_memory", "cupy", "pip install cupy-cuda13x"),
    "pycuda": AllocatorEntry("hp_sdk.gpu.pycuda_memory", "pycuda", 'pip install "hp-sdk[pycuda]"'),
    "driver": AllocatorEntry("hp_sdk.gpu.driver_memory", "", ""),
}
"""In the order in which "auto" tries them; torch and cupy only if the program imported them."""

_POOLS = ("torch", "cupy")


class Gpu:
    """An open GPU.

    Args:
        index: which of the visible GPUs.
        memory: "auto" or a name of `ALLOCATORS`.

    Raises:
        ConfigError: no such allocator.
        BackendUnavailable: no driver, no such GPU, or no allocator works.
    """

    def __init__(self, index: int = 0, *, memory: str = "auto") -> None:
        self.context = PrimaryContext(index)
        self.allocator = open_allocator(index, memory=memory)
        self.kernels = KernelModule(self.context.capability)

    def enter(self) -> None:
        """Make the GPU current in this thread."""
        self.context.enter()

    def open_stream(self) -> CudaStream:
        """A stream of its own."""
        self.enter()
        return CudaStream()

    def close(self) -> None:
        """Unload the kernels and let go of the context."""
        self.enter()
        self.kernels.close()
        self.context.close()


def open_allocator(index: int, *, memory: str = "auto") -> Allocator:
    """The first allocator that works, or the one asked for.

    Raises:
        ConfigError: no such allocator.
        BackendUnavailable: none works; the message says why.
    """
    if memory != "auto" and memory not in ALLOCATORS:
        raise ConfigError(f"no device memory {memory!r}; there are auto, {', '.join(ALLOCATORS)}")
    refusals = []
    for name in allocator_order() if memory == "auto" else (memory,):
        try:
            return _open(name, index)
        except BackendUnavailable as exc:
            refusals.append(f"{name}: {exc}")
    raise BackendUnavailable("no device memory; " + "; ".join(refusals))


def allocator_order() -> Sequence[str]:
    """What the program uses already, then the light ones."""
    return [name for name in ALLOCATORS if name not in _POOLS or name in sys.modules]


def _open(name: str, index: int) -> Allocator:
    entry = ALLOCATORS[name]
    if entry.library and not _is_installed(entry.library):
        raise BackendUnavailable(f"not installed; {entry.install}")
    return import_module(entry.module).open_allocator(index)


def _is_installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        return False
