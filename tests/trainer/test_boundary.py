"""The boundary F-score on outlines whose pixels can be counted by hand."""

import numpy as np
import pytest

from hp_sdk.errors import ConfigError, DataError
from hp_trainer.boundary import BoundaryTally, f_score, outline, radius_px

NAMES = ("background", "person", "bag")


def scores(*pairs, tolerance=0.0075):
    tally = BoundaryTally(NAMES, tolerance=tolerance)
    for truth, prediction in pairs:
        tally.add(truth, prediction)
    return tally.scores()


def half(first_column, size=100):
    """Person from a column on, background before it."""
    labels = np.zeros((size, size), np.uint8)
    labels[:, first_column:] = 1
    return labels


def step():
    """Person from column 50 on in the upper half, from column 60 on in the lower half."""
    labels = half(50)
    labels[50:, 50:60] = 0
    return labels


def test_the_same_outlines_score_one():
    found = scores((step(), step()))
    assert found.boundary_f == 1
    assert found.per_class_boundary_f == {"background": 1, "person": 1, "bag": None}


def test_an_outline_within_the_radius_counts_and_one_beyond_it_does_not():
    # the diagonal of 100x100 is 141.4 px, so 0.0075 of it, rounded up, is 2 px
    assert scores((half(50), half(52))).boundary_f == 1
    assert scores((half(50), half(53))).boundary_f == 0
    assert scores((half(50), half(53)), tolerance=0.02).boundary_f == 1


def test_a_step_in_the_outline_scores_what_paper_and_pencil_say():
    # truth: a line of 100 px; prediction: 50 px on it, a ledge of 9 px, 50 px ten columns off.
    # Within 2 px of the truth: 50 + 2 of 109; of the prediction: 50 + 2 of 100.
    precision, recall = 52 / 109, 52 / 100
    wanted = 2 * precision * recall / (precision + recall)
    found = scores((half(50), step()))
    assert found.per_class_boundary_f["person"] == pytest.approx(wanted)
    assert found.per_class_boundary_f["background"] == pytest.approx(wanted)
    assert scores((step(), half(50))).boundary_f == pytest.approx(wanted)


def test_the_border_of_the_picture_is_no_outline():
    everywhere = np.ones((40, 40), np.uint8)
    assert not outline(everywhere == 1, np.zeros((40, 40), bool)).any()
    assert scores((everywhere, everywhere)).boundary_f == 1


def test_an_outline_is_the_last_pixel_inside():
    mask = np.zeros((7, 7), bool)
    mask[2:5, 2:5] = True
    ring = mask.copy()
    ring[3, 3] = False
    np.testing.assert_array_equal(outline(mask, np.zeros((7, 7), bool)), ring)


def test_a_missed_class_scores_zero_and_one_only_predicted_is_not_counted():
    nothing = np.zeros((100, 100), np.uint8)
    assert scores((half(50), nothing)).per_class_boundary_f["person"] == 0
    invented = scores((nothing, half(50)))
    assert invented.per_class_boundary_f["person"] is None
    assert invented.boundary_f == 0  # the background has an outline now that it should not have


def test_no_outline_lies_along_ignored_pixels():
    truth = half(50)
    truth[:, 40:60] = 255
    for first_column in (40, 45, 50, 60):
        assert scores((truth, half(first_column))).boundary_f == 1
    assert scores((truth, half(70))).boundary_f == 0


def test_images_are_averaged_per_class_before_classes_are():
    bag = half(50)
    bag[:20, :20] = 2
    found = scores((half(50), half(50)), (half(50), half(80)), (bag, bag))
    assert found.per_class_boundary_f == pytest.approx(
        {"background": 2 / 3, "person": 2 / 3, "bag": 1}
    )
    assert found.boundary_f == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_distances_are_euclidean():
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 30, 40)) < 0.02
    distance = np.linalg.norm(np.argwhere(truth)[:, None] - np.argwhere(predicted), axis=-1)
    for radius in (1, 2, 3, 5):
        recall, precision = ((distance.min(axis) <= radius).mean() for axis in (1, 0))
        wanted = 2 * precision * recall / max(precision + recall, 1e-9)
        assert f_score(truth, predicted, within_px=radius) == pytest.approx(wanted)
        assert 0 < wanted < 1


@pytest.mark.parametrize(("size_hw", "radius"), [((300, 400), 4), ((240, 320), 3), ((1, 1), 1)])
def test_the_radius_is_a_share_of_the_diagonal_rounded_up(size_hw, radius):
    assert radius_px(size_hw, 0.0075) == radius


def test_nothing_scored_is_none():
    assert scores().boundary_f is None


def test_a_tolerance_in_pixels_is_refused():
    with pytest.raises(ConfigError, match="share of the image diagonal"):
        BoundaryTally(NAMES, tolerance=3)


def test_maps_of_another_size_or_domain_are_refused():
    with pytest.raises(DataError, match="differ"):
        scores((half(5, 10), half(5, 11)))
    with pytest.raises(DataError, match="label id 7"):
        scores((np.full((4, 4), 7, np.uint8), np.zeros((4, 4), np.uint8)))
