"""Scores on cases small enough for paper and pencil (T-26)."""

import csv
import json
import math

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, DataError
from hp_trainer.confusion_picture import confusion_png, draw_confusion
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


def test_absent_classes_count_as_zero_in_every_mean():
    scores = hand_case().scores(absent="zero")
    assert scores.mean_acc == pytest.approx((2 / 3 + 1 + 0.5 + 0) / 4)
    assert scores.per_class_iou["never"] == 0
    assert scores.pixel_acc == hand_case().scores().pixel_acc
    assert scores.miou_present == hand_case().scores().miou_present


def test_a_third_way_to_count_absent_classes_is_refused():
    with pytest.raises(ConfigError, match=r"'skip'.*nan or zero"):
        hand_case().scores(absent="skip")


def test_scores_are_those_of_a_count_done_pixel_by_pixel():
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 6, (2, 20, 30)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = 255
    confusion = Confusion([f"part-{k}" for k in range(6)])
    confusion.add(truth, predicted)
    scores = confusion.scores()

    known = truth != 255
    ious, accuracies = [], []
    for k in range(6):
        true, said = known & (truth == k), known & (predicted == k)
        ious.append((true & said).sum() / (true | said).sum())
        accuracies.append((true & said).sum() / true.sum())
    assert list(scores.per_class_iou.values()) == pytest.approx(ious)
    assert scores.miou == pytest.approx(np.mean(ious))
    assert scores.mean_acc == pytest.approx(np.mean(accuracies))
    assert scores.pixel_acc == pytest.approx((truth == predicted)[known].mean())


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
    scores = Confusion(["background"]).scores()
    assert math.isnan(scores.miou)
    assert json.loads(json.dumps(scores.to_dict(), allow_nan=False))["miou"] is None


def test_labels_of_another_domain_are_refused():
    with pytest.raises(DataError, match="label id 9"):
        Confusion(["background", "head"]).add(np.full((1, 1), 9, np.uint8), np.zeros((1, 1)))


def test_sizes_must_agree():
    with pytest.raises(DataError, match="differ"):
        Confusion(["background"]).add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def arms() -> Confusion:
    confusion = Confusion(["background", "left-arm", "right-arm", "left-leg", "right-leg"])
    confusion.matrix[1] = [50, 6, 2, 9, 0]
    confusion.matrix[2] = [10, 1, 7, 0, 0]
    return confusion


def test_left_right_confusion_of_a_case_done_by_hand():
    found = arms().left_right([(1, 2), (3, 4)])
    # of 16 pixels whose truth and prediction are arms, 2 + 1 are the other arm; no leg is labelled
    assert found.overall == pytest.approx(3 / 16)
    assert found.pairs == {
        "left-arm / right-arm": pytest.approx(3 / 16),
        "left-leg / right-leg": None,
    }


def test_a_domain_without_sides_has_no_left_right_confusion():
    found = arms().left_right([])
    assert found.overall is None
    assert found.pairs == {}


def test_the_csv_holds_names_and_counts():
    rows = list(csv.reader(arms().to_csv().splitlines()))
    assert rows[0][1:] == list(arms().names)
    assert [row[0] for row in rows[1:]] == list(arms().names)
    counts = np.array([row[1:] for row in rows[1:]], dtype=np.int64)
    np.testing.assert_array_equal(counts, arms().matrix)


@pytest.mark.parametrize("domain", ["pascal", "cihp", "ccp"])
def test_the_picture_of_a_perfect_result_is_blue_on_the_diagonal_and_nowhere_red(domain: str):
    names = load_domain(domain).names
    picture = draw_confusion(np.eye(len(names), dtype=np.int64), names).astype(int)
    red, green, blue = np.moveaxis(picture, -1, 0)
    assert ((blue - red) > 100).sum() > 200 * len(names)
    assert ((red - green) > 40).sum() == 0


def test_the_picture_shows_mistakes_in_red_and_absent_rows_in_grey():
    confusion = Confusion(["background", "head", "torso"])
    confusion.matrix[:] = [[8, 0, 0], [60, 40, 0], [0, 0, 0]]
    picture = cv2.imdecode(np.frombuffer(confusion_png(confusion), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    blue, green, red = np.moveaxis(picture.astype(int), -1, 0)
    mistaken = np.argwhere((red - green > 80) & (red - blue > 80))
    right = np.argwhere(blue - red > 80)
    absent = np.flatnonzero((picture == 238).all(-1).sum(1) > 90)
    # (1, 0) lies left of (1, 1) and below (0, 0); the grey row is below both
    assert mistaken[:, 1].max() + 30 < right[:, 1].max()
    assert mistaken[:, 0].min() - 30 > right[:, 0].min()
    assert absent.min() > max(mistaken[:, 0].max(), right[:, 0].max())


def test_every_name_is_written_on_the_picture():
    matrix = np.eye(3, dtype=np.int64)
    names = ["background", "head", "bag"]
    named = draw_confusion(matrix, names)
    for k in (1, 2):  # the first name is the widest and so sets the margins
        unnamed = draw_confusion(matrix, [*names[:k], "i", *names[k + 1 :]])
        changed = np.argwhere((unnamed != named).any(-1))
        middle = named.shape[0] / 2
        sides = {tuple(np.sign(np.rint((spot - middle) / middle * 1.2))) for spot in changed}
        assert len(sides) >= 4, "left, right, above and below"
