"""What a GPU does in a benchmark, by its own clock: stages, copies, saturation, share of its peaks.

Engines, batches and baselines take turns in a random but seeded order.  What cannot be measured is
named with its reason, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from random import Random
from statistics import median
from threading import Event, Thread
from typing import Any, Protocol, TypeVar

from hp_sdk.backends import ort, torch
from hp_sdk.bench.measure import Progress, Subject, silent
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import BackendError, BackendUnavailable, ConfigError
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.sensors import Sensors, read_sensors
from hp_sdk.gpu.ticket import STAGES, Ask
from hp_sdk.gpu.timing import CopyRates, Pace, copy_rates, pace
from hp_sdk.image import Pixels, load_image
from hp_sdk.tta import TTA

ROUNDS = 3
_SENSOR_PERIOD_S, _BASELINE_RUNS = 0.25, 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """One engine and batch; medians over the rounds, milliseconds per batch."""

    name: str
    batch: int
    rounds: int
    network_ms: float
    """The engine alone, run after run, as trtexec measures it."""
    network_photos_per_s: float
    stages_ms: Mapping[str, float]
    """Device time of each stage, with nothing else on the way."""
    enqueue_ms: float
    """The host's time to submit a batch."""
    latency_ms: float
    """From `submit` to labels on the host, with nothing else on the way."""
    overhead_ms: float
    """Latency beyond the engine alone."""
    photos_per_s: float
    """With every slot at work."""
    share_of_network: float
    upload_gb_per_s: float | None
    download_gb_per_s: float | None
    upload_share: float | None
    """Of the copies that the same run measured; so is the next."""
    download_share: float | None
    network_tflops: float | None
    """Of the engine alone; None if the bundle's card states no MACs."""
    matmul_share: float | None
    """Of the matrix product that the same run measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """A network alone in another runtime."""

    name: str
    batch: int
    rounds: int
    network_ms: float
    photos_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """Everything that was measured on one GPU."""

    name: str
    capability: str
    copies_gb_per_s: CopyRates | None
    matmul_tflops: float | None
    """Of one large float16 product in torch."""
    sensors: Mapping[str, Sensors | None]
    """Before, while it worked (medians), and after."""
    rows: tuple[GpuRow, ...]
    baselines: tuple[BaselineRow, ...]
    missing: Mapping[str, str]
    """What was not measured, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """What to measure, and for how long."""

    head: str
    tta: TTA
    macs: int | None = None
    duration_s: float = 10.0
    """Of each engine and batch."""
    seed: int = 0
    baselines: tuple[str, ...] = ()
    """Of `BASELINES`."""


def measure_gpu(
    subjects: Sequence[Subject], plan: GpuPlan, *, progress: Progress = silent
) -> GpuReport | None:
    """Measure the subjects that work on a GPU; None if none does."""
    working = [subject for subject in subjects if subject.parser.pipeline is not None]
    if not working:
        return None
    first = _pipeline(working[0])
    context, ledger = first.gpu.context, _Ledger()
    before = ledger.attempt("clocks and power", lambda: read_sensors(context.index))
    copies = ledger.attempt("copies", lambda: copy_rates(first.gpu))
    peak = ledger.attempt("matrix product", lambda: torch.matmul_peak(context.index))
    lanes: list[_Lane] = [_EngineLane(subject, plan) for subject in working]
    with _baselines(working, plan, ledger) as others, _sampled(context.index, before) as seen:
        lanes += others
        _take_turns(lanes, plan.seed, ledger, progress)
        rows = [lane.row(copies, peak) for lane in lanes if lane.found]
    after = ledger.attempt("clocks and power", lambda: read_sensors(context.index))
    return GpuReport(
        name=context.name,
        capability=".".join(map(str, context.capability)),
        copies_gb_per_s=copies,
        matmul_tflops=peak,
        sensors={"before": before, "working": _medians(seen), "after": after},
        rows=tuple(row for row in rows if isinstance(row, GpuRow)),
        baselines=tuple(row for row in rows if isinstance(row, BaselineRow)),
        missing=ledger.missing,
    )


@dataclass(slots=True)
class _Ledger:
    """What could not be done, and why."""

    missing: dict[str, str] = field(default_factory=dict[str, str])

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is named, and the rest goes on
            self.missing[what] = " ".join(str(exc).split()) or type(exc).__name__
            return None


class Baseline(Protocol):
    """A network alone on the GPU."""

    name: str

    def network_ms(self, count: int, runs: int) -> float:
        """Device time of one run for `count` inputs, out of so many.

        Raises:
            BackendError: it failed.
        """
        ...

    def close(self) -> None:
        """Free it."""
        ...


class _Lane:
    """One engine or baseline at one batch."""

    name: str
    found: list[Any]

    def turn(self) -> None:
        """Measure once."""
        raise NotImplementedError

    def row(self, copies: CopyRates | None, peak: float | None) -> GpuRow | BaselineRow:
        """All turns together."""
        raise NotImplementedError


class _EngineLane(_Lane):
    def __init__(self, subject: Subject, plan: GpuPlan) -> None:
        self.name, self.found = subject.name, []
        self._pipeline, self._batch = _pipeline(subject), subject.batch
        self._inputs = subject.batch * subject.views
        self._seconds, self._macs = plan.duration_s / ROUNDS, plan.macs
        self._ask = Ask(heads=(plan.head,), tta=plan.tta)
        files = subject.photos.files
        self._photos = [load_image(files[i % len(files)]) for i in range(subject.batch)]

    def turn(self) -> None:
        """Pace of the pipeline.

        Raises:
            BackendError: the device failed.
            ConfigError: the pipeline does not take such batches.
        """
        _check_taken(self._pipeline, self._photos, self._inputs, self._ask)
        self.found.append(pace(self._pipeline, self._photos, self._ask, seconds=self._seconds))

    def row(self, copies: CopyRates | None, peak: float | None) -> GpuRow:
        """Medians of the turns, and shares of the peaks."""
        paces: list[Pace] = self.found
        network_ms, latency_ms = _of(paces, "network_ms"), _of(paces, "latency_ms")
        stages = {name: median(each.stages_ms[name] for each in paces) for name in STAGES}
        labels = sum(photo.shape[0] * photo.shape[1] for photo in self._photos)
        up = _rate(sum(photo.nbytes for photo in self._photos), stages["upload"])
        down = _rate(labels, stages["download"])
        tflops = None if self._macs is None else 2e-9 * self._macs * self._inputs / network_ms
        return GpuRow(
            name=self.name,
            batch=self._batch,
            rounds=len(paces),
            network_ms=network_ms,
            network_photos_per_s=1e3 * self._batch / network_ms,
            stages_ms=stages,
            enqueue_ms=_of(paces, "enqueue_ms"),
            latency_ms=latency_ms,
            overhead_ms=latency_ms - network_ms,
            photos_per_s=_of(paces, "photos_per_s"),
            share_of_network=_of(paces, "share"),
            upload_gb_per_s=up,
            download_gb_per_s=down,
            upload_share=_share(up, copies and copies.up),
            download_share=_share(down, copies and copies.down),
            network_tflops=tflops,
            matmul_share=_share(tflops, peak),
        )


class _BaselineLane(_Lane):
    def __init__(self, network: Baseline, batch: int) -> None:
        self.name, self.found = f"{network.name}, batch {batch}", []
        self._network, self._batch = network, batch

    def turn(self) -> None:
        """One row of runs.

        Raises:
            BackendError: it failed.
        """
        self.found.append(self._network.network_ms(self._batch, _BASELINE_RUNS))

    def row(self, copies: CopyRates | None, peak: float | None) -> BaselineRow:
        """Median of the turns."""
        del copies, peak
        network_ms = median(self.found)
        return BaselineRow(
            name=self._network.name,
            batch=self._batch,
            rounds=len(self.found),
            network_ms=network_ms,
            photos_per_s=1e3 * self._batch / network_ms,
        )


def _take_turns(lanes: Sequence[_Lane], seed: int, ledger: _Ledger, progress: Progress) -> None:
    """Some rounds in which each has a turn; who failed has no more."""
    shuffled, done = Random(seed), 0
    for _ in range(ROUNDS):
        for lane in shuffled.sample(lanes, len(lanes)):
            progress(f"on the GPU: {lane.name}", done / (ROUNDS * len(lanes)))
            if lane.name not in ledger.missing:
                ledger.attempt(lane.name, lane.turn)
            done += 1


@contextmanager
def _baselines(
    subjects: Sequence[Subject], plan: GpuPlan, ledger: _Ledger
) -> Iterator[list[_Lane]]:
    """Other runtimes on the same network, closed after."""
    bundle, index = subjects[0].parser.bundle, _pipeline(subjects[0]).gpu.context.index
    tried = [
        ledger.attempt(f"{name} alone", partial(BASELINES[name], bundle, index))
        for name in plan.baselines
    ]
    opened = [each for each in tried if each is not None]
    batches = dict.fromkeys(subject.batch * subject.views for subject in subjects)
    try:
        yield [_BaselineLane(each, batch) for each in opened for batch in batches]
    finally:
        for each in opened:
            each.close()


def _torch_alone(bundle: Bundle, index: int, *, compiled: bool) -> Baseline:
    return torch.open_baseline(bundle, _artifact(bundle, "torch"), index, compiled=compiled)


def _onnx_alone(bundle: Bundle, index: int) -> Baseline:
    return ort.open_baseline(bundle, _artifact(bundle, "onnx"), index)


BASELINES: dict[str, Callable[[Bundle, int], Baseline]] = {
    "eager": partial(_torch_alone, compiled=False),
    "compiled": partial(_torch_alone, compiled=True),
    "onnxruntime": _onnx_alone,
}
"""Torch in float16, the same by torch.compile, and ONNX Runtime with its own CUDA graphs."""


def _artifact(bundle: Bundle, runtime: str) -> Artifact:
    for artifact in bundle.artifacts:
        if artifact.runtime == runtime:
            return artifact
    raise BackendUnavailable(f"the bundle has no artifact of kind {runtime!r}; export one")


@contextmanager
def _sampled(index: int, before: Sensors | None) -> Iterator[list[Sensors]]:
    """Readings while the block runs; none where there was none before."""
    found: list[Sensors] = []
    stop = Event()

    def sample() -> None:
        with suppress(BackendError):
            while not stop.wait(_SENSOR_PERIOD_S):
                found.append(read_sensors(index))

    thread = Thread(target=sample, name="hp-sensors", daemon=True)
    if before is not None:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        if before is not None:
            thread.join()


def _medians(readings: Sequence[Sensors]) -> Sensors | None:
    if not readings:
        return None
    told: dict[str, float | None] = {}
    for each in fields(Sensors):
        values = [getattr(reading, each.name) for reading in readings]
        known = [value for value in values if value is not None]
        told[each.name] = median(known) if known else None
    return Sensors(**told)


def _pipeline(subject: Subject) -> DevicePipeline:
    found = subject.parser.pipeline
    assert found is not None, "only subjects on a GPU are measured there"
    return found


def _check_taken(pipeline: DevicePipeline, photos: Sequence[Pixels], inputs: int, ask: Ask) -> None:
    if inputs > pipeline.limit:
        raise BackendError(f"the engine takes {pipeline.limit} inputs at once, not {inputs}")
    if not all(pipeline.takes((photo.shape[0], photo.shape[1]), ask) for photo in photos):
        raise ConfigError("these photos need windows or views that the host cuts and merges")


def _of(paces: Sequence[Pace], name: str) -> float:
    return median(getattr(each, name) for each in paces)


def _rate(size_bytes: int, ms: float) -> float | None:
    """GB/s."""
    return size_bytes / ms / 1e6 if ms > 0 else None


def _share(value: float | None, peak: float | None) -> float | None:
    return value / peak if value is not None and peak else None
