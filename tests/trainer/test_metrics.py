"""Scores on cases small enough for paper and pencil (T-26)."""

import math

import numpy as np
import pytest

from hp_sdk.errors import DataError
from hp_trainer.metrics import Confusion


def hand_case() -> Confusion:
    confusion = Confusion(["background", "head", "torso", "never"])
    truth = np.array([[0, 0, 1, 1], [0, 2, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 1], [0, 2, 0, 2]], np.uint8)
    confusion.add(truth, predicted)
    return confusion


def test_scores_of_a_case_done_by_hand():
    scores = hand_case().scores()
    # background: hit 2, truth 3, predicted 3 → 2/4; head: 2/3; torso: 1/2
    assert scores.per_class_iou == pytest.approx(
        {"background": 0.5, "head": 2 / 3, "torso": 0.5, "never": None}
    )
    assert scores.miou == pytest.approx((0.5 + 2 / 3 + 0.5) / 3)
    assert scores.pixel_acc == pytest.approx(5 / 7)
    assert scores.mean_acc == pytest.approx((2 / 3 + 1 + 0.5) / 3)


def test_absent_classes_can_count_as_zero():
    scores = hand_case().scores(absent="zero")
    assert scores.miou == pytest.approx((0.5 + 2 / 3 + 0.5) / 4)


def test_a_class_only_predicted_counts_in_the_mean_but_not_among_the_present():
    confusion = Confusion(["background", "head"])
    confusion.add(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 1]], np.uint8))
    scores = confusion.scores()
    assert scores.miou == pytest.approx(0.75 / 2)
    assert scores.miou_present == pytest.approx(0.75)


def test_person_iou_merges_all_parts():
    scores = hand_case().scores()
    # truth person: 4 px, predicted person (valid): 4 px, both: 3 px
    assert scores.person_iou == pytest.approx(3 / 5)


def test_images_add_up():
    once, twice = hand_case(), hand_case()
    twice.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert twice.images == once.images + 1
    assert twice.matrix.sum() == once.matrix.sum() + 4


def test_nothing_to_score_is_not_a_number():
    assert math.isnan(Confusion(["background"]).scores().miou)


def test_labels_of_another_domain_are_refused():
    with pytest.raises(DataError, match="label id 9"):
        Confusion(["background", "head"]).add(np.full((1, 1), 9, np.uint8), np.zeros((1, 1)))


def test_sizes_must_agree():
    with pytest.raises(DataError, match="differ"):
        Confusion(["background"]).add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
