"""Left and right of people seen from the front: who counts, and what of them."""

import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import DataError
from hp_trainer.frontal import FrontalTally, frontal

NAMES = ("background", "torso", "left-arm", "right-arm", "left-leg", "right-leg")
TORSO, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG = range(1, 6)
PAIRS = ((LEFT_ARM, RIGHT_ARM), (LEFT_LEG, RIGHT_LEG))

FACING = np.array(
    [[0, RIGHT_ARM, TORSO, LEFT_ARM, 0], [0, RIGHT_LEG, TORSO, LEFT_LEG, 0]], np.uint8
)
AWAY = FACING[:, ::-1]


def side_by_side(*people: np.ndarray) -> np.ndarray:
    return np.concatenate(people, 1)


def test_each_person_is_judged_alone():
    found = frontal(side_by_side(FACING, AWAY, FACING), PAIRS)
    person = FACING > 0
    np.testing.assert_array_equal(found, side_by_side(person, np.zeros_like(person), person))


def test_crossed_legs_of_who_faces_the_camera_count():
    crossed = FACING.copy()
    crossed[0, [0, 4]] = RIGHT_ARM, LEFT_ARM  # arms wide apart, legs the other way round
    crossed[1, 1], crossed[1, 3] = LEFT_LEG, RIGHT_LEG
    assert (frontal(crossed, PAIRS) == (crossed > 0)).all()


@pytest.mark.parametrize("hidden", [(LEFT_ARM, LEFT_LEG), (RIGHT_ARM, RIGHT_LEG)])
def test_one_side_alone_does_not_say_where_someone_faces(hidden: tuple[int, int]):
    profile = np.where(np.isin(FACING, hidden), 0, FACING)
    assert not frontal(profile, PAIRS).any()


def test_undecided_pixels_neither_join_people_nor_count():
    gap = np.full((2, 1), 255, np.uint8)
    truth = side_by_side(FACING[:, 1:4], gap, AWAY[:, 1:4])
    np.testing.assert_array_equal(frontal(truth, PAIRS)[:, :3], True)
    np.testing.assert_array_equal(frontal(truth, PAIRS)[:, 3:], False)


def test_the_share_is_of_frontal_people_only():
    tally = FrontalTally(NAMES, PAIRS)
    truth = side_by_side(FACING, AWAY)
    prediction = truth.copy()
    prediction[0, 1] = LEFT_ARM  # one of four sided pixels of who faces the camera
    prediction[:, 5:] = FACING  # every one of who does not
    tally.add(truth, prediction)
    found = tally.left_right()
    assert found.overall == pytest.approx(1 / 4)
    assert found.pairs == {"left-arm / right-arm": pytest.approx(1 / 2), "left-leg / right-leg": 0}


def test_a_domain_without_sides_counts_nobody():
    pascal = load_domain("pascal")
    tally = FrontalTally(pascal.names, pascal.flip_pairs)
    tally.add(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    assert tally.left_right().overall is None
    assert tally.left_right().pairs == {}


def test_the_built_in_pairs_name_the_left_part_first():
    for name in ("atr", "cihp", "lip"):
        domain = load_domain(name)
        assert domain.flip_pairs
        for left, right in domain.flip_pairs:
            assert domain.names[left].startswith("left-")
            assert domain.names[right].startswith("right-")


def test_sizes_must_agree():
    with pytest.raises(DataError, match="differ"):
        FrontalTally(NAMES, PAIRS).add(FACING, FACING[:, :3])
