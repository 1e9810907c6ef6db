"""The threads behind a stream or a queue: a few that decode and label, one for the network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident

from hp_sdk.recipe import Answer, Photo, Recipe

HELPERS = max(2, min(4, os.cpu_count() or 1))
"""Threads that decode and label; OpenCV and numpy let them run side by side."""


class Crew:
    """`helpers` decode and label photos, `network` runs batches one after the other.

    Threads start with the first work.  They end with `dismiss`, or with the crew itself.
    """

    def __init__(self) -> None:
        members: set[int] = set()

        def enlist() -> None:
            members.add(get_ident())

        self._members = members
        self.helpers = ThreadPoolExecutor(HELPERS, "hp-helper", enlist)
        self.network = ThreadPoolExecutor(1, "hp-network", enlist)

    def answer(
        self, decoding: Sequence[Future[Photo]], recipe: Recipe
    ) -> list[Future[Answer] | Future[Photo]]:
        """Run the network on photos once they are decoded; the futures of their answers, in order.

        A photo that cannot be decoded keeps its place: its future is the one that failed.
        """
        problems = [each.exception() for each in decoding]  # waits for all of them
        each_with = list(zip(decoding, problems, strict=True))
        scored = iter(recipe.run([each.result() for each, problem in each_with if not problem]))
        return [
            each if problem else self.helpers.submit(recipe.label, next(scored))
            for each, problem in each_with
        ]

    def includes_me(self) -> bool:
        """Whether the calling thread is one of the crew, which must not wait for the crew."""
        return get_ident() in self._members

    def dismiss(self, *, cancel: bool) -> None:
        """Finish the work, or with `cancel` only what has begun; no thread is left behind."""
        if cancel:
            self.network.shutdown(wait=False, cancel_futures=True)
            self.helpers.shutdown(cancel_futures=True)
        self.network.shutdown()
        self.helpers.shutdown()
