"""Pieces of work in processes of their own: none can take the others down, and nothing is lost.

Every piece writes what it found to a file of its own; one that crashes, or takes longer than it
may, leaves the reason there instead.  A later run does only what is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hp_sdk.files import write_bytes

MISSING = "missing"
_TAIL = 1500  # characters of a log that are kept with the reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One thing to do."""

    name: str
    command: tuple[str, ...]
    """Writes its findings, JSON, to the file that `Desk.result` names."""
    limit_s: float
    in_background: bool = False
    """Needs no GPU: begins at once, beside the others, and ends before anything is timed."""
    is_timed: bool = False
    """Begins only when nothing is left in the background."""


class Desk:
    """Where results and logs lie: `pieces/NAME.json` and `logs/NAME.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pieces", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def result(self, name: str) -> Path:
        """File of a piece's findings."""
        return self.folder / "pieces" / f"{name.replace(':', '-')}.json"

    def log(self, name: str) -> Path:
        """File of what it said."""
        return self.folder / "logs" / f"{name.replace(':', '-')}.log"

    def read(self, name: str) -> Any:
        """What is known of a piece; None if nothing, or nothing whole."""
        try:
            return json.loads(self.result(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, name: str, found: Any) -> None:
        """Keep the findings of a piece."""
        write_bytes(self.result(name), (json.dumps(found, indent=1) + "\n").encode())

    def is_done(self, name: str) -> bool:
        """Whether it has been found before."""
        found = self.read(name)
        return found is not None and not is_missing(found)

    def tail(self, name: str) -> str:
        """The end of what it said."""
        try:
            text = self.log(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " ".join(text.split())[-_TAIL:]


class Running:
    """A piece at work."""

    def __init__(self, piece: Piece, desk: Desk, environment: dict[str, str]) -> None:
        self.piece, self._desk, self._start = piece, desk, time.monotonic()
        desk.result(piece.name).unlink(missing_ok=True)
        with desk.log(piece.name).open("wb") as log:
            self._process = subprocess.Popen(
                piece.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    def end(self, limit_s: float) -> None:
        """Wait so long, then end it; keep the reason if it found nothing."""
        why = ""
        try:
            code = self._process.wait(max(0.1, limit_s - (time.monotonic() - self._start)))
        except subprocess.TimeoutExpired:
            code, why = self.kill(), f"not done after {limit_s:.0f} s"
        except BaseException:  # an interruption takes the piece with it
            self.kill()
            raise
        seconds = round(time.monotonic() - self._start, 1)
        found = self._desk.read(self.piece.name)
        if found is None:
            why = why or (f"killed by signal {-code}" if code < 0 else f"exit code {code}")
            found = {MISSING: why, "said": self._desk.tail(self.piece.name)}
        self._desk.write(self.piece.name, found | {"seconds": seconds})

    def kill(self) -> int:
        """End it and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def supervise(
    pieces: Sequence[Piece],
    desk: Desk,
    *,
    budget_s: float,
    report: Callable[[str], None],
    environment: dict[str, str] | None = None,
    again: bool = False,
) -> None:
    """Do all pieces in order, as far as the time goes; `report` is called after each."""
    end, environment = time.monotonic() + budget_s, environment or dict(os.environ)
    todo = [piece for piece in pieces if again or not desk.is_done(piece.name)]
    waiting = [Running(piece, desk, environment) for piece in todo if piece.in_background]
    try:
        for piece in (piece for piece in todo if not piece.in_background):
            if piece.is_timed:
                _collect(waiting, end, report)
            left = end - time.monotonic()
            if left < 1:
                desk.write(piece.name, {MISSING: f"no time left of {budget_s:.0f} s"})
            else:
                Running(piece, desk, environment).end(min(piece.limit_s, left))
            report(piece.name)
        _collect(waiting, end, report)
    finally:
        for running in waiting:  # only after an error or an interruption
            running.kill()


def _collect(waiting: list[Running], end: float, report: Callable[[str], None]) -> None:
    while waiting:
        running = waiting[0]
        running.end(min(running.piece.limit_s, max(0.1, end - time.monotonic())))
        waiting.pop(0)
        report(running.piece.name)


def is_missing(found: Any) -> bool:
    """Whether it was not found."""
    return isinstance(found, dict) and MISSING in found
