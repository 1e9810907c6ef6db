"""The network at a few batch sizes, replayed from CUDA graphs where that is possible."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping

from hp_sdk.errors import BackendError, DeviceOutOfMemory
from hp_sdk.gpu.driver import CudaGraph, CudaStream
from hp_sdk.gpu.engine import Context, Engine

MOST_SIZES = 8
"""Batch sizes whose graph a slot keeps; the least recently used goes."""

_log = logging.getLogger(__name__)


def bucket_of(count: int, engine: Engine) -> int:
    """The batch size that `count` inputs are filled up to: eight sizes at most, and 1."""
    if count > 1:
        step = max(1, engine.batch_max // MOST_SIZES)
        count = min(-(-count // step) * step, engine.batch_max)
    return max(count, engine.batch_min)


class Replays:
    """Contexts and graphs of one stream.

    A graph is only right as long as the context it was recorded from stays as it was, so every
    batch size has a context of its own.  They share one scratch memory: a stream runs one at a
    time.
    """

    def __init__(self, engine: Engine, *, graphs: bool) -> None:
        self._engine, self._graphs = engine, graphs
        self._replays: OrderedDict[int, _Replay] = OrderedDict()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes at hand, the most recently used last."""
        return tuple(self._replays)

    def run(
        self, count: int, image: int, outputs: Mapping[str, int], scratch: int, stream: CudaStream
    ) -> None:
        """Enqueue the network; addresses must stay the same until `clear`."""
        replay = self._replays.pop(count, None)
        if replay is None:
            replay = _Replay(self._engine.open_context(scratch), graphs=self._graphs)
        self._replays[count] = replay
        if len(self._replays) > MOST_SIZES:
            self._replays.popitem(last=False)
        replay.run(count, image, outputs, stream)

    def clear(self) -> None:
        """Forget all; the stream must be done."""
        self._replays.clear()


class _Replay:
    """One batch size: run once as it is, then recorded, then replayed."""

    def __init__(self, context: Context, *, graphs: bool) -> None:
        self._context, self._graphs = context, graphs
        self._graph: CudaGraph | None = None
        self._has_run = False

    def run(self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream) -> None:
        if self._graph is None and self._has_run and self._graphs:
            self._graph = self._recorded(count, image, outputs, stream)
        if self._graph is not None:
            self._graph.launch(stream)
            return
        self._context.enqueue(count, image, outputs, stream)
        self._has_run = True

    def _recorded(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> CudaGraph | None:
        if not self._context.can_capture(stream):
            return None
        try:
            return stream.capture(lambda: self._context.enqueue(count, image, outputs, stream))
        except DeviceOutOfMemory:
            raise
        except BackendError as exc:  # a lost device fails again in the run that follows
            self._graphs = False
            _log.warning("batches of %d run without a CUDA graph: %s", count, exc)
            return None
