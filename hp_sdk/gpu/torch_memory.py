"""Device memory from PyTorch's caching pool, for programs that use torch already."""

from __future__ import annotations

from typing import Any

from hp_sdk.errors import BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.device import Bytes


class TorchMemory:
    """A block of torch's pool."""

    def __init__(self, torch: Any, size_bytes: int, device: str) -> None:
        try:
            self.tensor = torch.empty(size_bytes, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError as exc:
            raise DeviceOutOfMemory(
                f"torch has no {size_bytes / 1e6:.0f} MB left on {device}; take a smaller "
                "batch_size"
            ) from exc
        self.pointer, self.size_bytes = self.tensor.data_ptr(), size_bytes


class TorchAllocator:
    """Blocks of torch's pool. Streams are ours, so blocks are kept as long as they are in use."""

    name = "torch"

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._device = torch, device

    def allocate(self, size_bytes: int) -> TorchMemory:
        """Uninitialised device memory."""
        return TorchMemory(self._torch, size_bytes, self._device)

    def allocate_pinned(self, size_bytes: int) -> Bytes:
        """Uninitialised page-locked memory; freed with the array."""
        torch = self._torch
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True).numpy()


def open_allocator(index: int) -> TorchAllocator:
    """Memory of one GPU.

    Raises:
        BackendUnavailable: this torch has no CUDA, or finds no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable(f"torch {torch.__version__} finds no GPU")
    return TorchAllocator(torch, f"cuda:{index}")
