"""The parent's side of the worker: progress, a time limit, and a crash that is an error message."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import IO, Any

import hp_export
import hp_sdk
from hp_sdk.errors import BackendUnavailable, ConfigError, ExportError, HpError

OURS = '{"hp-tensorrt"'
DESCRIBE_TIMEOUT_S = 180.0
_TICK_S = 0.2
_PATIENCE_S = 2.0
"""Work shorter than this shows nothing."""
_TAIL_BYTES = 8000
_TAIL_LINES = 3

ERRORS: dict[str, type[HpError]] = {
    "missing": BackendUnavailable,
    "gpu": BackendUnavailable,
    "option": ConfigError,
    "graph": ExportError,
}
"""Kind of `library.Refusal` → error."""

Show = Callable[[str], object]


def run_worker(
    request: Mapping[str, Any], *, what: str, timeout_s: float, show: Show
) -> dict[str, Any]:
    """Do `request` in a child process; what it answers.

    `what` names the work in messages; `show` is given a line of progress now and then.

    Raises:
        BackendUnavailable: the library or the GPU it needs is not there.
        ConfigError: the library refuses an option.
        ExportError: the graph is refused, the child crashed, or the time is over.
    """
    with tempfile.TemporaryDirectory(prefix="hp-tensorrt-") as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(dict(request)), encoding="utf-8")
        with (Path(folder) / "log").open("w+b") as log, _started(path, log) as process:
            try:
                answer = _listen(process, what, timeout_s, show)
            finally:
                process.kill()
            code = process.wait()
            if answer is None:
                raise ExportError(f"{what}: {_crash(code)}{_tail(log)}")
    if "refused" in answer:
        raise ERRORS[answer["kind"]](f"{what}: {answer['refused']}")
    return answer["done"]


def _started(request: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # -P: a file in the working folder that is called like a package must not stand in for it.
    command = [sys.executable, "-P", "-m", "hp_export.tensorrt.worker", str(request)]
    roots = [str(Path(str(package.__file__)).parents[1]) for package in (hp_export, hp_sdk)]
    inherited = os.environ.get("PYTHONPATH", "")
    places = os.pathsep.join(filter(None, [inherited, *dict.fromkeys(roots)]))
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=os.environ | {"PYTHONPATH": places},
    )


def _listen(
    process: subprocess.Popen[bytes], what: str, timeout_s: float, show: Show
) -> dict[str, Any] | None:
    """The child's last word, or None if it ended without one."""
    start, phase = monotonic(), ""
    for event in _events(process):
        elapsed_s = monotonic() - start
        if event is not None and ("done" in event or "refused" in event):
            return event
        if event is not None:
            phase = _phase_text(event)
        if elapsed_s > timeout_s:
            raise ExportError(
                f"{what}: not finished within {timeout_s:g} s; allow more time, or a smaller "
                f"batch or optimisation level (it was at: {phase or 'the start'})"
            )
        if elapsed_s > _PATIENCE_S:
            show(f"{what}: {phase or 'starting'} ({elapsed_s:.0f} s)")
    return None


def _events(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any] | None]:
    """What the child says, and None when it has been silent for a moment; ends when it ends."""
    said: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, said), daemon=True).start()
    while True:
        try:
            line = said.get(timeout=_TICK_S)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        text = line.decode(errors="replace").strip()
        if text.startswith(OURS) and text.endswith("}"):
            yield json.loads(text)["hp-tensorrt"]


def _read(stream: IO[bytes], said: queue.Queue[bytes | None]) -> None:
    try:
        for line in stream:
            said.put(line)
    except ValueError:  # closed under our hands, because the time was over
        pass
    said.put(None)


def _phase_text(event: Mapping[str, Any]) -> str:
    steps = f" {event['step']} of {event['steps']}" if event["steps"] > 1 else ""
    return f"{event['phase']}{steps}"


def _crash(code: int) -> str:
    if code >= 0:
        return f"the builder ended with exit code {code}"
    known = {int(each): each.name for each in signal.Signals}
    return f"the builder crashed with {known.get(-code, f'signal {-code}')}"


def _tail(log: IO[bytes]) -> str:
    """The last words of a log, for the end of a sentence."""
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _TAIL_BYTES))
    text = log.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"; its last words: {' | '.join(lines[-_TAIL_LINES:])}" if lines else ""
