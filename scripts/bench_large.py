"""A large photo around the network: memory above the input, and time; prints JSON.

    python scripts/bench_large.py [--size 3000x4000] [--classes 20] [--threads 2] [--runs 5]

Logits on a 128 x 128 grid become labels at the photo's size, in a process of its own for each case:
"photo" has scores as smooth as a network's, "noise" has none and lets every class contend
everywhere, which is the worst there can be; "fit" makes the network's input of the photo.  Each is
done by NumPy and OpenCV, and by the accelerator (`make native`) where it is built; "speedup" is how
many times faster that is.  Memory is the largest resident size during the call above that before
it; "cpu" is the time of all threads together, which a busy machine changes least.  The exit code is
1 if "photo" without confidence needs more than a limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hp_sdk.bundle import InputSpec
from hp_sdk.native import accelerator, find_accelerator
from hp_sdk.postprocess import label_map, labels_and_confidence
from hp_sdk.preprocess import fit, plan

MEMORY_MB, TIME_S = 150.0, 0.6
GRID, STRIDE = 128, 4
CASES = (("photo", False), ("photo", True), ("noise", False), ("noise", True), ("fit", False))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="3000x4000", metavar="HxW")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--ignore-time", action="store_true", help="for a busy machine")
    args = parser.parse_args()
    height, width = (int(side) for side in args.size.lower().split("x"))
    shared = {"classes": args.classes, "threads": args.threads, "runs": args.runs}
    rows: list[dict[str, Any]] = []
    for kind, confidence in CASES:
        case = {"kind": kind, "confidence": confidence, "size_hw": (height, width)}
        rows += measure_both(case | shared)
    plain = [row for row in rows if row["case"] == "photo" and not row["confidence"]]
    within = all(row["memory_mb"] <= MEMORY_MB for row in plain) and (
        args.ignore_time or all(row["seconds"]["median"] <= TIME_S for row in plain)
    )
    limits = {"memory_mb": MEMORY_MB, "seconds": TIME_S}
    print(json.dumps({"cases": rows, "limits": limits, "within": within}, indent=1))
    return 0 if within else 1


def measure_both(case: dict[str, Any]) -> list[dict[str, Any]]:
    """One case by NumPy and, where it is built, by the accelerator, with what that gains."""
    plain = in_a_process({"HP_NATIVE": "0"}, case)
    if find_accelerator({}).module is None:
        return [plain]
    row = in_a_process({"HP_NATIVE": "1"}, case)
    row["speedup"] = round(plain["seconds"]["median"] / row["seconds"]["median"], 1)
    return [plain, row]


def in_a_process(environment: dict[str, str], case: dict[str, Any]) -> dict[str, Any]:
    """Only a fresh process has a high-water mark of its own."""
    os.environ.update(environment)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, **case).result()


def measure(
    *, kind: str, confidence: bool, size_hw: tuple[int, int], classes: int, threads: int, runs: int
) -> dict[str, Any]:
    """Memory of the first call and times of the next ones."""
    cv2.setNumThreads(threads)
    shared = {"kind": kind, "confidence": confidence, "classes": classes}
    small, call = (subject(hw, **shared) for hw in ((64, 64), size_hw))
    small()  # loads what is loaded lazily
    before, peak_before = resident_mb(), peak_mb()
    call()
    memory = peak_mb() - before
    cpu_before = time.process_time()
    elapsed_s = [timed(call) for _ in range(runs)]
    cpu_s = (time.process_time() - cpu_before) / runs
    return {
        "case": kind,
        "steps": accelerator().name,
        "confidence": confidence,
        "size_hw": list(size_hw),
        "classes": classes,
        "threads": threads,
        "memory_mb": round(memory, 1),
        "peak_was_above_mb": round(peak_before - before, 1),
        "seconds": {
            "median": round(statistics.median(elapsed_s), 4),
            "min": round(min(elapsed_s), 4),
            "cpu": round(cpu_s, 4),
        },
    }


def subject(
    size_hw: tuple[int, int], *, kind: str, confidence: bool, classes: int
) -> Callable[[], object]:
    """The call of a case for a photo of one size."""
    spec = InputSpec(size_hw=(GRID * STRIDE, GRID * STRIDE))
    if kind == "fit":
        photo = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
        return partial(fit, photo, spec)
    label = labels_and_confidence if confidence else label_map
    return partial(label, made_up_logits(kind, classes), plan(size_hw, spec))


def made_up_logits(kind: str, classes: int) -> np.ndarray:
    """(K, 128, 128) float32: parts as blobs over a background, or noise."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.standard_normal((classes, GRID, GRID)).astype(np.float32)
    y, x = np.mgrid[:GRID, :GRID] / GRID
    planes = [np.full((GRID, GRID), 2.0)]
    for _ in range(1, classes):
        (cy, cx), (sy, sx) = rng.uniform(0.2, 0.8, 2), rng.uniform(0.04, 0.15, 2)
        planes.append(8 * np.exp(-(((y - cy) / sy) ** 2) - ((x - cx) / sx) ** 2))
    noise = 0.3 * rng.standard_normal((classes, GRID, GRID))
    return (np.stack(planes) + noise).astype(np.float32)


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """Most memory this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
