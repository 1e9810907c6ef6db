"""A device that runs out of memory costs time, not answers."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.domains import load_domain
from hp_sdk.elastic import ElasticBackend
from hp_sdk.errors import BackendError, DeviceOutOfMemory, InputError
from hp_sdk.testing import FakeBackend, make_bundle

PALETTE = np.array(load_domain("cihp").palette, np.uint8)
NOTE = "out of device memory: 2 inputs at once since then"


class SmallDevice(FakeBackend):
    """Holds `room` inputs at once; `tried` has the size of every run, also of those that failed."""

    def __init__(self, bundle, room, *, batch_max=8, batch_min=1):
        super().__init__(bundle, batch_max=batch_max)
        self.facts = replace(self.facts, batch_min=batch_min)
        self.room, self.tried = room, []

    def run(self, batch, *, outputs=None):
        self.tried.append(len(batch))
        if len(batch) > self.room:
            raise DeviceOutOfMemory(f"no memory for {len(batch)} inputs")
        return super().run(batch, outputs=outputs)


def photos(count):
    """Photos of several sizes, each of one colour only."""
    return [
        np.full((30 + 9 * i, 70 - 3 * i, 3), PALETTE[1 + i % 19], np.uint8) for i in range(count)
    ]


def notes_of(result):
    assert result.receipt is not None
    return result.receipt.notes


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))


def test_a_batch_is_halved_until_it_fits_and_loses_nothing(bundle):
    device = SmallDevice(bundle, room=3)
    expected = [Parser(bundle, FakeBackend(bundle)).predict(photo).labels for photo in photos(11)]

    results = Parser(bundle, device).predict(photos(11))

    assert device.tried[:6] == [8, 4, 2, 2, 2, 2]
    for result, labels in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result.labels, labels)


def test_the_smaller_size_is_remembered(bundle):
    device = SmallDevice(bundle, room=3)
    parser = Parser(bundle, device)
    assert parser.batch_size == 8

    parser.predict(photos(8))
    device.tried.clear()
    parser.predict(photos(5))
    parser.predict(photos(8), batch_size=8)
    list(parser.stream(photos(3)))

    assert device.tried == [2, 2, 1] + [2, 2, 2, 2] + [2, 1]
    assert parser.batch_size == 2


def test_the_receipt_says_it_and_so_does_the_log_once(bundle, caplog):
    parser = Parser(bundle, SmallDevice(bundle, room=3))
    with caplog.at_level(logging.WARNING, "hp_sdk"):
        before = parser.predict(photos(1)[0])
        during = parser.predict(photos(8))
        after = parser.predict(photos(1)[0])

    assert notes_of(before) == ()
    assert {notes_of(result) for result in during} == {(NOTE,)}
    assert notes_of(after) == (NOTE,)
    assert [record.getMessage() for record in caplog.records] == [f"fake on FakeProvider is {NOTE}"]


def test_views_of_one_photo_are_split_too(bundle):
    device = SmallDevice(bundle, room=1)
    photo = photos(1)[0]

    flipped = Parser(bundle, device).predict(photo, tta="flip", domains=["cihp", "atr"])

    expected = Parser(bundle, FakeBackend(bundle)).predict(photo, tta="flip", domains=["atr"])
    assert device.tried == [2, 1, 1]
    np.testing.assert_array_equal(flipped["atr"].labels, expected["atr"].labels)


def test_a_device_without_room_for_one_input_raises_and_nothing_is_remembered(bundle):
    device = SmallDevice(bundle, room=0)
    parser = Parser(bundle, device)

    with pytest.raises(DeviceOutOfMemory, match=r"smallest batch, 1 of 64 x 64 px.*for 1 inputs"):
        parser.predict(photos(8))
    assert device.tried == [8, 4, 2, 1]

    device.room = 8  # another program gave its memory back
    assert notes_of(parser.predict(photos(8))[0]) == ()
    assert parser.batch_size == 8


def test_a_graph_of_fixed_batch_is_not_halved(bundle):
    device = SmallDevice(bundle, room=3, batch_max=4, batch_min=4)

    with pytest.raises(DeviceOutOfMemory, match="smallest batch, 4"):
        Parser(bundle, device).predict(photos(9))
    assert device.tried == [4]


def test_halving_stops_at_the_smallest_batch_of_the_graph(bundle):
    device = SmallDevice(bundle, room=3, batch_max=4, batch_min=3)

    Parser(bundle, device).predict(photos(4))

    assert device.tried == [4, 3, 1]


def test_a_batch_beyond_the_graphs_own_limit_is_halved_from_that_limit(bundle):
    device = SmallDevice(bundle, room=3, batch_max=4)

    Parser(bundle, device, batch_size=16).predict(photos(16))

    assert device.tried == [16] + [2] * 8


def test_other_failures_pass_as_they_are(bundle):
    backend = FakeBackend(bundle)
    elastic = ElasticBackend(backend)
    with pytest.raises(InputError, match="uint8"):
        elastic.run(np.zeros((0, 64, 64, 3), np.uint8))

    elastic.close()

    with pytest.raises(BackendError, match="closed"):
        elastic.run(np.zeros((3, 64, 64, 3), np.uint8))
    assert elastic.limit is None
