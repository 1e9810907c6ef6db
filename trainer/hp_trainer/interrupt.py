"""Stop a run between two steps: Ctrl-C and SIGTERM (a scheduler's request) lose nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class StopRequest:
    """Raised flag: finish this step, save, leave."""

    signal: int = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def stop_between_steps() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts at once.

    Outside the main thread signals cannot be caught, and the request never comes.
    """
    request = StopRequest()
    before: dict[int, object] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, ask)
    except ValueError:
        before.clear()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
