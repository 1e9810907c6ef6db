"""A network on the device, as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hp_sdk.gpu.driver import CudaStream


@dataclass(frozen=True, slots=True)
class Tensor:
    """One output of an engine per network input: (K, h, w) for scores."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Bytes per network input."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Context(Protocol):
    """What one run of an engine needs to itself; two runs at once need two contexts."""

    def can_capture(self, stream: CudaStream) -> bool:
        """Whether `enqueue` may be recorded into a graph, once it has run."""
        ...

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        """Enqueue the network for `count` inputs (N, h, w, 3) uint8 at `image`.

        Every output of the engine gets an address.
        """
        ...


class Engine(Protocol):
    """A network on the device."""

    input_hw: tuple[int, int]
    batch_min: int
    batch_max: int
    scratch_bytes: int
    """Device memory that a run needs besides inputs and outputs; 0 if the engine brings its own."""

    @property
    def outputs(self) -> Mapping[str, Tensor]:
        """Output tensors by name."""
        ...

    def open_context(self, scratch: int) -> Context:
        """A context whose runs use `scratch_bytes` at that address, one after the other."""
        ...

    def close(self) -> None:
        """Free it; its contexts are gone by then."""
        ...
