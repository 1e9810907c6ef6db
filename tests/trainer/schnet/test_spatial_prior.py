"""The convolutional pyramid beside the trunk."""

import torch

from hp_trainer.models.schnet.spatial_prior import SpatialPrior


@torch.no_grad()
def test_the_prior_is_a_pyramid_of_maps_of_one_width():
    maps = SpatialPrior(4, 16).eval()(torch.randn(2, 3, 64, 96))
    sizes = [tuple(x.shape) for x in maps]
    assert sizes == [(2, 16, 16, 24), (2, 16, 8, 12), (2, 16, 4, 6), (2, 16, 2, 3)]


@torch.no_grad()
def test_each_map_is_computed_from_the_finer_one():
    prior = SpatialPrior(4, 16).eval()
    image = torch.randn(1, 3, 64, 64)
    x = prior.stem(image)
    for stage, project, ours in zip(prior.stages, prior.project[1:], prior(image)[1:], strict=True):
        x = stage(x)
        assert torch.equal(ours, project(x))


def test_the_prior_has_its_published_size(schnet_l):
    prior = schnet_l.adapter.spatial_prior
    assert sum(p.numel() for p in prior.parameters()) == 1_760_576
