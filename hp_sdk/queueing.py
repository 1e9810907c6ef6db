"""Photos that arrive close together, from anywhere in a program, share one run of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from threading import Condition
from time import monotonic
from typing import Any, Self, Unpack, overload

from hp_sdk.crew import Crew
from hp_sdk.errors import BackendError, ConfigError, QueueFull
from hp_sdk.image import Source
from hp_sdk.options import AnswerOptions, RecipeBook, SubmitOptions, checked_count, photos_per_run
from hp_sdk.recipe import NamedSource, Photo, Recipe
from hp_sdk.result import Result
from hp_sdk.sources import Item

_AN_HOUR_MS = 3_600_000


@dataclass(eq=False, slots=True)
class _Ticket:
    """One photo that waits: decoded already where a helper was free."""

    recipe: Recipe
    decoding: Future[Photo]
    answer: Future[Any] = field(default_factory=Future[Any])
    arrived: float = field(default_factory=monotonic)


class ParseQueue:
    """Answers photos one by one, and runs together those that arrive close together.

        with parser.queue(max_wait_ms=10) as queue:
            futures = [queue.submit(path) for path in paths]
            results = [future.result() for future in futures]

    Photos are answered oldest first.  The oldest waits until `max_batch` network inputs with equal
    options are there, at most `max_wait_ms`; what arrives during a run waits for the next.  Photos
    with other options form a run of their own.  `max_pending` bounds the photos whose future is
    not done, and with them the memory.  Any thread may submit.
    """

    def __init__(
        self, book: RecipeBook, *, max_batch: int, max_wait_ms: float, max_pending: int | None
    ) -> None:
        if not 0 <= max_wait_ms <= _AN_HOUR_MS:
            raise ConfigError(f"max_wait_ms is {max_wait_ms!r}; allowed are 0 to {_AN_HOUR_MS}")
        self.max_batch = checked_count("max_batch", max_batch)
        self.max_wait_ms = max_wait_ms
        usual = max(16, 4 * max_batch)
        self.max_pending = (
            usual if max_pending is None else checked_count("max_pending", max_pending)
        )
        self._book = book
        self._crew = Crew()
        self._changed = Condition()  # guards everything below
        self._waiting: deque[_Ticket] = deque()
        self._pending = 0
        self._pumping = False
        self._closed = False

    @property
    def pending(self) -> int:
        """Photos submitted whose future is not done."""
        return self._pending

    @overload
    def submit(
        self, source: Source | Item, *, domains: None = None, **options: Unpack[SubmitOptions]
    ) -> Future[Result]: ...
    @overload
    def submit(
        self, source: Source | Item, *, domains: Sequence[str], **options: Unpack[SubmitOptions]
    ) -> Future[dict[str, Result]]: ...

    def submit(
        self,
        source: Any,
        *,
        domains: Sequence[str] | None = None,
        timeout_s: float | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Future[Any]:
        """Parse one photo in the background; the future of what `Parser.predict` would return.

        Decoding starts at once, so do not change an array or close a file before the future is
        done.  `Future.cancel` succeeds until the photo's run has begun, and frees its place.  An
        asyncio program awaits `asyncio.wrap_future(queue.submit(photo, timeout_s=0))`.

        Args:
            source: one photo, as for `Parser.predict`.
            domains: as for `Parser.predict`; so are `color`, `tta`, `confidence` and `logits`.
            timeout_s: how long to wait for a place if the queue is full: None without end, 0 not
                at all.  In a callback of a future, where waiting could be for oneself, it is 0.

        Raises:
            QueueFull: no place became free in time.
            BackendError: the queue is closed.
            UnknownHead, ConfigError: an option is not allowed.
        """
        recipe = self._book.recipe(domains, **options)
        with self._changed:
            self._wait_for_a_place(0 if self._crew.includes_me() else timeout_s)
            photo = self._crew.helpers.submit(recipe.load_and_fit, NamedSource(source))
            ticket = _Ticket(recipe, photo)
            if not self._pumping:
                self._crew.network.submit(self._pump)
            self._pumping = True
            self._pending += 1
            self._waiting.append(ticket)
            self._changed.notify_all()
        ticket.answer.add_done_callback(self._leave)
        return ticket.answer

    def close(self, *, cancel_pending: bool = False) -> None:
        """Answer everything submitted, or with `cancel_pending` only what has begun; then end.

        Every future is done afterwards, and no thread is left.  Closing twice is fine.
        """
        with self._changed:
            self._closed = True
            unwanted = list(self._waiting) if cancel_pending else []
            self._changed.notify_all()
        for ticket in unwanted:
            ticket.answer.cancel()
        self._crew.dismiss(cancel=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close(cancel_pending=kind is not None)

    def _wait_for_a_place(self, timeout_s: float | None) -> None:
        free = self._changed.wait_for(
            lambda: self._closed or self._pending < self.max_pending, timeout_s
        )
        if self._closed:
            raise BackendError("the queue is closed; make a new one with Parser.queue()")
        if not free:
            raise QueueFull(
                f"{self._pending} photos wait already, which is max_pending, and none was done "
                f"within {timeout_s:g} s; submit fewer at a time, or wait longer"
            )

    def _leave(self, answer: Future[Any]) -> None:
        """A future is done: answered, failed or, if its photo still waits, cancelled."""
        with self._changed:
            self._pending -= 1
            for ticket in [each for each in self._waiting if each.answer is answer]:
                ticket.decoding.cancel()
                self._waiting.remove(ticket)
            self._changed.notify_all()

    def _pump(self) -> None:
        """Work until nothing waits.  No thread is busy with waiting for the first photo."""
        while run := self._next_run():
            # From here on, cancelling is too late.
            self._answer([each for each in run if each.answer.set_running_or_notify_cancel()])

    def _next_run(self) -> list[_Ticket]:
        with self._changed:
            while patience_s := self._patience_s():
                self._changed.wait(patience_s)
            run = self._oldest_alike()
            for ticket in run:
                self._waiting.remove(ticket)
            self._pumping = bool(run)
        return run

    def _patience_s(self) -> float:
        """How long others may still join the oldest."""
        if not self._waiting or self._closed:
            return 0
        oldest, alike = self._waiting[0], self._oldest_alike()
        if len(alike) == photos_per_run(self.max_batch, oldest.recipe.request.tta):
            return 0
        return max(0, oldest.arrived + self.max_wait_ms / 1e3 - monotonic())

    def _oldest_alike(self) -> list[_Ticket]:
        if not self._waiting:
            return []
        request = self._waiting[0].recipe.request
        alike = (each for each in self._waiting if each.recipe.request == request)
        return list(islice(alike, photos_per_run(self.max_batch, request.tta)))

    def _answer(self, run: list[_Ticket]) -> None:
        if not run:
            return
        try:
            answers = self._crew.answer([each.decoding for each in run], run[0].recipe)
        except BaseException as exc:  # noqa: BLE001 - the callers must learn of it, whatever it is
            for each in run:
                each.answer.set_exception(exc)
        else:
            for each, answer in zip(run, answers, strict=True):
                answer.add_done_callback(partial(_hand_over, each.answer))


def _hand_over(answer: Future[Any], done: Future[Any]) -> None:
    problem = done.exception()
    if problem is None:
        answer.set_result(done.result())
    else:
        answer.set_exception(problem)
