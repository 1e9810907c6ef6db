"""UperNet against its textbook form, and its pooling against torch's operator."""

import pytest
import torch
from torch.nn import functional

from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.upernet import UperNet, average_pool


def small(perturb):
    torch.manual_seed(0)
    return perturb(UperNet(6, 4), 0.1).eval()


def pyramid(n=2, h=16, w=24):
    return [torch.randn(n, 6, h // s, w // s) for s in (1, 2, 4, 8)]


def textbook(net, maps):
    def resize(x, like):
        return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

    coarsest = maps[3]
    pooled = [
        resize(layer(functional.adaptive_avg_pool2d(coarsest, cells)), coarsest)
        for layer, cells in zip(net.pyramid, (1, 2, 3, 6), strict=True)
    ]
    laterals = [layer(x) for layer, x in zip(net.laterals, maps, strict=False)]
    laterals.append(net.bottleneck(torch.cat([coarsest, *pooled], 1)))
    for i in (2, 1, 0):
        laterals[i] = laterals[i] + resize(laterals[i + 1], laterals[i])
    levels = [layer(x) for layer, x in zip(net.smooth, laterals, strict=False)] + [laterals[3]]
    return net.fuse(torch.cat([resize(x, levels[0]) for x in levels], 1))


@pytest.mark.parametrize("cells", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(15, 15), (3, 3), (16, 13), (2, 5)])
def test_pooling_by_products_equals_adaptive_average_pooling(size, cells):
    x = torch.randn(2, 3, *size)
    expected = functional.adaptive_avg_pool2d(x, cells)
    torch.testing.assert_close(average_pool(x, cells), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_decoder_equals_its_textbook_form(perturb):
    net, maps = small(perturb), pyramid()
    out = net(maps)
    assert out.shape == (2, 4, 16, 24)
    torch.testing.assert_close(out, textbook(net, maps), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_channels_are_dropped_only_while_training(perturb):
    net, maps = small(perturb), pyramid()
    net.dropout.p = 0.5
    assert torch.equal(net(maps), net(maps))
    net.dropout.train()
    dropped = (net(maps) == 0).flatten(2).all(-1)  # whole channels
    assert dropped.any()


def test_training_on_one_image_is_refused_and_parsing_one_is_not(perturb):
    net = small(perturb)
    assert net(pyramid(n=1)).shape == (1, 4, 16, 24)
    with pytest.raises(ConfigError, match="two images"):
        net.train()(pyramid(n=1))
    net.pyramid[0].eval()  # the norm over one value takes its running statistics
    assert net(pyramid(n=1)).shape == (1, 4, 16, 24)


def test_the_decoder_has_its_published_size_with_twenty_classes(schnet_l):
    parts = [schnet_l.decoder, schnet_l.heads["cihp"]]
    assert sum(p.numel() for part in parts for p in part.parameters()) == 34_363_412
