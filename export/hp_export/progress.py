"""What an export is busy with: one line on a terminal, from the third second on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

DELAY_S = 2.0


class Progress(Protocol):
    """Told the name of every step."""

    def __call__(self, step: str) -> object:
        """A step begins."""
        ...


def silent(step: str) -> None:
    """Progress that nobody sees."""
    del step


@contextmanager
def on_terminal(title: str) -> Iterator[Progress]:
    """Show the current step and the time so far, on a terminal only."""
    form = "{desc} [{elapsed}] {postfix}"
    with tqdm(desc=title, disable=None, delay=DELAY_S, leave=False, bar_format=form) as bar:

        def show(step: str) -> None:
            bar.set_postfix_str(step, refresh=False)
            bar.update()

        yield show
