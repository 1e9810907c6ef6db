"""Limbs of PASCAL's parts with sides: whole pieces, merged ones, and what they say in CIHP."""

import numpy as np
import pytest
import torch

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import DataError
from hp_trainer.limbs import admissible_of_sides, limb_side_map, limb_sides
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.sides import Stroke
from hp_trainer.training_model import SSTTraining

PASCAL, SIDES = load_domain("pascal"), limb_sides()
TORSO, UPPER_LEGS, LOWER_LEGS = (PASCAL.index(p) for p in ("torso", "upper-legs", "lower-legs"))


def stroke(name: str, x: float, y: float) -> Stroke:
    return Stroke(name, np.array([[x, y]], float))


def trousers() -> np.ndarray:
    """Shins apart, thighs joined, a torso above them: (60, 40)."""
    body = np.zeros((60, 40), np.uint8)
    body[:10, 4:36] = TORSO
    body[10:30, 4:36] = UPPER_LEGS
    body[30:55, 4:14] = body[30:55, 26:36] = LOWER_LEGS
    return body


def test_the_domain_swaps_left_and_right_in_the_mirror():
    assert SIDES.num_classes == 11
    body = np.array([[SIDES.index("left-upper-arm"), SIDES.index("torso")]], np.uint8)
    assert SIDES.mirror(body).tolist() == [[SIDES.index("torso"), SIDES.index("right-upper-arm")]]


def test_a_told_piece_has_its_side_and_the_rest_of_the_limbs_is_undecided():
    body = trousers()
    labels = limb_side_map(body, [stroke("right", 8, 40)])
    assert (labels[30:55, 4:14] == SIDES.index("right-lower-leg")).all()
    assert (labels[30:55, 26:36] == 255).all()
    assert (labels[10:30, 4:36] == 255).all()
    assert (labels[:10, 4:36] == SIDES.index("torso")).all()
    assert (labels[body == 0] == 0).all()


def test_merged_thighs_follow_the_nearer_shin_and_stay_undecided_between():
    told = [stroke("right", 8, 40), stroke("left", 30, 40), stroke("both", 20, 15)]
    labels = limb_side_map(trousers(), told)
    assert (labels[12:30, 4:14] == SIDES.index("right-upper-leg")).all()
    assert (labels[12:30, 26:36] == SIDES.index("left-upper-leg")).all()
    assert (labels[10:30, 19:21] == 255).all()


def test_nearer_is_measured_along_the_limb():
    """A bent leg: across a gap the tip of the left shin is nearer to the right thigh's end."""
    body = np.zeros((40, 60), np.uint8)
    body[0:6, 0:50] = UPPER_LEGS
    body[6:36, 44:50] = LOWER_LEGS
    body[10:16, 0:6] = LOWER_LEGS
    body[6:10, 0:6] = UPPER_LEGS
    body[12:18, 10:44] = LOWER_LEGS
    told = [stroke("left", 46, 30), stroke("right", 2, 12), stroke("both", 20, 2)]
    labels = limb_side_map(body, told)
    assert (labels[0:6, 10:20] == SIDES.index("right-upper-leg")).all()
    assert (labels[0:6, 36:50] == SIDES.index("left-upper-leg")).all()


def test_merged_limbs_of_which_one_side_is_out_of_reach_stay_undecided():
    labels = limb_side_map(trousers(), [stroke("right", 8, 40), stroke("both", 20, 15)])
    assert (labels[10:30, 4:36] == 255).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (stroke("left", 20, 5), "left 20,5 lies in no part"),
        (stroke("left-leg", 8, 40), "'left-leg' is none of left, right, both"),
    ],
)
def test_a_stroke_that_tells_nothing_is_an_error(wrong: Stroke, message: str):
    with pytest.raises(DataError, match=message):
        limb_side_map(trousers(), [wrong])


@pytest.mark.parametrize("name", ["atr", "cihp", "lip"])
def test_a_side_excludes_the_parts_of_the_other_one_and_nothing_else(name: str):
    target = load_domain(name)
    table = admissible_of_sides(target)
    assert table is not None
    left, right = (
        {target.names[k] for k in table[SIDES.index(f"{side}-lower-leg")]}
        for side in ("left", "right")
    )
    assert {"left-leg", "left-shoe", "pants"} <= left
    assert left ^ right == {"left-leg", "left-shoe", "right-leg", "right-shoe"}


def test_nothing_is_known_of_a_domain_without_a_table():
    assert admissible_of_sides(Domain("mine", ("background", "sleeve"))) is None


@pytest.mark.parametrize(
    ("source", "target", "label", "right", "wrong"),
    [
        ("pascal_sides", "cihp", "left-upper-arm", "left-arm", "right-arm"),
        ("pascal_sides", "cihp", "right-upper-arm", "coat", "left-arm"),
        ("cihp", "pascal_sides", "left-arm", "left-lower-arm", "right-lower-arm"),
        ("cihp", "pascal_sides", "pants", "right-upper-leg", "right-upper-arm"),
        ("pascal", "pascal_sides", "lower-arms", "right-lower-arm", "torso"),
    ],
)
def test_sides_and_other_domains_teach_each_others_heads(
    source: str, target: str, label: str, right: str, wrong: str
):
    """A head that answers what the other domain admits has a lower loss than one that does not."""
    domains = {"pascal": PASCAL, "cihp": load_domain("cihp"), "pascal_sides": SIDES}
    net = SST(PRESETS["sst-tiny"], list(domains.values()))
    model = SSTTraining(net, topology="none", beta=0.0, lam=0.0, partial=1.0)
    found = torch.full((1, 64, 64), domains[source].index(label))
    losses = []
    for answer in (right, wrong):
        bias = net.get_parameter(f"heads.{target}.bias").data.zero_()
        bias[domains[target].index(answer)] = 1e3
        parts = model.losses(torch.zeros(1, 3, 64, 64), {source: (torch.tensor([0]), found)})
        losses.append(parts[f"partial.{target}"].item())
    assert losses[0] < 0.01 < 1 < losses[1]
