"""Batches shrink where the device runs out of memory, and stay as small as they must."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

import numpy as np

from hp_sdk.backends.base import Backend, Batch, Outputs, check_batch
from hp_sdk.errors import DeviceOutOfMemory
from hp_sdk.gpu.pipeline import DevicePipeline

_log = logging.getLogger(__name__)


class ElasticBackend:
    """A backend that halves a batch the device has no memory for, down to one input.

    A smaller size that worked is kept for every later run: `limit` says it (None before), and the
    notes of `facts`, which end on the receipt.  What was answered before the memory ran out is
    not asked again.  `run` may be called from several threads at once.
    """

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.provider = backend.provider
        self.input_hw = backend.input_hw
        self.facts = backend.facts
        self.pipeline: DevicePipeline | None = getattr(backend, "pipeline", None)
        self.limit: int | None = None
        self._backend = backend
        self._lock = Lock()

    def run(self, batch: Batch, *, outputs: Sequence[str] | None = None) -> Outputs:
        """Outputs by name for (N, h, w, 3) uint8 RGB, any N; all outputs if None are named.

        Raises:
            DeviceOutOfMemory: not even the smallest batch fits.
            BackendError: the backend failed in another way.
        """
        check_batch(batch, self.input_hw)
        done: list[Outputs] = []
        first, size, shrunk = 0, self.limit or len(batch), False
        while first < len(batch):
            chunk = batch[first : first + size]
            try:
                done.append(self._backend.run(chunk, outputs=outputs))
            except DeviceOutOfMemory as exc:
                size, shrunk = self._smaller(len(chunk), exc), True
                continue  # out of the block, whose traceback keeps the runtime's buffers alive
            if shrunk:
                self._remember(size)
            first += len(chunk)
        return done[0] if len(done) == 1 else _joined(done)

    def close(self) -> None:
        """Free the model; a later `run` raises BackendError."""
        self._backend.close()

    def _smaller(self, given: int, error: DeviceOutOfMemory) -> int:
        """Half of what was tried at once, which the graph's own largest batch bounds."""
        tried, smallest = min(given, self.facts.batch_max), self.facts.batch_min
        if tried > smallest:
            return max(tried // 2, smallest)
        height, width = self.input_hw
        raise DeviceOutOfMemory(
            f"{self.provider} has no memory for the smallest batch, {smallest} of {height} x "
            f"{width} px; free some, or take another device or a bundle of a smaller size ({error})"
        ) from error

    def _remember(self, size: int) -> None:
        with self._lock:
            if self.limit is not None and self.limit <= size:
                return
            note = f"out of device memory: {size} inputs at once since then"
            self.limit = size
            self.facts = replace(self.facts, notes=(*self._backend.facts.notes, note))
        _log.warning("%s on %s is %s", self.name, self.provider, note)


def _joined(outputs: Sequence[Outputs]) -> Outputs:
    return {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}
