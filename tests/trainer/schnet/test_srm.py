"""T-33 to T-35: SRM is the identity at first, follows its equations, and is one set of weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hp_sdk.domains import load_domain
from hp_trainer.models.schnet.srm import SRM, resize_tokens

PASCAL, ATR = load_domain("pascal"), load_domain("atr")


def small(*domains, **options):
    torch.manual_seed(0)
    return SRM(domains or [PASCAL], clip_width=6, width=8, **options)


def case(*domains, tokens=5):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, tokens, 8, generator=g)
    clip_map = torch.randn(2, tokens, 6, generator=g)
    similarity = {
        d.name: torch.randn(2, d.num_classes, generator=g).softmax(-1) for d in domains or [PASCAL]
    }
    return x, clip_map, similarity


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def equations(srm, x, clip_map, gate):
    """Eqs. (2) to (4) for one image in numpy."""

    def mlp(layer: nn.Linear, v):
        return v @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    u = clip_map.numpy() * gate
    x = mlp(srm.lift, u) + x.numpy()
    return x + mlp(srm.up, gelu(mlp(srm.down, x)))


def test_srm_starts_as_the_identity():
    x, clip_map, similarity = case()
    assert torch.equal(small()(x, clip_map, similarity), x)


def test_srm_without_zero_initialisation_is_no_identity():
    x, clip_map, similarity = case()
    assert not torch.allclose(small(zero_init=False)(x, clip_map, similarity), x, atol=1e-2)


def test_srm_follows_its_equations(perturb):
    srm = perturb(small(), 0.5)
    x, clip_map, similarity = case()
    out = srm(x, clip_map, similarity).detach().numpy()
    weight, bias = (t.detach().numpy() for t in srm.gate["pascal"].parameters())
    for image in range(2):
        gate = similarity["pascal"][image].numpy() @ weight.T + bias
        expected = equations(srm, x[image], clip_map[image], gate)
        np.testing.assert_allclose(out[image], expected, atol=1e-5)


def test_several_domains_share_the_gate_in_equal_parts(perturb):
    srm = perturb(small(PASCAL, ATR), 0.5)
    x, clip_map, similarity = case(PASCAL, ATR)
    gates = [srm.gate[name](similarity[name]) for name in ("pascal", "atr")]
    gate = ((gates[0] + gates[1]) / 2).detach().numpy()
    out = srm(x, clip_map, similarity).detach().numpy()
    for image in range(2):
        expected = equations(srm, x[image], clip_map[image], gate[image])
        np.testing.assert_allclose(out[image], expected, atol=1e-5)


@pytest.mark.parametrize(("domain", "size"), [("cihp", 1_329_152), ("pascal", 1_319_168)])
def test_srm_has_its_published_size(domain, size):
    with torch.device("meta"):
        srm = SRM([load_domain(domain)], clip_width=768, width=1024)
    assert sum(p.numel() for p in srm.parameters()) == size


def test_one_set_of_weights_serves_all_five_places(tiny, perturb):
    net = perturb(tiny())
    calls = []
    net.srm[0].register_forward_pre_hook(lambda module, _: calls.append(module))
    with torch.no_grad():
        net(torch.randn(1, 3, 32, 32))
    assert len(net.srm) == 1
    assert calls == [net.srm[0]] * 5


def test_the_shared_weights_collect_the_gradients_of_all_five_places(tiny, perturb):
    shared = perturb(tiny())
    apart = tiny(srm_shared=False)
    assert len(apart.srm) == 5
    state = shared.state_dict()
    copies = {
        key.replace("srm.0.", f"srm.{i}."): value
        for i in range(5)
        for key, value in state.items()
        if key.startswith("srm.")
    }
    apart.load_state_dict(state | copies)
    image = torch.randn(1, 3, 32, 32)
    for net in (shared, apart):
        net(image)["pascal"].square().mean().backward()
    for name, parameter in shared.srm[0].named_parameters():
        each = [copy.get_parameter(name).grad for copy in apart.srm]
        assert all(gradient.abs().sum() > 0 for gradient in each)
        torch.testing.assert_close(parameter.grad, sum(each), atol=1e-6, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("places", [(0, 1, 2, 3, 3), (-1, 0, 1, 2, 3)])
def test_each_place_retrieves_from_the_map_it_is_told_to(tiny, perturb, places):
    net = perturb(tiny(srm_clip_map=places))
    seen, maps = [], []
    net.srm[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    net.clip.register_forward_hook(lambda _, __, features: maps.extend(features.maps))
    net(torch.randn(1, 3, 32, 32))
    for given, place in zip(seen, places, strict=True):
        assert torch.equal(given, maps[place])


def test_tokens_reach_another_grid_by_bilinear_interpolation():
    x = torch.randn(2, 6, 4)
    assert resize_tokens(x, (2, 3), (2, 3)) is x
    planes = x.transpose(1, 2).reshape(2, 4, 2, 3)
    wanted = nn.functional.interpolate(planes, size=(4, 6), mode="bilinear")
    out = resize_tokens(x, (2, 3), (4, 6))
    torch.testing.assert_close(out, wanted.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_a_clip_with_coarser_patches_still_serves_the_trunk(tiny, perturb):
    net = perturb(tiny(clip_patch=32))
    seen = []
    net.srm[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape))
    assert net(torch.randn(1, 3, 64, 96))["pascal"].shape == (1, 7, 16, 24)
    assert set(seen) == {(1, 24, 64)}
