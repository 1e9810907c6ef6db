"""T-09 to T-12: category-aware pooling over the regions a network predicts."""

from typing import Any

import numpy as np
import pytest
import torch

from hp_trainer.models.auxiliary.msa import (
    MSA,
    predicted_regions,
    region_average,
    region_maximum,
)

NONE = 255
WIDTH, CLASSES = 6, 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_region(n, h, w, *, present=(0, 1, 3), ignored=True):
    g = torch.Generator().manual_seed(1)
    ids = torch.tensor([*present, NONE] if ignored else present)
    return ids[torch.randint(len(ids), (n, h, w), generator=g)]


def by_loop(features, region, reduce):
    """Reference (N, Z, D): `reduce` of each class's pixels, 0 where it has none."""
    out = np.zeros((len(features), CLASSES, features.shape[1]), np.float32)
    for b in range(len(features)):
        for z in range(CLASSES):
            pixels = features[b].numpy()[:, region[b].numpy() == z]  # (D, pixels)
            if pixels.shape[1]:
                out[b, z] = reduce(pixels, axis=1)
    return torch.from_numpy(out)


def test_a_class_averages_the_features_of_its_own_pixels():
    features, region = torch.randn(3, WIDTH, 5, 4), random_region(3, 5, 4)
    average = region_average(features, region, CLASSES)
    torch.testing.assert_close(average, by_loop(features, region, np.mean), atol=1e-6, rtol=1e-5)


def test_negative_features_keep_their_true_maximum():
    features, region = -1 - torch.rand(3, WIDTH, 5, 4), random_region(3, 5, 4)
    maximum = region_maximum(features, region, CLASSES)
    expected = by_loop(features, region, np.max)
    assert expected[:, 0].max() < -1
    assert torch.equal(maximum, expected)


def test_zero_fill_hides_a_negative_maximum_as_grapy_does():
    features, region = torch.randn(3, WIDTH, 5, 4), random_region(3, 5, 4)
    filled = region_maximum(features, region, CLASSES, fill="zero")
    assert torch.equal(filled, by_loop(features, region, np.max).clamp_min(0))
    same = region_maximum(features.abs(), region, CLASSES, fill="zero")
    assert torch.equal(same, region_maximum(features.abs(), region, CLASSES, fill="neg_inf"))


@pytest.mark.parametrize("pool", [region_average, region_maximum])
def test_ignored_pixels_belong_to_no_region(pool):
    features, region = torch.randn(2, WIDTH, 5, 4), random_region(2, 5, 4)
    changed = torch.where((region == NONE)[:, None], 1e6, features)
    assert torch.equal(pool(features, region, CLASSES), pool(changed, region, CLASSES))


@pytest.mark.parametrize("pool", [region_average, region_maximum])
def test_an_image_without_any_region_pools_to_zero(pool):
    region = torch.full((1, 5, 4), NONE)
    assert pool(torch.randn(1, WIDTH, 5, 4), region, CLASSES).abs().sum() == 0


@pytest.mark.parametrize("fill", ["neg_inf", "zero"])
def test_a_constant_region_is_summarised_by_its_value(fill):
    value = torch.rand(CLASSES, WIDTH) + 0.1  # v_z; positive, so that both fills agree
    scales = [(2, 3), (4, 6), (8, 12)]
    region = [random_region(2, h, w, present=(0, 1, 2, 3), ignored=False) for h, w in scales]
    features = [value[r].permute(0, 3, 1, 2) for r in region]
    msa = MSA(WIDTH, CLASSES, max_fill=fill)
    for projection in msa.w_s:
        half = 0.5 * torch.eye(WIDTH)
        projection.weight.data = torch.cat([half, half], dim=1)
    for summary, ids in zip(msa(features, region), region, strict=True):
        assert summary.shape == (2, CLASSES, WIDTH)
        for b in range(2):
            for z in range(CLASSES):
                expected = value[z] if (ids[b] == z).any() else torch.zeros(WIDTH)
                torch.testing.assert_close(summary[b, z], expected)


def test_average_and_maximum_are_projected_in_this_order():
    features = [torch.randn(2, WIDTH, 4, 4) for _ in range(3)]
    region = [random_region(2, 4, 4) for _ in range(3)]
    msa: Any = MSA(WIDTH, CLASSES)
    for scale, summary in enumerate(msa(features, region)):
        pooled = torch.cat(
            [
                region_average(features[scale], region[scale], CLASSES),
                region_maximum(features[scale], region[scale], CLASSES),
            ],
            dim=-1,
        )
        expected = pooled @ msa.w_s[scale].weight.T
        torch.testing.assert_close(summary, expected, atol=1e-5, rtol=1e-5)


def test_an_absent_class_is_zero_and_leaves_gradients_finite():
    features = [torch.randn(2, WIDTH, 4, 4, requires_grad=True) for _ in range(3)]
    region = [random_region(2, 4, 4, present=(0, 1, 3)) for _ in range(3)]
    msa = MSA(WIDTH, CLASSES)
    summaries = msa(features, region)
    assert all(torch.equal(s[:, 2], torch.zeros(2, WIDTH)) for s in summaries)
    assert all(s[:, 0].abs().min() > 0 for s in summaries)
    torch.stack(summaries).square().sum().backward()
    gradients = [x.grad for x in features] + [p.grad for p in msa.parameters()]
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_each_scale_has_its_own_projection_without_bias_unless_shared():
    own: Any = MSA(256, 20)
    shared = MSA(256, 20, share_w=True)
    assert [tuple(w.weight.shape) for w in own.w_s] == [(256, 512)] * 3
    assert sum(p.numel() for p in own.parameters()) == 3 * 131_072
    assert sum(p.numel() for p in shared.parameters()) == 131_072


# ---- regions -----------------------------------------------------------------------------------


def blocky_logits(n=2, blocks=(2, 3)):
    """Logits (N, Z, 4*bh, 4*bw), constant over 4x4 blocks, so that every "nearest" agrees."""
    torch.manual_seed(4)
    coarse = torch.randn(n, CLASSES, *blocks)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


def maps(n=2, blocks=(2, 3)):
    return [torch.zeros(n, WIDTH, blocks[0] * k, blocks[1] * k) for k in (1, 2, 4)]


def test_regions_are_the_predicted_classes_at_every_scale():
    logits = blocky_logits()
    full = logits.argmax(1)
    regions = predicted_regions(logits, maps(), None)
    assert [r.dtype for r in regions] == [torch.int64] * 3
    for region, step in zip(regions, (4, 2, 1), strict=True):
        assert torch.equal(region, full[:, ::step, ::step])


def test_the_finest_region_is_the_argmax_of_the_logits():
    logits = torch.randn(2, CLASSES, 8, 12)
    assert torch.equal(predicted_regions(logits, maps(), None)[-1], logits.argmax(1))


def test_invalid_pixels_belong_to_no_region():
    logits = blocky_logits()
    valid = torch.ones(2, 32, 48, dtype=torch.bool)
    valid[0, 16:, :] = False  # the lower block row of the first image
    valid[1, :, 32:] = False  # the right block column of the second
    plain = predicted_regions(logits, maps(), None)
    for region, free, k in zip(
        predicted_regions(logits, maps(), valid), plain, (1, 2, 4), strict=True
    ):
        assert (region[0, k:] == NONE).all()
        assert (region[1, :, 2 * k :] == NONE).all()
        assert torch.equal(region[0, :k], free[0, :k])
        assert torch.equal(region[1, :, : 2 * k], free[1, :, : 2 * k])


def test_no_gradient_reaches_the_logits_through_the_regions():
    logits = blocky_logits().requires_grad_()
    features = [torch.randn_like(m).requires_grad_() for m in maps()]
    regions = predicted_regions(logits, features, None)
    assert not any(region.requires_grad for region in regions)
    msa = MSA(WIDTH, CLASSES)
    torch.stack(msa(features, regions)).sum().backward()
    assert logits.grad is None
    assert all(x.grad is not None for x in features)
