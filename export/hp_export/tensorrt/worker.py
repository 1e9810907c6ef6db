"""The child process: `python -m hp_export.tensorrt.worker REQUEST.json`.

It prints one JSON object a line and ends when its parent does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from hp_export.tensorrt.builder import build_plan
from hp_export.tensorrt.library import Refusal, describe_library, open_library

OURS = "hp-tensorrt"
"""Key that tells our lines from what the library prints."""

_OFTEN_S = 0.2


def main(path: str) -> None:
    """Do what the request file asks, and leave without the library's farewell."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        tell({"done": ACTIONS[request["action"]](request)})
    except Refusal as exc:
        tell({"refused": str(exc), "kind": exc.kind})
    sys.stderr.flush()
    os._exit(0)  # the file is written; what its destructors do could only spoil it


def tell(event: dict[str, Any]) -> None:
    """One line for the parent."""
    sys.stdout.write(f"\n{json.dumps({OURS: event})}\n")
    sys.stdout.flush()


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """What is installed here."""
    return describe_library(open_library(request["runtime"]))


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Write the plan to `request["engine"]`; facts about it."""
    trt = open_library(request["runtime"])
    start = perf_counter()
    plan, facts = build_plan(trt, request, _seldom(tell))
    elapsed_s = perf_counter() - start
    Path(request["engine"]).write_bytes(memoryview(plan))
    return facts | {"version": str(trt.__version__), "build_s": round(elapsed_s, 3)}


ACTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "describe": describe,
    "build": build,
}


def _seldom(say: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Pass on a few events a second: a build has thousands."""
    last = 0.0

    def pass_on(event: dict[str, Any]) -> None:
        nonlocal last
        if perf_counter() - last > _OFTEN_S:
            last = perf_counter()
            say(event)

    return pass_on


def _end_with_parent() -> None:
    """Our standard input is a pipe that nobody writes to: its end is the end of the parent."""
    sys.stdin.buffer.read()
    os._exit(3)


if __name__ == "__main__":
    main(sys.argv[1])
