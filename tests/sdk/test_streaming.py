"""Any number of photos, one answer each, in order, and few of them in memory."""

import itertools
import threading
from concurrent.futures import Executor, Future

import cv2
import numpy as np
import pytest

from hp_sdk import Parser, Result
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError, ConfigError, InputError, UnknownHead
from hp_sdk.sources import expand
from hp_sdk.testing import FakeBackend, make_bundle

PALETTE = np.array(load_domain("cihp").palette, np.uint8)
PATIENCE_S = 60


def photo(number):
    """A photo of a size and a colour of its own; `number_of` reads the number back (below 20)."""
    k = number % 20
    return np.full((40 + 7 * k, 90 - 2 * k, 3), PALETTE[k], np.uint8)


def photos(count):
    return [photo(number) for number in range(count)]


def number_of(result):
    return int(np.bincount(result.labels.ravel()).argmax())


def collect(stream, numbers):
    """Note the number of each answer as it comes."""
    for result in stream:
        numbers.append(number_of(result))


class Waiting(FakeBackend):
    """Waits before each run for its event, if it has one; `missed` counts those that never came."""

    def __init__(self, bundle, *events, batch_max=1):
        super().__init__(bundle, batch_max=batch_max)
        self.events, self.missed = iter(events), 0

    def run(self, batch, *, outputs=None):
        event = next(self.events, None)
        if event is not None and not event.wait(PATIENCE_S):
            self.missed += 1
        return super().run(batch, outputs=outputs)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))


@pytest.fixture
def backend(bundle):
    return FakeBackend(bundle, batch_max=4)


@pytest.fixture
def parser(bundle, backend):
    return Parser(bundle, backend)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_a_stream_gives_what_predict_gives_in_order(parser):
    streamed = list(parser.stream(photos(11), confidence=True))

    for number, result in enumerate(streamed):
        alone = parser.predict(photo(number), confidence=True)
        np.testing.assert_array_equal(result.labels, alone.labels)
        np.testing.assert_array_equal(result.confidence, alone.confidence)
    assert len(streamed) == 11


def test_neighbours_form_the_batches_whatever_the_timing(parser, backend):
    for _ in range(3):
        list(parser.stream(iter(photos(11))))
        list(parser.stream(photos(3), batch_size=2))

    assert backend.batches == [4, 4, 3, 2, 1] * 3


def test_views_share_the_batch(parser, backend):
    streamed = list(parser.stream(photos(3), tta="flip"))

    assert backend.batches == [4, 2]
    assert streamed[0].receipt.tta == "scales 1 + flip, mean logits"


def test_several_domains_give_dicts(parser):
    streamed = list(parser.stream(photos(2), domains=["atr", "cihp"]))

    assert [list(answer) for answer in streamed] == [["atr", "cihp"]] * 2


@pytest.mark.parametrize("empty", [[], (), iter([])])
def test_nothing_gives_nothing(parser, empty):
    assert list(parser.stream(empty)) == []


@pytest.mark.parametrize(("ahead", "bound"), [(None, 10), (1, 1), (2, 2), (7, 7)])
def test_as_many_photos_as_ahead_says_are_between_source_and_consumer(bundle, ahead, bound):
    full = threading.Event()
    backend = Waiting(bundle, full, batch_max=4)
    given, taken, most = 0, 0, 0

    def source():
        nonlocal given, most
        for number in range(30):
            given += 1
            most = max(most, given - taken)
            if given == bound:
                full.set()  # no answer before: the network waits for it
            yield photo(number)

    for _ in Parser(bundle, backend).stream(source(), ahead=ahead):
        taken += 1

    assert (taken, most, backend.missed) == (30, bound, 0)


def test_an_endless_source_is_read_as_far_as_needed(parser):
    asked = itertools.count()
    source = (photo(number) for number in asked)

    stream = parser.stream(source)
    first = [number_of(result) for result in itertools.islice(stream, 9)]
    stream.close()

    assert first == list(range(9))
    assert next(asked) <= 9 + 10


def test_one_photo_ahead_means_asking_after_the_answer_is_out(parser):
    events = []

    def source():
        for number in range(3):
            events.append(f"give {number}")
            yield photo(number)

    for result in parser.stream(source(), ahead=1):
        events.append(f"take {number_of(result)}")

    assert events == ["give 0", "take 0", "give 1", "take 1", "give 2", "take 2"]


class AtOnce(Executor):
    """Does everything in `submit`: an answer is ready before the next photo is asked for."""

    def __init__(self, *args):
        pass

    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def test_a_slow_source_holds_back_no_answer(parser, monkeypatch):
    monkeypatch.setattr("hp_sdk.crew.ThreadPoolExecutor", AtOnce)
    events = []

    def source():
        for number in range(3):
            events.append(f"give {number}")
            yield photo(number)

    for result in parser.stream(source(), batch_size=1, ahead=8):
        events.append(f"take {number_of(result)}")

    assert events == ["give 0", "take 0", "give 1", "take 1", "give 2", "take 2"]


class Witness:
    """A photo that tells when it is decoded."""

    def __init__(self, number):
        self.number, self.decoded = number, threading.Event()

    def __array__(self, dtype=None, copy=None):
        self.decoded.set()
        return photo(self.number)


def test_the_next_photo_is_decoded_while_the_network_runs(bundle):
    first, second = Witness(1), Witness(2)
    backend = Waiting(bundle, second.decoded)

    results = list(Parser(bundle, backend).stream([first, second]))

    assert [number_of(result) for result in results] == [1, 2]
    assert backend.missed == 0


def test_an_answer_comes_out_while_the_network_runs_on_the_next(bundle):
    out = threading.Event()
    backend = Waiting(bundle, None, out)

    for _ in Parser(bundle, backend).stream(photos(2)):
        out.set()

    assert backend.missed == 0


def test_an_unusable_photo_raises_by_name_after_the_answers_before_it(parser):
    source = [photo(0), photo(1), np.zeros((3, 8, 8), np.uint8), photo(3), b""]
    for given, name in ((source, "photo 3 of 5"), (iter(source), "photo 3")):
        numbers = []
        with pytest.raises(InputError, match=f"^{name}: array has shape"):
            collect(parser.stream(given), numbers)
        assert numbers == [0, 1]


def test_an_unusable_photo_can_be_returned_in_its_place(parser, backend, tmp_path):
    source = [photo(0), tmp_path / "nowhere.jpg", photo(2), b"text", photo(4)]

    answers = list(parser.stream(source, on_error="return"))

    assert [isinstance(answer, InputError) for answer in answers] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert [number_of(a) for a in answers if isinstance(a, Result)] == [0, 2, 4]
    assert "photo 2 of 5: '" in str(answers[1])
    assert "nowhere.jpg' does not exist" in str(answers[1])
    assert backend.batches == [2, 1]


def test_a_run_of_unusable_photos_only_is_no_run(parser, backend):
    answers = list(parser.stream([b""] * 4 + [photo(4)], on_error="return"))

    assert [type(answer) for answer in answers] == [InputError] * 4 + [Result]
    assert backend.batches == [1]


def test_what_the_source_raises_comes_after_the_answers_to_what_it_gave(parser):
    def source():
        yield from photos(6)
        raise OSError("the disk is gone")

    numbers = []
    with pytest.raises(OSError, match="the disk is gone"):
        collect(parser.stream(source(), on_error="return"), numbers)

    assert numbers == [0, 1, 2, 3, 4, 5]


def test_a_failing_backend_raises_also_where_errors_are_returned(bundle):
    def broken(batch, head):
        raise BackendError("the device fell off the bus")

    parser = Parser(bundle, FakeBackend(bundle, broken))

    with pytest.raises(BackendError, match="fell off"):
        list(parser.stream(photos(9), on_error="return"))


def test_a_closed_parser_says_so(parser):
    stream = parser.stream(photos(9))
    parser.close()

    with pytest.raises(BackendError, match="closed"):
        next(stream)


def test_a_folder_a_pattern_and_items_are_streamed(parser, tmp_path):
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), photo(number)[..., ::-1])

    for source in (tmp_path, str(tmp_path / "*.png"), expand(tmp_path), list(expand(tmp_path))):
        assert [number_of(result) for result in parser.stream(source)] == list(range(12))


def test_a_single_photo_is_a_stream_of_one(parser, tmp_path):
    path = tmp_path / "one.png"
    cv2.imwrite(str(path), photo(7)[..., ::-1])

    for source in (photo(7), path, str(path), path.read_bytes()):
        assert [number_of(result) for result in parser.stream(source)] == [7]


def test_a_name_that_stands_for_nothing_is_refused_and_an_item_names_itself(parser, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        next(parser.stream(tmp_path / "nowhere"))
    items = expand([photo(0), str(tmp_path / "gone.png")])

    _, error = parser.stream(items, on_error="return")

    assert "gone.png" in str(error)


def test_colours_of_arrays_are_those_named(parser):
    bgr = [np.ascontiguousarray(photo(number)[..., ::-1]) for number in range(5)]

    assert [number_of(r) for r in parser.stream(bgr, color="bgr")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"on_error": "skip"}, ConfigError),
        ({"ahead": 0}, ConfigError),
        ({"ahead": 2.5}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"tta": "flop"}, ConfigError),
        ({"domains": ["ccp"]}, UnknownHead),
        ({"confidance": True}, TypeError),
    ],
)
def test_a_wrong_option_is_refused_before_the_first_photo(parser, options, error):
    (name,) = options
    with pytest.raises(error, match="ccp" if name == "domains" else name):
        parser.stream(photos(1), **options)
