"""T-13 to T-16: semantic propagation over the graph, and the auxiliary prediction."""

import math

import pytest
import torch
from torch.nn import functional as F

from hp_trainer.models.auxiliary.mse import MSE, associate

WIDTH, CLASSES = 6, 4
GRAPH = torch.tensor(
    [[1.0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
)  # a background and a chain of three parts


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_mse(graph=GRAPH, *, seed=0, **options):
    torch.manual_seed(seed)
    mse = MSE(WIDTH, graph, **options)
    for parameter in mse.parameters():
        parameter.data = torch.randn(parameter.shape)
    return mse


def summaries(n=2):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(n, CLASSES, WIDTH, generator=g) for _ in range(3)]


def by_loop(mse, graph, s):
    """Reference of Eq. 6, one class and one neighbour at a time; graph None for Eq. 5."""
    n = len(s[0])
    out = [mse.x0.detach()]
    x = out[0].expand(n, -1, -1)
    for q, k, v, summary in zip(mse.q, mse.k, mse.v, s, strict=True):
        queries, keys, values = q(x), k(summary), v(summary)
        x = x.clone()
        for b in range(n):
            for z in range(CLASSES):
                scores = [(queries[b, z] @ keys[b, y]).item() for y in range(CLASSES)]
                exps = [math.exp((t - max(scores)) / math.sqrt(WIDTH)) for t in scores]
                for y in range(CLASSES):
                    mask = 1.0 if graph is None else graph[z, y].item()
                    x[b, z] += mask * exps[y] / sum(exps) * values[b, y]
        out.append(x)
    return out


def assert_same(ours, theirs):
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def uniform(intra_mask):
    """Z = 2, D = 1 with uniform attention, V = identity, X_0 = 0 and the graph [[1, 0], [1, 1]]."""
    mse = MSE(1, torch.tensor([[1.0, 0.0], [1.0, 1.0]]), scales=1, intra_mask=intra_mask)
    for name, parameter in mse.named_parameters():
        identity = name.startswith("v.") and name.endswith("weight")
        parameter.data = torch.full(parameter.shape, float(identity))
    return mse


@pytest.mark.parametrize(
    ("intra_mask", "first"), [("post", 1.5), ("pre", 3.0), ("post_renorm", 3.0), ("none", 4.0)]
)
def test_the_mask_follows_the_softmax_and_is_not_renormalised(intra_mask, first):
    s = torch.tensor([[[3.0], [5.0]]])  # S_0 = 3, S_1 = 5
    x0, x1 = uniform(intra_mask)([s])
    assert torch.equal(x0, torch.zeros(2, 1))
    torch.testing.assert_close(x1, torch.tensor([[[first], [4.0]]]))


def test_the_mask_follows_the_softmax_by_default():
    mse, s = random_mse(), summaries()
    assert_same(mse(s), random_mse(intra_mask="post")(s))


@torch.no_grad()
def test_propagation_equals_a_loop_over_classes_and_neighbours():
    mse, s = random_mse(), summaries()
    ours = mse(s)
    assert [tuple(x.shape) for x in ours] == [(CLASSES, WIDTH)] + [(2, CLASSES, WIDTH)] * 3
    assert_same(ours, by_loop(mse, GRAPH, s))


@torch.no_grad()
def test_a_full_graph_is_plain_attention():
    s, ones = summaries(), torch.ones(CLASSES, CLASSES)
    full = random_mse(ones)(s)
    assert_same(full, by_loop(random_mse(ones), None, s))
    assert_same(full, random_mse(GRAPH, intra_mask="none")(s))
    assert not torch.allclose(full[-1], random_mse(GRAPH)(s)[-1])


@pytest.mark.parametrize("intra_mask", ["post", "pre", "post_renorm"])
@torch.no_grad()
def test_a_part_without_neighbours_keeps_its_representation(intra_mask):
    graph = GRAPH.clone()
    graph[2] = 0
    mse = random_mse(graph, intra_mask=intra_mask)
    for x in mse(summaries())[1:]:
        torch.testing.assert_close(x[:, 2], mse.x0[2].expand(2, -1))
        assert x.isfinite().all()


@torch.no_grad()
def test_a_mask_before_the_softmax_hides_all_but_the_neighbours():
    s = summaries()
    changed = [x.clone() for x in s]
    for x in changed:
        x[:, 3] += 1.0  # class 3 touches 2 and itself
    mse = random_mse(intra_mask="pre")
    before, after = mse(s)[1], mse(changed)[1]
    moved = (before - after).abs().amax(dim=(0, 2)) > 1e-4
    assert moved.tolist() == [False, False, True, True]


@torch.no_grad()
def test_each_image_has_its_own_representation():
    mse, s = random_mse(), summaries(3)
    together = mse(s)
    for b in range(3):
        alone = mse([x[b : b + 1] for x in s])
        assert_same([x[b] for x in together[1:]], [x[0] for x in alone[1:]])


def test_gradients_reach_every_parameter_and_every_summary():
    mse, s = random_mse(), [x.requires_grad_() for x in summaries()]
    mse(s)[-1].square().sum().backward()
    gradients = [p.grad for p in mse.parameters()] + [x.grad for x in s]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in (*s, mse.x0))


def test_the_module_has_the_published_size_and_starts_small():
    mse = MSE(256, torch.eye(20))
    assert sum(p.numel() for p in mse.parameters()) == 597_248
    assert mse.x0.std().item() == pytest.approx(0.02, rel=0.1)
    assert {name.split(".")[0] for name in mse.state_dict()} == {"x0", "q", "k", "v"}


# ---- Eq. 7 -------------------------------------------------------------------------------------


@torch.no_grad()
def test_association_is_the_inner_product_of_every_pixel_and_class():
    features, x = torch.randn(2, WIDTH, 3, 5), torch.randn(2, CLASSES, WIDTH)
    logits = associate(features, x)
    assert logits.shape == (2, CLASSES, 3, 5)
    for b in range(2):
        for z in range(CLASSES):
            for i in range(3):
                for j in range(5):
                    expected = sum(features[b, :, i, j] * x[b, z])
                    torch.testing.assert_close(logits[b, z, i, j], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_association_commutes_with_up_sampling(align_corners):
    features, x = torch.randn(2, WIDTH, 3, 5), torch.randn(2, CLASSES, WIDTH)

    def up(y):
        return F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=align_corners)

    torch.testing.assert_close(
        up(associate(features, x)), associate(up(features), x), atol=1e-5, rtol=1e-5
    )
