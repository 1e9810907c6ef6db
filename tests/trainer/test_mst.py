"""T-17 to T-21: semantic mapping between two domains, and the consistency it is trained for."""

import math
from typing import Any

import pytest
import torch

from hp_trainer.models.auxiliary.mst import MST, meet, scr, symmetric_scr

WIDTH, ZA, ZB = 6, 3, 5
ASYMMETRIC = torch.arange(ZB * ZA, dtype=torch.float32).view(ZB, ZA) / 10  # (Zb, Za)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_mst(m_static=ASYMMETRIC, *, seed=0, **options) -> Any:  # ModuleLists of ModuleDicts
    torch.manual_seed(seed)
    mst = MST(WIDTH, m_static, **options)
    for parameter in mst.parameters():
        parameter.data = torch.randn(parameter.shape)
    return mst


def uniform_mst(m_static) -> Any:
    """Uniform attention and V = identity at every level."""
    mst: Any = MST(WIDTH, m_static)
    for projections in (mst.q, mst.k, mst.v):
        for parameter in projections.parameters():
            parameter.data.zero_()
    for level in mst.v:
        for linear in level.values():
            linear.weight.data = torch.eye(WIDTH)
    return mst


def image_problem(n=2, m=3):
    g = torch.Generator().manual_seed(9)
    x_a, s_a = torch.randn(2, n, ZA, WIDTH, generator=g)
    x_b, s_b = torch.randn(2, m, ZB, WIDTH, generator=g)
    return x_a, x_b, s_a, s_b


def mapped(mst, level, target, source, x_target, x_source, mask):
    """Reference: one mapping onto `target`, x (Z, D), mask (Z_target, Z_source)."""
    queries = mst.q[level][target](x_target)
    keys, values = mst.k[level][source](x_source), mst.v[level][source](x_source)
    out = torch.zeros(len(x_target), WIDTH)
    for z in range(len(x_target)):
        attention = torch.stack([queries[z] @ key / math.sqrt(WIDTH) for key in keys]).softmax(0)
        for y in range(len(x_source)):
            out[z] += attention[y] * mask[z, y] * values[y]
    return out


def dynamic(mst, level, s_target, s_source, target, source):
    """Reference M_dyn (Z_target, Z_source), unscaled."""
    return mst.w[level - 1][target](s_target) @ mst.w[level - 1][source](s_source).T


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# ---- Eq. 8 -------------------------------------------------------------------------------------


@torch.no_grad()
def test_uniform_attention_maps_every_part_to_the_mean_of_the_source():
    mst = uniform_mst(torch.ones(ZB, ZA))
    x_a, x_b = torch.randn(ZA, WIDTH), torch.randn(ZB, WIDTH)
    to_b, to_a = mst.map_dataset(x_a, x_b)
    close(to_b, x_a.mean(0).expand(ZB, -1))
    close(to_a, x_b.mean(0).expand(ZA, -1))


@torch.no_grad()
def test_the_static_matrix_is_read_target_by_source_and_transposed_on_the_way_back():
    mst = uniform_mst(ASYMMETRIC)
    x_a, x_b = torch.randn(ZA, WIDTH), torch.randn(ZB, WIDTH)
    to_b, to_a = mst.map_dataset(x_a, x_b)
    close(to_b, ASYMMETRIC @ x_a / ZA)
    close(to_a, ASYMMETRIC.T @ x_b / ZB)


@torch.no_grad()
def test_the_dataset_mapping_equals_a_loop_over_parts():
    mst = random_mst()
    x_a, x_b = torch.randn(ZA, WIDTH), torch.randn(ZB, WIDTH)
    to_b, to_a = mst.map_dataset(x_a, x_b)
    assert (to_b.shape, to_a.shape) == ((ZB, WIDTH), (ZA, WIDTH))
    close(to_b, mapped(mst, 0, "b", "a", x_b, x_a, ASYMMETRIC))
    close(to_a, mapped(mst, 0, "a", "b", x_a, x_b, ASYMMETRIC.T))


@torch.no_grad()
def test_a_zero_static_matrix_leaves_no_residual():
    to_b, to_a = random_mst(torch.zeros(ZB, ZA)).map_dataset(
        torch.randn(ZA, WIDTH), torch.randn(ZB, WIDTH)
    )
    assert to_b.abs().sum() == to_a.abs().sum() == 0


# ---- Eq. 9 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
@torch.no_grad()
def test_the_image_mapping_equals_a_double_loop_over_image_pairs(level):
    mst = random_mst(dynamic_scale="none")
    x_a, x_b, s_a, s_b = image_problem()
    to_b, to_a = mst.map_image(level, (x_a, x_b), (s_a, s_b))
    assert (to_b.shape, to_a.shape) == ((2, 3, ZB, WIDTH), (2, 3, ZA, WIDTH))
    for i in range(2):
        for j in range(3):
            mask = dynamic(mst, level, s_b[j], s_a[i], "b", "a")
            close(to_b[i, j], mapped(mst, level, "b", "a", x_b[j], x_a[i], mask))
            close(to_a[i, j], mapped(mst, level, "a", "b", x_a[i], x_b[j], mask.T))


@torch.no_grad()
def test_the_dynamic_matrix_is_divided_by_the_root_of_the_width_by_default():
    problem = image_problem()
    for scaled, raw in zip(
        random_mst().map_image(2, problem[:2], problem[2:]),
        random_mst(dynamic_scale="none").map_image(2, problem[:2], problem[2:]),
        strict=True,
    ):
        close(scaled * math.sqrt(WIDTH), raw)


@torch.no_grad()
def test_a_category_absent_from_the_source_image_contributes_nothing():
    mst = random_mst()
    for parameter in mst.k.parameters():
        parameter.zero_()  # uniform attention: a key must not carry the change
    x_a, x_b, s_a, s_b = image_problem()
    s_a[:, 1] = 0  # MSA's summary of an empty region
    changed = x_a.clone()
    changed[:, 1] += 1.0
    before, _ = mst.map_image(1, (x_a, x_b), (s_a, s_b))
    after, _ = mst.map_image(1, (changed, x_b), (s_a, s_b))
    close(after, before)


# ---- Eq. 10 and 11 -----------------------------------------------------------------------------


def test_consistency_measures_the_angle_only():
    x = torch.randn(ZB, WIDTH)
    assert scr(x, x).item() == pytest.approx(0.0, abs=1e-6)
    assert scr(x, -x).item() == pytest.approx(2.0, abs=1e-6)
    assert scr(x, 3.5 * x).item() == pytest.approx(0.0, abs=1e-6)
    right_angles = torch.eye(WIDTH)
    assert scr(right_angles, right_angles.roll(1, 0)).item() == pytest.approx(1.0, abs=1e-6)


def test_consistency_is_the_mean_over_images_and_parts():
    x, y = torch.randn(2, 3, ZB, WIDTH), torch.randn(2, 3, ZB, WIDTH)
    terms = [
        1 - (x[i, j, z] @ y[i, j, z] / x[i, j, z].norm() / y[i, j, z].norm()).item()
        for i in range(2)
        for j in range(3)
        for z in range(ZB)
    ]
    assert scr(x, y).item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)


def test_a_zero_row_costs_one_and_has_finite_gradients():
    x = torch.randn(ZB, WIDTH, requires_grad=True)
    y = torch.zeros(ZB, WIDTH, requires_grad=True)
    loss = scr(x, y)
    assert loss.item() == pytest.approx(1.0, abs=1e-6)
    loss.backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def test_both_sides_of_the_consistency_are_trained():
    x, y = torch.randn(2, ZB, WIDTH).requires_grad_().unbind(0)
    gradients = torch.autograd.grad(scr(x, y), (x, y))
    assert all(g.abs().sum() > 0 for g in gradients)


def image_loss(mst, level, problem):
    x_a, x_b, _, _ = problem
    to_b, to_a = mst.map_image(level, problem[:2], problem[2:])
    return scr(to_a, x_a[:, None].expand_as(to_a)) + scr(to_b, x_b[None].expand_as(to_b))


@torch.no_grad()
def test_the_scale_of_the_dynamic_matrix_does_not_change_the_loss():
    problem = image_problem()
    mst = random_mst()
    loss = image_loss(mst, 1, problem)
    for projection in mst.w[0].values():
        projection.weight.data.mul_(math.sqrt(7))
    close(image_loss(mst, 1, problem), loss)
    close(image_loss(random_mst(dynamic_scale="none"), 1, problem), loss)


def test_gradients_reach_every_parameter_of_a_pair():
    mst, problem = random_mst(), image_problem()
    x_a, x_b, _, _ = problem
    to_b, to_a = mst.map_dataset(x_a[0], x_b[0])
    loss = scr(to_b, x_b[0]) + scr(to_a, x_a[0])
    for level in (1, 2, 3):
        loss = loss + image_loss(mst, level, problem)
    loss.backward()
    for name, parameter in mst.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_pair_has_the_published_size():
    mst = MST(256, torch.ones(18, 7))
    assert sum(p.numel() for p in mst.parameters()) == 1_972_224
    assert not any("static" in name for name in mst.state_dict())


# ---- which images meet, and what counts (registers A7 to A9) -----------------------------------


def test_listed_pairs_give_the_same_maps_as_all_pairs_at_their_places():
    mst, (x_a, x_b, s_a, s_b) = random_mst(), image_problem()
    pairs = (torch.tensor([1, 0, 1]), torch.tensor([2, 2, 0]))
    every = mst.map_image(2, (x_a, x_b), (s_a, s_b))
    some = mst.map_image(2, (x_a, x_b), (s_a, s_b), pairs)
    for all_pairs, listed in zip(every, some, strict=True):
        close(listed, all_pairs[pairs[0], pairs[1]])


def test_pairs_meet_image_by_image():
    x_a, x_b, _, _ = image_problem()
    pairs = (torch.tensor([1]), torch.tensor([2]))
    left, right = meet(x_a, x_b, pairs)
    assert torch.equal(left, x_a[1:2])
    assert torch.equal(right, x_b[2:3])


def test_left_out_rows_change_no_consistency():
    x, y = torch.randn(2, 4, 5, WIDTH)
    rows = torch.tensor([True, False, True, False, True])
    close(scr(x, y, rows), scr(x[:, rows], y[:, rows]))
    assert scr(x, y, torch.zeros(5, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize(("stop", "trained"), [("none", 2), ("state", 1), ("mapped", 1)])
def test_a_stopped_side_gets_no_gradient(stop, trained):
    states = [torch.randn(3, WIDTH, requires_grad=True) for _ in range(2)]
    maps = [torch.randn(3, WIDTH, requires_grad=True) for _ in range(2)]
    symmetric_scr((states[0], states[1]), (maps[0], maps[1]), stop=stop).backward()
    sides = [side for side, of in (("state", states), ("mapped", maps)) if of[0].grad is not None]
    assert len(sides) == trained
    assert stop not in sides
