"""What only a fresh process can tell: the cold start, its memory, and a clean matrix product.

The parent calls `cold_start` and `measure_peak`; `main` is what runs in the child.  Nothing but the
standard library is imported at the top, so that the child can time its own imports.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from hp_sdk.errors import BackendError

TIMEOUT_S = 600
MATRIX, PRODUCTS = 1536, 8
"""Rows and columns of the matrices whose product is the peak, and how often it is taken."""
_LATER_RUNS = 2
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cold:
    """From nothing to the first answer, without the start of Python itself; medians."""

    starts: int
    import_ms: float
    load_ms: float
    first_ms: float
    total_ms: float
    peak_memory_bytes: int | None
    """The largest; of the whole process, after a few runs."""


def cold_start(
    model: str,
    photos: list[str],
    *,
    starts: int,
    load_options: Mapping[str, Any],
    batch_size: int,
) -> Cold:
    """Import, load and parse `photos` (paths, in one call) in fresh processes, one after another.

    Raises:
        BackendError: a process does not survive it.
    """
    task = {"model": model, "photos": photos, "load": dict(load_options), "batch_size": batch_size}
    told = [_run_child("cold", task, {}) for _ in range(starts)]
    steps = ("import_ms", "load_ms", "first_ms")
    medians = {step: median(each[step] for each in told) for step in steps}
    memory = [each["peak_memory_bytes"] for each in told]
    return Cold(
        starts=starts,
        total_ms=median(sum(each[step] for step in steps) for each in told),
        peak_memory_bytes=None if None in memory else max(memory),
        **medians,
    )


def measure_peak(threads: int | None) -> float:
    """Billions of float32 operations per second that numpy's matrix product reaches.

    Raises:
        BackendError: the process does not survive it.
    """
    environment = {} if threads is None else {name: str(threads) for name in _THREADS}
    return _run_child("peak", {}, environment)["gflops"]


def main() -> None:
    """Inside the child: a task from stdin, one line of JSON to stdout."""
    task = json.loads(sys.stdin.read())
    answer = _TASKS[task.pop("task")](**task)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def parse_cold(
    model: str, photos: list[str], load: Mapping[str, Any], batch_size: int
) -> dict[str, Any]:
    """Import, load and parse for the first time in this process."""
    start = perf_counter()
    from hp_sdk.parser import Parser

    imported = perf_counter()
    with Parser.load(model, **load) as parser:
        loaded = perf_counter()
        parser.predict(photos, batch_size=batch_size)
        parsed = perf_counter()
        for _ in range(_LATER_RUNS):
            parser.predict(photos, batch_size=batch_size)
        return {
            "import_ms": 1e3 * (imported - start),
            "load_ms": 1e3 * (loaded - imported),
            "first_ms": 1e3 * (parsed - loaded),
            "peak_memory_bytes": peak_memory_bytes(),
        }


def multiply(size: int = MATRIX, products: int = PRODUCTS) -> dict[str, Any]:
    """The best of a few products of two square matrices."""
    import numpy as np

    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    out = np.empty_like(a)
    seconds: list[float] = []
    for _ in range(products):
        start = perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(perf_counter() - start)
    return {"gflops": 2e-9 * size**3 / min(seconds)}


def peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Largest resident memory of this process so far; None where the system does not say."""
    # Linux's ru_maxrss is no less than what the parent had when it started this process.
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        return 1024 * int(found[1]) if found else None
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


_TASKS = {"cold": parse_cold, "peak": multiply}


def _run_child(task: str, arguments: dict[str, Any], environment: Mapping[str, str]) -> Any:
    root = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.append({root!r}); from hp_sdk.bench.fresh import main; main()"
    try:
        done = subprocess.run(
            # -P: a file of the working folder must not stand in for a package of its name.
            [sys.executable, "-P", "-c", program],
            input=json.dumps({"task": task} | arguments),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BackendError(f"a fresh process took more than {TIMEOUT_S} s; see --cold") from exc
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise BackendError(
            f"a fresh process failed with exit code {done.returncode}: {lines[-1]}; "
            "--cold 0 goes without"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])
