"""What counts as an array, on the host or in the memory of a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray


class CudaArray(Protocol):
    """An array of torch, cupy, numba, jax or nvImageCodec on an NVIDIA GPU."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


class DLPackArray(Protocol):
    """An array of any library that hands its memory over by DLPack."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


DeviceArray: TypeAlias = CudaArray | DLPackArray
"""A photo that need not visit the host where the parser works on the same GPU."""
AnyArray: TypeAlias = NDArray[Any] | DeviceArray
