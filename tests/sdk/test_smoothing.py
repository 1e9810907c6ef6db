"""Scores are steadied over time, within one scene only."""

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_sdk.smoothing import Smoother
from hp_sdk.testing import FakeBackend, make_bundle

CIHP = load_domain("cihp")
HAIR, DRESS = CIHP.index("hair"), CIHP.index("dress")
GREY = np.full((40, 30, 3), 128, np.uint8)


def scores(value):
    return {"cihp": [np.full((2, 4, 4), value, np.float32)]}


def value_of(logits):
    (value,) = np.unique(logits["cihp"][0])
    return value


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def test_scores_follow_the_exponential_mean():
    smoother, expected = Smoother(0.75), 0.0
    for number, value in enumerate([8.0, 0.0, 4.0, 4.0, -3.0]):
        expected = 0.75 * expected + 0.25 * value if number else value

        assert value_of(smoother.smooth(GREY, scores(value))) == pytest.approx(expected)


def test_a_share_of_zero_changes_nothing():
    smoother = Smoother(0)
    smoother.smooth(GREY, scores(8.0))

    assert value_of(smoother.smooth(GREY, scores(1.0))) == 1


def test_a_scene_cut_starts_anew_and_a_moving_figure_does_not():
    smoother = Smoother(0.5)
    moved = GREY.copy()
    moved[10:20, 5:15] = 255

    smoother.smooth(GREY, scores(8.0))
    assert value_of(smoother.smooth(moved, scores(0.0))) == 4
    assert value_of(smoother.smooth(255 - GREY // 2, scores(1.0))) == 1
    assert value_of(smoother.smooth(255 - GREY // 2, scores(3.0))) == 2


def test_another_size_starts_anew():
    smoother = Smoother(0.5)
    smoother.smooth(GREY, scores(8.0))

    assert value_of(smoother.smooth(GREY[:30], scores(1.0))) == 1


def test_the_scores_given_are_not_changed():
    smoother, given = Smoother(0.5), [scores(8.0), scores(0.0)]
    for each in given:
        smoother.smooth(GREY, each)

    assert [value_of(each) for each in given] == [8, 0]


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share, bundle):
    with pytest.raises(ConfigError, match="smooth"):
        Smoother(share)
    with pytest.raises(ConfigError, match="smooth"):
        Parser(bundle, FakeBackend(bundle)).stream([], smooth=share)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_frame_that_flickers_keeps_its_labels_when_smoothed(bundle, batch_size):
    def frame(part):
        image = np.full((64, 64, 3), CIHP.palette[HAIR], np.uint8)
        image[24:40, 24:40] = CIHP.palette[part]
        return image

    frames = [frame(HAIR), frame(HAIR), frame(DRESS), frame(HAIR)]
    parser = Parser(bundle, FakeBackend(bundle))

    plain = list(parser.stream(frames, batch_size=batch_size))
    smoothed = list(parser.stream(frames, batch_size=batch_size, smooth=0.6))

    assert [result.labels[32, 32] for result in plain] == [HAIR, HAIR, DRESS, HAIR]
    assert [result.labels[32, 32] for result in smoothed] == [HAIR] * 4
    notes = [result.receipt.notes for result in smoothed if result.receipt]
    assert notes == [("scores smoothed over time with share 0.6",)] * 4
