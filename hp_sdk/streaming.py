"""Photos from any source, decoded, run and labelled at the same time, answered in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from typing import Any

from hp_sdk.crew import Crew
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.image import Color
from hp_sdk.options import OnError, checked_count, photos_per_run
from hp_sdk.recipe import Answer, NamedSource, Photo, Recipe, named
from hp_sdk.sources import expand, is_many


def stream(
    source: Any,
    recipe: Recipe,
    *,
    batch_size: int,
    ahead: int | None = None,
    on_error: OnError = "raise",
) -> Generator[Any]:
    """Answers to the photos of `source`, in order; see `Parser.stream`.

    Raises:
        ConfigError: an option is not allowed; at once, not with the first answer.
    """
    if on_error not in ("raise", "return"):
        raise ConfigError(f"on_error is {on_error!r}; allowed are 'raise' and 'return'")
    photos = photos_per_run(batch_size, recipe.request.tta)
    # One batch is in the network, one is decoded, and two photos are labelled.
    ahead = 2 * photos + 2 if ahead is None else checked_count("ahead", ahead)
    return _answers(source, recipe, run_size=min(photos, ahead), ahead=ahead, on_error=on_error)


def _answers(
    source: Any, recipe: Recipe, *, run_size: int, ahead: int, on_error: OnError
) -> Generator[Answer | InputError]:
    belt = _Belt(_photos_of(source, recipe.request.color), recipe, run_size=run_size, ahead=ahead)
    try:
        while belt.refill():
            yield belt.next_answer(on_error)
        if belt.problem is not None:
            raise belt.problem
    finally:
        belt.stop()


class _Belt:
    """Photos between the source and the consumer, never more than `ahead`.

    Photos that follow each other form runs of `run_size`, whatever the timing, so that the same
    source gives the same batches and thus the same answers each time.  The source is asked in the
    consumer's thread: it needs no lock, and one that blocks keeps no thread alive.
    """

    def __init__(
        self, photos: Generator[NamedSource], recipe: Recipe, *, run_size: int, ahead: int
    ) -> None:
        self.problem: Exception | None = None
        """What the source raised; due after the answers to what it gave before."""
        self._photos = photos
        self._recipe = recipe
        self._run_size = run_size
        self._ahead = ahead
        self._crew = Crew()
        self._ended = False
        self._decoding: list[Future[Photo]] = []  # the run that is not full yet
        self._running: deque[Future[list[Future[Any]]]] = deque()  # for each photo its run

    def refill(self) -> bool:
        """Take photos while there is room; False when the last answer is out.

        If an answer is ready, one photo in its place is enough: a slow source, such as a camera,
        holds back no answer for longer than it takes to give one photo.
        """
        taken = 0
        while not self._ended and self._in_flight() < self._ahead:
            if taken and self._is_ready():
                break
            self._take()
            taken += 1
        return self._in_flight() > 0

    def next_answer(self, on_error: OnError) -> Answer | InputError:
        """The answer to the oldest photo, or its error."""
        run = self._running.popleft()
        try:
            return run.result().pop(0).result()  # an answer handed out is not kept
        except InputError as exc:
            if on_error == "raise":
                raise
            return _without_frames(exc)

    def stop(self) -> None:
        """Drop what has not begun and wait for the rest; no thread and no file stays behind."""
        self._photos.close()
        self._crew.dismiss(cancel=True)

    def _in_flight(self) -> int:
        return len(self._decoding) + len(self._running)

    def _is_ready(self) -> bool:
        if not self._running or not self._running[0].done():
            return False
        run = self._running[0]
        return run.exception() is not None or run.result()[0].done()

    def _take(self) -> None:
        try:
            photo = next(self._photos, None)
        except Exception as exc:  # noqa: BLE001 - raised when what came before is answered
            photo, self.problem = None, exc
        self._ended = photo is None
        if photo is not None:
            self._decoding.append(self._crew.helpers.submit(self._recipe.load_and_fit, photo))
        if self._decoding and (self._ended or len(self._decoding) == self._run_size):
            self._run()

    def _run(self) -> None:
        photos, self._decoding = self._decoding, []
        run = self._crew.network.submit(self._crew.answer, photos, self._recipe)
        self._running.extend([run] * len(photos))


def _photos_of(source: Any, color: Color | None) -> Generator[NamedSource]:
    """The elements of a list or iterator, or whatever photos a single name stands for."""
    if is_many(source):
        yield from named(source)
        return
    items = expand(source, color=color)
    try:
        yield from named(items)
    finally:
        if isinstance(items, Generator):
            items.close()  # a video is an open file


def _without_frames(error: InputError) -> InputError:
    """The error without the traceback, which keeps the undecodable content in memory."""
    for each in _chain(error):
        each.__traceback__ = None
    return error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
