"""How fast a GPU copies and a pipeline parses, by the device's own clock where it has one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.slot import Photo
from hp_sdk.gpu.ticket import STAGES, Ask, Ticket

_COPY_BYTES, _COPY_RUNS = 1 << 28, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRates:
    """GB/s (1e9 bytes); the device's own copies count what is read and what is written."""

    up: float
    down: float
    on_device: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a pipeline parses batches of one size; milliseconds per batch."""

    batch: int
    network_ms: float
    """The network alone, run after run."""
    stages_ms: dict[str, float]
    """Device time of each stage of a batch, medians."""
    enqueue_ms: float
    """The host's time to submit a batch that finds a free slot."""
    latency_ms: float
    """From `submit` to answers on the host, medians, nothing else on the way."""
    photos_per_s: float
    """With every slot at work."""
    network_photos_per_s: float

    @property
    def share(self) -> float:
        """Of what the network alone could do."""
        return self.photos_per_s / self.network_photos_per_s


def copy_rates(gpu: Gpu, size_bytes: int = _COPY_BYTES) -> CopyRates:
    """Measured with pinned memory, the best of a few.

    Raises:
        DeviceOutOfMemory: there is no room for two blocks of that size.
    """
    gpu.enter()
    stream, pinned = gpu.open_stream(), gpu.allocator.allocate_pinned(size_bytes)
    first, second = gpu.allocator.allocate(size_bytes), gpu.allocator.allocate(size_bytes)
    copies = {
        "up": lambda: stream.upload(first.pointer, pinned),
        "down": lambda: stream.download(pinned, first.pointer),
        "on_device": lambda: stream.copy(second.pointer, first.pointer, size_bytes),
    }
    best = {}
    for name, copy in copies.items():
        times = []
        for _ in range(_COPY_RUNS):
            start = stream.record()
            copy()
            end = stream.record()
            end.synchronize()
            times.append(end.elapsed_ms(start))
        best[name] = size_bytes / min(times) / 1e6
    best["on_device"] *= 2
    return CopyRates(**best)


def pace(pipeline: DevicePipeline, photos: Sequence[Photo], ask: Ask, *, seconds: float) -> Pace:
    """Parse the same batch again and again, for so many seconds.

    Raises:
        BackendError: the device failed.
    """
    for _ in range(3):  # contexts, graphs and buffers of every slot
        pipeline.parse(list(photos) * 2, ask)
    network_ms = pipeline.network_ms(len(photos) * ask.tta.num_views, runs=20)
    enqueue, latency, stages = _one_by_one(pipeline, photos, ask, seconds / 2)
    return Pace(
        batch=len(photos),
        network_ms=network_ms,
        stages_ms={name: median(each[name] for each in stages) for name in STAGES},
        enqueue_ms=median(enqueue),
        latency_ms=median(latency),
        photos_per_s=_saturated(pipeline, photos, ask, seconds / 2),
        network_photos_per_s=1e3 * len(photos) / network_ms,
    )


def _one_by_one(
    pipeline: DevicePipeline, photos: Sequence[Photo], ask: Ask, seconds: float
) -> tuple[list[float], list[float], list[dict[str, float]]]:
    """Enqueue time, latency and stages of each batch, in milliseconds."""
    enqueue: list[float] = []
    latency: list[float] = []
    stages: list[dict[str, float]] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(stages) < 3:
        start = perf_counter()
        ticket = pipeline.submit(photos, ask)
        enqueue.append(1e3 * (perf_counter() - start))
        ticket.answers()
        latency.append(1e3 * (perf_counter() - start))
        stages.append(ticket.device_ms)
    return enqueue, latency, stages


def _saturated(
    pipeline: DevicePipeline, photos: Sequence[Photo], ask: Ask, seconds: float
) -> float:
    """Photos per second while `submit` always has the next batch."""
    waiting: deque[Ticket] = deque()
    start, done = perf_counter(), 0
    while perf_counter() - start < seconds or not done:
        waiting.append(pipeline.submit(photos, ask))
        if len(waiting) > 2:
            waiting.popleft().answers()
            done += len(photos)
    for ticket in waiting:
        ticket.answers()
        done += len(photos)
    return done / (perf_counter() - start)
