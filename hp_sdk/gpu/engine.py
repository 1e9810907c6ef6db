"""A network on the device, as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hp_sdk.gpu.driver import CudaStream


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output of an engine per network input: (K, h, w)."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Bytes per network input."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Engine(Protocol):
    """A network on the device."""

    input_hw: tuple[int, int]
    outputs: Mapping[str, Tensor]
    batch_min: int
    batch_max: int
    can_capture: bool
    """Whether `enqueue` may be recorded into a graph."""

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        """Enqueue the network for `count` inputs (N, h, w, 3) uint8 at `image`."""
        ...

    def close(self) -> None:
        """Free it."""
        ...
