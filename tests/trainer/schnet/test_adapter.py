"""Injectors, extractors and the four maps they end in."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from hp_trainer.models.schnet.adapter import (
    Adapter,
    AdapterShape,
    ConvFFN,
    Extractor,
    Injector,
    pyramid,
    to_maps,
    to_tokens,
)

SMALL = AdapterShape(width=8, heads=2, points=2, stem=4, drop_path=0.0)
GRID = (4, 6)
TOKENS = sum(h * w for h, w in pyramid(GRID))


def adapter(perturb):
    torch.manual_seed(0)
    return perturb(Adapter(SMALL), 0.2).eval()


def test_the_pyramid_around_the_trunk_has_a_finer_and_a_coarser_map():
    assert pyramid((30, 30)) == [(60, 60), (30, 30), (15, 15)]
    assert sum(h * w for h, w in pyramid((30, 30))) == 4725


def test_maps_and_tokens_are_each_others_inverse():
    maps = [torch.randn(2, 8, h, w) for h, w in pyramid(GRID)]
    tokens = to_tokens(maps)
    assert tokens.shape == (2, TOKENS, 8)
    assert torch.equal(tokens[:, 8 * 12], maps[1][:, :, 0, 0])
    for ours, given in zip(to_maps(tokens, pyramid(GRID)), maps, strict=True):
        assert torch.equal(ours, given)


def test_an_injector_starts_as_the_identity_and_gamma_weighs_it(perturb):
    fresh = Injector(SMALL)
    x, c = torch.randn(2, 24, 8), torch.randn(2, TOKENS, 8)
    assert torch.equal(fresh(x, c, GRID), x)
    injector = perturb(fresh, 0.3)
    update = injector(x, c, GRID) - x
    with torch.no_grad():
        injector.gamma.mul_(2)
    torch.testing.assert_close(injector(x, c, GRID) - x, 2 * update, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_injector_looks_from_the_trunk_at_the_pyramid(perturb):
    injector = perturb(Injector(SMALL), 0.3)
    x, c = torch.randn(1, 24, 8), torch.randn(1, TOKENS, 8)
    before = injector(x, c, GRID)
    for level, (h, w) in enumerate(pyramid(GRID)):
        start = sum(rows * columns for rows, columns in pyramid(GRID)[:level])
        changed = c.clone()
        changed[:, start : start + h * w] += 5.0 * torch.randn(8)
        assert not torch.equal(injector(x, changed, GRID), before)


@torch.no_grad()
def test_an_extractor_attends_then_feeds_forward(perturb):
    extractor = perturb(Extractor(SMALL), 0.3).eval()
    x, c = torch.randn(2, 24, 8), torch.randn(2, TOKENS, 8)
    attended = c + extractor.look(c, x, of=pyramid(GRID), at=[GRID])
    expected = attended + extractor.ffn(extractor.ffn_norm(attended), pyramid(GRID))
    assert torch.equal(extractor(c, x, GRID), expected)
    assert not torch.equal(extractor(c, torch.randn(2, 24, 8), GRID), expected)


@torch.no_grad()
def test_the_depthwise_convolution_is_shared_and_stays_inside_its_level(perturb):
    ffn = perturb(ConvFFN(8, 4), 0.3)
    x = torch.randn(1, TOKENS, 8)
    out = ffn(x, pyramid(GRID))
    for tokens, ours, (h, w) in zip(
        x.split([96, 24, 6], 1), out.split([96, 24, 6], 1), pyramid(GRID), strict=True
    ):
        plane = ffn.fc1(tokens).transpose(1, 2).reshape(1, 4, h, w)
        plane = functional.conv2d(plane, ffn.dwconv.weight, ffn.dwconv.bias, padding=1, groups=4)
        expected = ffn.fc2(functional.gelu(plane.flatten(2).transpose(1, 2)))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_extractors_drop_their_feed_forward_path_only_while_training():
    extractor = Extractor(replace(SMALL, drop_path=0.5))
    x, c = torch.randn(1, 24, 8), torch.randn(1, TOKENS, 8)
    torch.manual_seed(0)
    drops = {extractor.train()(c, x, GRID).sum().item() for _ in range(20)}
    kept = {extractor.eval()(c, x, GRID).sum().item() for _ in range(5)}
    assert len(drops) == 2  # dropped, or kept and doubled
    assert len(kept) == 1


@torch.no_grad()
def test_the_last_stage_has_two_more_extractors(perturb):
    net = adapter(perturb)
    calls = []
    for i, extractor in enumerate(net.extractors):
        extractor.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    c, x = torch.randn(1, TOKENS, 8), torch.randn(1, 24, 8)
    for stage in range(4):
        net.extract(stage, c, x, GRID)
    assert calls == [0, 1, 2, 3, 4, 5]


@torch.no_grad()
def test_the_prior_marks_each_level_with_its_embedding(perturb):
    net = adapter(perturb)
    image = torch.randn(1, 3, 64, 96)
    fine, *coarse = net.spatial_prior(image)
    ours_fine, c = net.prior(image)
    assert torch.equal(ours_fine, fine)
    for level, (ours, given) in enumerate(zip(to_maps(c, pyramid(GRID)), coarse, strict=True)):
        torch.testing.assert_close(ours, given + net.level_embed[level][:, None, None])


@torch.no_grad()
def test_stage_s_is_added_to_the_map_at_a_quarter_to_a_thirty_second(perturb):
    net = adapter(perturb)
    fine = torch.randn(2, 8, 16, 24)
    coarse = [torch.randn(2, 8, h, w) for h, w in pyramid(GRID)]
    outputs = [torch.randn(2, 24, 8) for _ in range(4)]
    fused = net.fuse(fine, to_tokens(coarse), outputs, GRID)
    up = functional.conv_transpose2d(coarse[0], net.up.weight, net.up.bias, stride=2)
    maps = [fine + up, *coarse]
    for stage, factor in enumerate((4, 2, 1, 0.5)):
        trunk = outputs[stage].transpose(1, 2).reshape(2, 8, 4, 6)
        resized = functional.interpolate(trunk, scale_factor=factor, mode="bilinear")
        expected = net.norms[stage](maps[stage] + resized)
        torch.testing.assert_close(fused[stage], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "size"),
    [("", 23_236_800), ("injectors.0", 1_645_632), ("extractors.5", 1_781_184), ("up", 4_195_328)],
)
def test_the_adapter_has_its_published_size(schnet_l, part, size):
    module = schnet_l.adapter.get_submodule(part)
    assert sum(p.numel() for p in module.parameters()) == size
