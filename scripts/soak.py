"""Parse for a long time and watch memory, threads and open files; prints JSON, exits 1 on drift.

    python scripts/soak.py [MINUTES] [--model cihp] [--tolerance 0.05]

Rounds of everything that holds memory or threads follow each other: single photos of changing size,
lists, streams that are left early, queues, test-time augmentation, windows, undecodable files, and
loading and closing a second parser.  The first third of the time warms up.  After it, memory may
change by no more than the tolerance, as the line through all samples says it, and at the end there
may be as many threads and open files as at its start.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import numpy as np

from hp_sdk import InputError, Parser
from hp_sdk.image import load_image

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
SIZES = ((512, 512), (640, 360), (360, 900), (1200, 800), (97, 61))
WARM_UP = 1 / 3


@dataclass(frozen=True, slots=True)
class Sample:
    """This process after a round."""

    elapsed_s: float
    memory_mb: float
    threads: int
    files: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the samples say; `drift` is the change along the fitted line, as a share."""

    rounds: int
    minutes: float
    memory_mb: float
    slope_mb_per_hour: float
    drift: float
    threads: tuple[int, int]
    files: tuple[int, int]
    problems: tuple[str, ...]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", nargs="?", type=float, default=30.0)
    parser.add_argument("--model", default="cihp")
    parser.add_argument("--tolerance", type=float, default=0.05, help="allowed drift of memory")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with Parser.load(args.model, num_threads=args.threads) as loaded:
        samples = list(soak(loaded, args.model, args.minutes * 60))
    verdict = judge(samples, args.tolerance)
    print(json.dumps(asdict(verdict), indent=1))
    for problem in verdict.problems:
        print(f"soak: {problem}", file=sys.stderr)
    return 1 if verdict.problems else 0


def soak(parser: Parser, model: str, seconds: float) -> Iterator[Sample]:
    """Rounds of work until the time is over, and a sample after each."""
    photo = load_image(PHOTO)
    photos = [cv2.resize(photo, (width, height)) for height, width in SIZES]
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        for work in WORK:
            work(parser, photos)
        with Parser.load(model, num_threads=1) as second:
            second.predict(photos[0])
        gc.collect()
        yield sample(time.monotonic() - start)


def judge(samples: list[Sample], tolerance: float) -> Verdict:
    """Compare what came after the warm-up."""
    end = samples[-1].elapsed_s
    settled = [each for each in samples if each.elapsed_s >= WARM_UP * end]
    times_s = np.array([each.elapsed_s for each in settled])
    memory_mb = np.array([each.memory_mb for each in settled])
    slope = float(np.polyfit(times_s, memory_mb, 1)[0]) if len(settled) > 1 else 0.0
    drift = slope * float(np.ptp(times_s)) / float(memory_mb.mean())
    threads = settled[0].threads, settled[-1].threads
    files = settled[0].files, settled[-1].files
    problems: list[str] = []
    if len(settled) < 3:
        problems.append(f"only {len(settled)} rounds after the warm-up; give more minutes")
    if abs(drift) > tolerance:
        problems.append(f"memory changed by {100 * drift:.1f} %, allowed is {100 * tolerance:g} %")
    for what, (first, last) in {"threads": threads, "open files": files}.items():
        if last > first:
            problems.append(f"{what} grew from {first} to {last}")
    return Verdict(
        rounds=len(samples),
        minutes=round(end / 60, 2),
        memory_mb=round(mean(memory_mb), 1),
        slope_mb_per_hour=round(3600 * slope, 2),
        drift=round(drift, 4),
        threads=threads,
        files=files,
        problems=tuple(problems),
    )


def sample(elapsed_s: float) -> Sample:
    """This process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory_mb = pages * resource.getpagesize() / 1e6
    files = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return Sample(elapsed_s, memory_mb, threading.active_count(), files)


def _one_by_one(parser: Parser, photos: list[Any]) -> None:
    for photo in photos:
        result = parser.predict(photo, confidence=True)
        result.overlay(legend=True)
        result.to_coco()


def _as_a_list(parser: Parser, photos: list[Any]) -> None:
    parser.predict(photos * 2, domains=parser.heads[:2], tta="flip")


def _through_windows(parser: Parser, photos: list[Any]) -> None:
    parser.predict(photos[1], tta="schnet")


def _as_streams(parser: Parser, photos: list[Any]) -> None:
    for _ in parser.stream(photos * 2, smooth=0.5):
        pass
    for _ in parser.stream(photos * 2):
        break


def _submitted(parser: Parser, photos: list[Any]) -> None:
    with parser.queue(max_wait_ms=1) as queue:
        futures = [queue.submit(photo) for photo in photos]
        futures[-1].cancel()
        for future in futures[:-1]:
            future.result()


def _undecodable(parser: Parser, photos: list[Any]) -> None:
    del photos
    content = PHOTO.read_bytes()
    for broken in (b"", b"no photo", content[: len(content) // 2]):
        try:
            parser.predict(broken)
        except InputError:
            continue
        raise AssertionError("a broken photo was parsed")


WORK: tuple[Callable[[Parser, list[Any]], None], ...] = (
    _one_by_one,
    _as_a_list,
    _through_windows,
    _as_streams,
    _submitted,
    _undecodable,
)


if __name__ == "__main__":
    sys.exit(main())
