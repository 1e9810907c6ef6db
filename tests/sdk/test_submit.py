"""Photos from anywhere in a program share the runs of one network; every future comes to an end."""

import asyncio
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError, ConfigError, InputError, QueueFull, UnknownHead
from hp_sdk.testing import FakeBackend, make_bundle

PALETTE = np.array(load_domain("cihp").palette, np.uint8)
PATIENCE_S = 60


def photo(number):
    """A photo of a size and a colour of its own; `number_of` reads the number back (below 20)."""
    k = number % 20
    return np.full((40 + 7 * k, 90 - 2 * k, 3), PALETTE[k], np.uint8)


def number_of(result):
    return int(np.bincount(result.labels.ravel()).argmax())


def numbers_of(futures):
    return [number_of(future.result(PATIENCE_S)) for future in futures]


class Gated(FakeBackend):
    """Begins a run when let: `open_gate()`, for ever, or for `runs` runs."""

    def __init__(self, bundle, **options):
        super().__init__(bundle, **options)
        self.begun, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.problem = None

    def run(self, batch, *, outputs=None):
        self.begun.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem
        return super().run(batch, outputs=outputs)

    def wait_for_a_run(self):
        assert self.begun.acquire(timeout=PATIENCE_S)

    def open_gate(self, runs=1000):
        self.gate.release(runs)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))


@pytest.fixture
def backend(bundle):
    return Gated(bundle, batch_max=4)


@pytest.fixture
def parser(bundle, backend):
    with Parser(bundle, backend) as parser:
        yield parser
        backend.open_gate()


@pytest.fixture
def busy(parser, backend):
    """A queue whose network is busy with photo 0, so that everything else waits."""
    with parser.queue(max_wait_ms=0, max_pending=5) as queue:
        queue.first = queue.submit(photo(0))
        backend.wait_for_a_run()
        yield queue
        backend.open_gate()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_future_holds_what_predict_gives(parser, backend):
    backend.open_gate()
    future = parser.submit(photo(7), confidence=True, logits=True)

    submitted, predicted = future.result(PATIENCE_S), parser.predict(photo(7), confidence=True)

    np.testing.assert_array_equal(submitted.labels, predicted.labels)
    np.testing.assert_array_equal(submitted.confidence, predicted.confidence)
    assert submitted.logits.shape == (20, 16, 16)
    assert list(submitted.timing) == ["load", "fit", "network", "labels", "total"]


def test_several_domains_give_a_dict(parser, backend):
    backend.open_gate()

    assert list(parser.submit(photo(1), domains=["atr"]).result(PATIENCE_S)) == ["atr"]


def test_what_arrives_during_a_run_shares_the_next(busy, backend):
    futures = [busy.submit(photo(number)) for number in (1, 2, 3, 4, 5)[: busy.max_pending - 1]]
    assert busy.pending == 5
    backend.open_gate()

    assert numbers_of([busy.first, *futures]) == [0, 1, 2, 3, 4]
    assert backend.batches == [1, 4]


def test_a_full_batch_waits_for_nobody_and_a_lone_photo_not_for_ever(parser, backend):
    backend.open_gate()
    with parser.queue(max_batch=3, max_wait_ms=3_600_000) as queue:
        assert numbers_of([queue.submit(photo(number)) for number in range(3)]) == [0, 1, 2]
    with parser.queue(max_batch=3, max_wait_ms=1) as queue:
        assert numbers_of([queue.submit(photo(4))]) == [4]

    assert backend.batches == [3, 1]


def test_a_batch_counts_network_inputs(parser, backend):
    backend.open_gate()
    with parser.queue(max_wait_ms=3_600_000) as queue:
        numbers_of([queue.submit(photo(number), tta="flip") for number in range(4)])

    assert backend.batches == [4, 4]


def test_photos_with_other_options_form_runs_of_their_own_oldest_first(busy, backend):
    options = [{}, {"confidence": True}, {}, {"domains": ["cihp"]}]
    plain, sure, also_plain, by_head = (busy.submit(photo(3), **each) for each in options)
    backend.open_gate()

    assert plain.result(PATIENCE_S).confidence is None
    assert also_plain.result(PATIENCE_S).confidence is None
    assert sure.result(PATIENCE_S).confidence is not None
    assert isinstance(by_head.result(PATIENCE_S), dict)
    assert backend.batches == [1, 2, 1, 1]


def test_a_full_queue_says_so_in_time(busy):
    for number in range(1, 5):
        busy.submit(photo(number))

    with pytest.raises(QueueFull, match=r"5 photos wait already.*max_pending.*within 0 s"):
        busy.submit(photo(5), timeout_s=0)
    with pytest.raises(QueueFull, match=r"within 0\.01 s"):
        busy.submit(photo(5), timeout_s=0.01)
    assert busy.pending == 5


def test_a_full_queue_makes_its_caller_wait_for_a_place(busy, backend):
    for number in range(1, 5):
        busy.submit(photo(number))
    got = []
    caller = threading.Thread(target=lambda: got.append(busy.submit(photo(6))))
    caller.start()
    caller.join(0.1)
    assert caller.is_alive()  # five are pending, and none can end before the gate opens

    backend.open_gate()
    caller.join(PATIENCE_S)

    assert numbers_of(got) == [6]


def test_a_photo_can_be_cancelled_until_its_run_begins(busy, backend):
    second, third = busy.submit(photo(1)), busy.submit(photo(2))

    assert second.cancel()
    assert not busy.first.cancel()
    assert busy.pending == 2
    backend.open_gate()

    assert numbers_of([busy.first, third]) == [0, 2]
    assert backend.batches == [1, 1]
    with pytest.raises(CancelledError):
        second.result(PATIENCE_S)


def test_an_unusable_photo_fails_alone(busy, backend):
    futures = [busy.submit(source) for source in (photo(1), b"text", photo(3))]
    backend.open_gate()

    with pytest.raises(InputError, match="not a readable picture"):
        futures[1].result(PATIENCE_S)
    assert numbers_of([futures[0], futures[2]]) == [1, 3]
    assert backend.batches == [1, 2]


def test_a_failed_run_fails_its_photos_and_the_queue_goes_on(busy, backend):
    backend.problem = BackendError("the device fell off the bus")
    later = busy.submit(photo(1))
    backend.open_gate()

    with pytest.raises(BackendError, match="fell off"):
        busy.first.result(PATIENCE_S)
    assert numbers_of([later]) == [1]


def test_even_the_strangest_failure_reaches_the_caller(busy, backend):
    backend.problem = SystemExit("a plugin gave up")
    backend.open_gate()

    with pytest.raises(SystemExit, match="gave up"):
        busy.first.result(PATIENCE_S)
    assert numbers_of([busy.submit(photo(1))]) == [1]


def test_closing_answers_everything_submitted(parser, backend):
    queue = parser.queue(max_wait_ms=3_600_000)
    futures = [queue.submit(photo(number)) for number in range(6)]
    backend.open_gate()

    queue.close()

    assert all(future.done() for future in futures)
    assert numbers_of(futures) == list(range(6))
    assert queue.pending == 0


def test_closing_can_cancel_what_has_not_begun(busy, backend):
    futures = [busy.submit(photo(number)) for number in (1, 2)]
    # The gate opens with the last cancelling, while `close` waits for the run that has begun.
    futures[-1].add_done_callback(lambda _: backend.open_gate())

    busy.close(cancel_pending=True)

    assert numbers_of([busy.first]) == [0]
    assert [future.cancelled() for future in futures] == [True, True]
    assert backend.batches == [1]


def test_a_with_statement_that_ends_in_an_exception_cancels(bundle):
    backend = Gated(bundle)
    futures = []

    def use(parser):
        futures.append(parser.submit(photo(0)))
        backend.wait_for_a_run()
        futures.append(parser.submit(photo(1)))
        futures[1].add_done_callback(lambda _: backend.open_gate())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Parser(bundle, backend) as parser:
        use(parser)

    assert futures[1].cancelled()
    assert numbers_of(futures[:1]) == [0]


def test_a_closed_queue_takes_nothing_and_closes_twice(parser, backend):
    queue = parser.queue()
    queue.close()
    queue.close()

    with pytest.raises(BackendError, match="queue is closed"):
        queue.submit(photo(0))


def test_closing_wakes_whoever_waits_for_a_place(parser, backend):
    queue = parser.queue(max_pending=1)
    problems = []

    def submit():
        try:
            queue.submit(photo(1))
        except BackendError as error:
            problems.append(str(error))
        backend.open_gate()  # only now can photo 0 end, and with it the waiting for a place

    queue.submit(photo(0))
    caller = threading.Thread(target=submit)
    caller.start()
    caller.join(0.1)
    assert caller.is_alive()
    queue.close()
    caller.join(PATIENCE_S)

    assert ["queue is closed" in problem for problem in problems] == [True]


def test_closing_the_parser_answers_what_was_submitted_to_it(bundle):
    backend = FakeBackend(bundle, batch_max=4)
    with Parser(bundle, backend) as parser:
        futures = [parser.submit(photo(number)) for number in range(9)]

    assert all(future.done() for future in futures)
    assert numbers_of(futures) == list(range(9))
    parser.close()
    with pytest.raises(BackendError, match="parser is closed"):
        parser.submit(photo(0))


def test_a_callback_may_submit_but_never_waits_for_itself(parser, backend):
    outcome = []

    def again(_):
        outcome.append(queue.submit(photo(2)))
        try:
            queue.submit(photo(3), timeout_s=None)
        except QueueFull as error:
            outcome.append(error)
        done.set()

    done = threading.Event()
    with parser.queue(max_wait_ms=0, max_pending=1) as queue:
        queue.submit(photo(1)).add_done_callback(again)
        backend.open_gate(1)
        assert done.wait(PATIENCE_S)
        backend.open_gate()

    assert isinstance(outcome[1], QueueFull)
    assert numbers_of(outcome[:1]) == [2]


def test_asyncio_awaits_and_cancels(busy, backend):
    async def main():
        futures = [asyncio.wrap_future(busy.submit(photo(n), timeout_s=0)) for n in (1, 2, 3)]
        futures[1].cancel()
        await asyncio.sleep(0)  # the loop passes the cancelling on
        assert busy.pending == 3
        backend.open_gate()
        return await asyncio.wait_for(
            asyncio.gather(*futures, return_exceptions=True), timeout=PATIENCE_S
        )

    first, second, third = asyncio.run(main())

    assert (number_of(first), number_of(third)) == (1, 3)
    assert isinstance(second, asyncio.CancelledError)
    assert backend.batches == [1, 2]


def test_many_threads_submit_to_one_parser(parser, backend):
    backend.open_gate()
    expected = [parser.predict(photo(number)).labels for number in range(8)]
    got = {}

    def work(number):
        futures = [parser.submit(photo(number)) for _ in range(5)]
        got[number] = [future.result(PATIENCE_S).labels for future in futures]

    callers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)

    for number, labels in enumerate(expected):
        assert all(np.array_equal(labels, other) for other in got[number])
    assert sum(backend.batches) == 8 + 40
    assert max(backend.batches) <= 4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_batch": 0}, ConfigError),
        ({"max_wait_ms": -1}, ConfigError),
        ({"max_wait_ms": float("inf")}, ConfigError),
        ({"max_pending": 0}, ConfigError),
    ],
)
def test_a_wrong_option_of_the_queue_is_refused(parser, options, error):
    (name,) = options
    with pytest.raises(error, match=name):
        parser.queue(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"tta": "flop"}, ConfigError), ({"domains": ["ccp"]}, UnknownHead), ({"o": 1}, TypeError)],
)
def test_a_wrong_option_of_a_photo_is_refused_at_once(parser, options, error):
    with pytest.raises(error, match=r"flop|ccp|'o'"):
        parser.submit(photo(0), **options)
