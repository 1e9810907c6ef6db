"""T-32: Eq. (1), literally and with CLIP's own scale."""

import math

import pytest
import torch

from hp_trainer.models.schnet.similarity import SimModule


def test_similarity_is_the_softmax_of_the_cosines():
    sim = SimModule()(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    e = math.e
    torch.testing.assert_close(sim, torch.tensor([[e / (e + 1), 1 / (e + 1)]]))


@pytest.mark.parametrize(("scale", "factor"), [("none", 1.0), ("clip", 100.0), (7.5, 7.5)])
def test_the_scale_multiplies_the_cosines(scale, factor):
    image = torch.nn.functional.normalize(torch.randn(3, 8), dim=-1)
    text = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    expected = (factor * image @ text.T).softmax(-1)
    torch.testing.assert_close(SimModule(scale)(image, text), expected)


def test_without_a_scale_twenty_classes_are_nearly_equal_and_with_clips_they_are_not():
    cosines = torch.linspace(0.2, 0.3, 20)
    # the first of 21 directions is the image's; each text leans on it by its cosine
    text = torch.cat([cosines[:, None], (1 - cosines**2).sqrt()[:, None] * torch.eye(20)], 1)
    image = torch.zeros(1, 21)
    image[0, 0] = 1.0
    literal, scaled = (SimModule(scale)(image, text)[0] for scale in ("none", "clip"))
    assert 0.047 < literal.min() < literal.max() < 0.053
    assert scaled.max() > 0.4


def test_each_image_has_its_own_similarities_that_sum_to_one():
    sim = SimModule()(torch.randn(4, 8), torch.randn(5, 8))
    assert sim.shape == (4, 5)
    torch.testing.assert_close(sim.sum(-1), torch.ones(4))


def test_similarity_stays_in_single_precision_under_autocast():
    image, text = torch.randn(2, 8), torch.randn(5, 8)
    plain = SimModule("clip")(image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = SimModule("clip")(image, text)
    assert torch.equal(mixed, plain)
