"""Runs on the clock: warm-up, turns, counted runs, and whether every answer is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from time import perf_counter
from typing import TypeAlias

import numpy as np

from hp_sdk.bench.pictures import PhotoSet
from hp_sdk.bench.statistics import RUNS_MIN
from hp_sdk.errors import BackendError
from hp_sdk.image import Pixels
from hp_sdk.parser import Parser
from hp_sdk.result import Receipt, Result

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment."""
Progress: TypeAlias = Callable[[str, float], None]
"""Takes what is being done, and the share of it that is done."""

STAGES = {"load": "decode", "fit": "preprocess", "network": "infer", "labels": "postprocess"}
"""Step of `Result.timing` → stage of a call; what no step accounts for is `OTHER`."""
INFER, OTHER = "infer", "other"

TURN_RUNS = 5
"""Counted runs of one configuration before the next has its turn."""
WINDOW_RUNS, WINDOWS, SETTLED_WITHIN, WARMUP_S = 5, 3, 0.05, 10.0
"""Warm is who had `WINDOWS` windows in a row whose medians lie so close; or whose time is over."""


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What is timed: an open parser on a set of photos, so many at once."""

    parser: Parser
    photos: PhotoSet
    receipt: Receipt
    """Of a call before; what the subject is called follows what really runs."""
    batch: int = 1
    views: int = 1
    """Network inputs per photo, so that a call is one run of the network."""
    backend: str = "auto"
    """As it was asked for."""
    load_ms: float = 0.0

    @property
    def name(self) -> str:
        """Such as `onnxruntime, batch 8, 1024x768`."""
        return f"{self.receipt.backend.split()[0]}, batch {self.batch}, {self.photos.size}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: so many runs of each, or so long in all."""

    runs: int | None = None
    duration_s: float = 10.0
    seed: int = 0

    def share(self, runs: int, elapsed_s: float) -> float:
        """How much of it is done, after so many runs of each."""
        if self.runs is not None:
            return runs / self.runs
        return min(runs / RUNS_MIN, elapsed_s / self.duration_s)

    def turn(self, runs: int) -> int:
        """Length of the next turn."""
        return TURN_RUNS if self.runs is None else min(TURN_RUNS, self.runs - runs)


@dataclass(frozen=True, slots=True)
class Run:
    """One call of `predict`; the stages add up to the total."""

    total_ms: float
    stages_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Runs before the first counted one, and whether they had become alike."""

    runs: int
    settled: bool


class Answers:
    """The first label map of each photo, and how many later ones differ from it."""

    def __init__(self) -> None:
        self.runs_differing = 0
        self.differing_px = 0
        """Of the worst photo."""
        self._first: dict[int, Pixels] = {}

    def add(self, photos: Sequence[int], labels: Sequence[Pixels]) -> None:
        """The label maps of one run."""
        changed = [
            int(np.count_nonzero(self._first.setdefault(photo, each) != each))
            for photo, each in zip(photos, labels, strict=True)
        ]
        self.runs_differing += any(changed)
        self.differing_px = max(self.differing_px, *changed)

    def agreement(self, other: Answers) -> float:
        """Share of pixels that both label alike, over the first label maps."""
        pairs = [(self._first[photo], other._first[photo]) for photo in self._first]
        alike = sum(int(np.count_nonzero(mine == theirs)) for mine, theirs in pairs)
        return alike / sum(mine.size for mine, _ in pairs)

    def sha256(self) -> str:
        """Of the first label maps, in the order of the photos."""
        digest = hashlib.sha256()
        for photo in sorted(self._first):
            digest.update(repr(self._first[photo].shape).encode())
            digest.update(np.ascontiguousarray(self._first[photo]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """Everything that was seen of one subject."""

    subject: Subject
    receipt: Receipt
    """Of the last run: what has happened on the way is in its notes."""
    warmup: WarmUp
    runs: tuple[Run, ...]
    answers: Answers


def silent(what: str, share: float) -> None:
    """No progress is told."""
    del what, share


def measure(
    subjects: Sequence[Subject],
    plan: Plan,
    *,
    clock: Clock = perf_counter,
    progress: Progress = silent,
) -> list[Measurement]:
    """Warm every subject up, then let them take turns; one measurement for each, in order.

    Raises:
        BackendError: the runtime failed; the message names the subject.
    """
    lanes = [_Lane(subject, clock) for subject in subjects]
    warmups: list[WarmUp] = []
    for number, lane in enumerate(lanes):
        progress(f"warming up {lane.subject.name}", number / len(lanes))
        warmups.append(lane.warm_up())
    _take_turns(lanes, plan, clock, progress)
    return [
        Measurement(lane.subject, lane.receipt, warmup, tuple(lane.runs), lane.answers)
        for lane, warmup in zip(lanes, warmups, strict=True)
    ]


class _Lane:
    """One subject and what has been seen of it."""

    def __init__(self, subject: Subject, clock: Clock) -> None:
        self.subject = subject
        self.runs: list[Run] = []
        self.answers = Answers()
        self.receipt = subject.receipt
        self._clock = clock
        self._calls = 0

    def run(self) -> Run:
        """Parse the next photos."""
        files, batch = self.subject.photos.files, self.subject.batch
        places = [(self._calls * batch + i) % len(files) for i in range(batch)]
        sources = [files[place] for place in places]
        start = self._clock()
        results = self._predict(sources)
        total_ms = 1e3 * (self._clock() - start)
        self._calls += 1
        self.receipt = results[0].receipt or self.receipt
        self.answers.add(places, [result.labels for result in results])
        return Run(total_ms, _stages(results, total_ms))

    def _predict(self, sources: list[bytes]) -> list[Result]:
        subject = self.subject
        try:
            return subject.parser.predict(sources, batch_size=subject.batch * subject.views)
        except BackendError as exc:
            raise type(exc)(f"{subject.name}: {exc}") from exc

    def warm_up(self) -> WarmUp:
        """Every photo once, then windows until they are alike or the time is over."""
        start = self._clock()
        for _ in range(-(-len(self.subject.photos.files) // self.subject.batch)):
            self.run()
        medians: list[float] = []
        while not _settled(medians) and self._clock() - start < WARMUP_S:
            medians.append(median(self.run().total_ms for _ in range(WINDOW_RUNS)))
        return WarmUp(self._calls, _settled(medians))


def _settled(medians: Sequence[float]) -> bool:
    last = medians[-WINDOWS:]
    return len(last) == WINDOWS and max(last) <= (1 + SETTLED_WITHIN) * min(last)


def _take_turns(lanes: Sequence[_Lane], plan: Plan, clock: Clock, progress: Progress) -> None:
    shuffled, start, last = Random(plan.seed), clock(), lanes[-1]
    while (share := plan.share(len(lanes[0].runs), clock() - start)) < 1:
        progress("measuring", share)
        for lane in shuffled.sample(lanes, len(lanes)):
            if lane is not last:
                lane.run()  # brings its caches back and another runtime's threads to rest
            lane.runs += [lane.run() for _ in range(plan.turn(len(lane.runs)))]
            last = lane


def _stages(results: Sequence[Result], total_ms: float) -> dict[str, float]:
    """Stages of a call from the steps of its photos."""
    stages = {
        stage: sum(result.timing.get(step, 0.0) for result in results)
        for step, stage in STAGES.items()
    }
    return stages | {OTHER: max(0.0, total_ms - sum(stages.values()))}
