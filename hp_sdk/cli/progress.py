"""Progress on the terminal: one line that is written over again and again, nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

_CLEAR = "\r\x1b[K"
_BAR = 20


@contextmanager
def status_line() -> Generator[Callable[[str], None]]:
    """A function that shows a text in the place of the last; the line is gone at the end."""
    is_terminal, columns = sys.stderr.isatty(), shutil.get_terminal_size().columns

    def show(text: str) -> None:
        if is_terminal:
            print(f"{_CLEAR}{text[: columns - 1]}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")


def progress_text(what: str, done: int, total: int | None, elapsed_s: float) -> str:
    """Such as `in.mp4 [#####---------------] 25 %, 30 of 120, 12.0 per second, 0:08 left`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    speed = f"{rate:.1f} per second"
    if not total:
        return f"{what} {done}, {speed}"
    share = min(1.0, done / total)
    filled = round(_BAR * share)
    bar = f"[{'#' * filled}{'-' * (_BAR - filled)}] {100 * share:.0f} %"
    left = f", {_clock(max(0, total - done) / rate)} left" if rate else ""
    return f"{what} {bar}, {done} of {total}, {speed}{left}"


def _clock(seconds: float) -> str:
    """As hours, minutes and seconds: 0:08, 12:30, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
