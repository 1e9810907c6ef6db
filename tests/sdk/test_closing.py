"""Streams and queues leave nothing behind: no thread, no open file, no photo in memory."""

import itertools
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.crew import HELPERS
from hp_sdk.sources import expand
from hp_sdk.testing import FakeBackend, make_bundle

PATIENCE_S = 60


def photo():
    return np.zeros((40, 50, 3), np.uint8)


def photos(count):
    return [photo() for _ in range(count)]


def threads():
    return set(threading.enumerate())


class Waiting(FakeBackend):
    """Waits in each run for the next of `events`; `begun` counts the runs."""

    def __init__(self, bundle, *events):
        super().__init__(bundle, batch_max=1)
        self.events, self.begun = iter(events), threading.Semaphore(0)

    def run(self, batch, *, outputs=None):
        self.begun.release()
        assert next(self.events).wait(PATIENCE_S)
        return super().run(batch, outputs=outputs)

    def wait_for_a_run(self):
        assert self.begun.acquire(timeout=PATIENCE_S)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def parser(bundle):
    return Parser(bundle, FakeBackend(bundle, batch_max=4))


def test_leaving_early_leaves_no_thread(parser):
    before = threads()
    for result in parser.stream(itertools.cycle(photos(5))):
        assert result.parts == []
        assert threads() > before
        break
    assert threads() == before


def test_an_exception_in_the_consumer_leaves_no_thread(parser):
    def fail(stream):
        for _ in stream:
            raise ArithmeticError

    before = threads()
    with pytest.raises(ArithmeticError):
        fail(parser.stream(itertools.cycle(photos(5))))
    assert threads() == before


def test_ctrl_c_in_the_source_is_passed_on_at_once(parser):
    def source():
        yield photo()
        raise KeyboardInterrupt

    before = threads()
    with pytest.raises(KeyboardInterrupt):
        next(parser.stream(source()))
    assert threads() == before


def test_closing_waits_for_the_running_batch_and_begins_no_other(bundle, monkeypatch):
    cancelled, many_given = threading.Event(), threading.Event()

    class Telling(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            super().shutdown(wait)

    def source():
        yield from photos(5)
        many_given.set()
        yield from itertools.cycle(photos(5))

    monkeypatch.setattr("hp_sdk.crew.ThreadPoolExecutor", Telling)
    backend = Waiting(bundle, many_given, cancelled)
    stream = Parser(bundle, backend).stream(source(), ahead=8)
    next(stream)
    backend.wait_for_a_run()
    backend.wait_for_a_run()  # the second, which waits in turn

    stream.close()

    assert backend.batches == [1, 1]
    assert list(stream) == []


def test_a_stream_nobody_asks_starts_nothing(parser):
    before = threads()
    stream = parser.stream(iter([photo()]))

    assert threads() == before
    stream.close()


def test_a_video_is_closed_with_the_stream(parser, tmp_path, monkeypatch):
    closed = []

    def frames(source, *, color):
        try:
            yield from expand(photos(50))
        finally:
            closed.append(source)

    monkeypatch.setattr("hp_sdk.streaming.expand", frames)
    stream = parser.stream("clip.mp4")
    next(stream)

    assert closed == []
    stream.close()
    assert closed == ["clip.mp4"]


def test_an_answer_handed_out_is_not_kept(bundle):
    parser = Parser(bundle, FakeBackend(bundle, batch_max=12))
    handed_out = []
    for result in parser.stream(photos(12)):
        handed_out.append(weakref.ref(result.labels))
        del result
        # A helper may not yet have left the function that made its last answer.
        assert sum(labels() is not None for labels in handed_out) <= HELPERS


def test_a_returned_error_keeps_nothing_alive(parser):
    (error,) = parser.stream([b"text"], on_error="return")

    while error is not None:
        assert error.__traceback__ is None
        error = error.__cause__ or error.__context__


def test_a_cancelled_photo_is_not_kept_while_others_wait(bundle):
    done = threading.Event()
    backend, picture = Waiting(bundle, done), photo()
    alive = weakref.ref(picture)
    with Parser(bundle, backend).queue(max_wait_ms=0, max_pending=5) as queue:
        queue.submit(photo())
        backend.wait_for_a_run()
        for _ in range(20):  # more than the queue has places
            assert queue.submit(picture, timeout_s=0).cancel()
        del picture
        end = monotonic() + PATIENCE_S
        while alive() is not None and monotonic() < end:
            sleep(0.001)  # a helper may be about to find out

        assert (alive(), queue.pending) == (None, 1)
        done.set()


def test_an_answered_photo_is_not_kept(parser):
    with parser.queue(max_wait_ms=0) as queue:
        result = queue.submit(photo()).result(PATIENCE_S)
        alive = weakref.ref(result.labels)
        del result
    assert alive() is None  # without the help of the garbage collector


def test_a_program_that_closes_nothing_still_ends(bundle):
    program = """
import sys
import numpy as np
from hp_sdk.bundle import read_bundle
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend
bundle = read_bundle(sys.argv[1])
parser = Parser(bundle, FakeBackend(bundle))
photo = np.zeros((50, 50, 3), np.uint8)
future = parser.submit(photo)
stream = parser.stream([photo] * 50)
print(future.result().domain.name, next(stream).domain.name)
parser.submit(photo)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle.root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "cihp cihp\n", "")
