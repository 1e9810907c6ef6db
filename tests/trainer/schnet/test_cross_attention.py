"""Deformable attention between two sets of tokens, against sums written out."""

import math

import pytest
import torch

from hp_trainer.models import encoder
from hp_trainer.models.encoder import pixel_centres
from hp_trainer.models.schnet.cross_attention import DeformableCrossAttention

SHAPES = [(4, 6), (2, 3)]
OF = (3, 5)


def attention(perturb, core="grid_sample"):
    torch.manual_seed(0)
    layer = DeformableCrossAttention(8, 2, 2, points=3, ratio=0.5, core=core)
    return perturb(layer, 0.3).eval()


def case():
    g = torch.Generator().manual_seed(3)
    query = torch.randn(2, OF[0] * OF[1], 8, generator=g)
    tokens = torch.randn(2, sum(h * w for h, w in SHAPES), 8, generator=g)
    return query, tokens, pixel_centres(*OF), SHAPES


def sample(level, x, y):
    """Bilinear sample of (h, w, d) at (x, y) in [0, 1], zero outside."""
    h, w, _ = level.shape
    column, row, total = x * w - 0.5, y * h - 0.5, torch.zeros(level.shape[-1])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < h and 0 <= j < w:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def written_out(layer, query, tokens, reference, shapes, image, q):
    """One query of one image: the sum over heads, levels and points."""
    value = layer.value_proj(tokens[image]).reshape(-1, 2, 2)  # (S, M, d)
    offsets = layer.sampling_offsets(query[image, q]).reshape(2, 2, 3, 2)
    weights = layer.attention_weights(query[image, q]).reshape(2, 6).softmax(-1).reshape(2, 2, 3)
    out = torch.zeros(2, 2)
    for head in range(2):
        start = 0
        for level, (h, w) in enumerate(shapes):
            plane = value[start : start + h * w, head].reshape(h, w, 2)
            start += h * w
            for point in range(3):
                dx, dy = (offsets[head, level, point] / torch.tensor([w, h])).tolist()
                x, y = reference[q].tolist()
                out[head] += weights[head, level, point] * sample(plane, x + dx, y + dy)
    return layer.output_proj(out.reshape(-1))


@torch.no_grad()
def test_attention_equals_the_sum_over_heads_levels_and_points(perturb):
    layer = attention(perturb)
    arguments = case()
    out = layer(*arguments)
    assert out.shape == (2, 15, 8)
    for image, q in ((0, 0), (0, 7), (1, 14)):
        expected = written_out(layer, *arguments, image, q)
        torch.testing.assert_close(out[image, q], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("core", ["gather", "loop"])
def test_every_core_gives_the_same_attention(perturb, core):
    expected = attention(perturb)(*case())
    out = attention(perturb, core)(*case())
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_values_are_narrower_than_the_tokens(perturb):
    layer = attention(perturb)
    assert (layer.value_proj.out_features, layer.output_proj.in_features) == (4, 4)


@torch.no_grad()
def test_sampling_positions_stay_in_single_precision_under_autocast(perturb, monkeypatch):
    seen = {}

    def spy(value, shapes, locations, weights):
        seen["types"] = {value.dtype, locations.dtype, weights.dtype}
        seen["locations"] = locations
        return encoder.CORES["grid_sample"](value, shapes, locations, weights)

    monkeypatch.setitem(encoder.CORES, "spy", spy)
    layer = attention(perturb, "spy")
    layer(*case())
    exact = seen["locations"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(*case())
    assert seen["types"] == {torch.float32}
    assert torch.equal(seen["locations"], exact)
