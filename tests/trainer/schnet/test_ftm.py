"""T-37 to T-40: FTM is the identity at first, follows its equations, shares what it should."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hp_trainer.models.schnet.ftm import FTM, FTMShape

SMALL = FTMShape(width=8, depth=3, tokens=5, reduction=2)

READINGS = {
    "default": {},
    "unscaled": {"attn_scale": False},
    "first dropped": {"drop_first": True},
    "inner residual": {"inner_residual": True},
    "residual f'": {"residual": "fprime"},
    "rho per layer": {"per_layer_rho": True},
    "Rein": {"drop_first": True, "inner_residual": True, "per_layer_rho": True},
}
every_reading = pytest.mark.parametrize("reading", READINGS.values(), ids=list(READINGS))


def small(**changes):
    torch.manual_seed(0)
    return FTM(replace(SMALL, **changes))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def equations(ftm, f, layer):
    """Eqs. (5) and (6) for one image in float64, every reading spelled out."""
    shape, w = ftm.shape, {k: v.double().numpy() for k, v in ftm.state_dict().items()}

    def mlp(name, v):
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    tokens, rho = w["tokens"][layer], w["rho"][layer] if shape.per_layer_rho else w["rho"]
    scores = f @ tokens.T * (shape.width**-0.5 if shape.attn_scale else 1)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    values = mlp("mlp_t", tokens)
    if shape.drop_first:
        weights, values = weights[:, 1:], values[1:]
    update = weights @ values + (f if shape.inner_residual else 0)
    consulted = rho * mlp("mlp_f", update) + f
    hidden = gelu(mlp(f"mix.{layer}", gelu(mlp("down", consulted))))
    return mlp("up", hidden) + (f if shape.residual == "f" else consulted)


@pytest.mark.parametrize("layer", range(3))
def test_ftm_starts_as_the_identity(layer):
    f = torch.randn(2, 6, 8)
    assert torch.equal(small()(f, layer), f)


def test_the_other_residual_is_only_nearly_an_identity_at_first():
    f = torch.randn(2, 6, 8)
    difference = (small(residual="fprime")(f, 0) - f).abs().max()
    assert 0 < difference < 0.01


def test_ftm_without_zero_initialisation_is_no_identity():
    f = torch.randn(2, 6, 8)
    assert not torch.allclose(small(zero_init=False)(f, 0), f, atol=1e-2)


@torch.no_grad()
@every_reading
def test_ftm_follows_its_equations(perturb, reading):
    ftm = perturb(small(**reading), 0.5)
    f = torch.randn(2, 6, 8)
    for layer in range(3):
        out = ftm(f, layer)
        for image in range(2):
            expected = equations(ftm, f[image].double().numpy(), layer)
            np.testing.assert_allclose(out[image].numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_the_readings_differ(perturb):
    f, outputs, weights = torch.randn(1, 6, 8), [], perturb(small(), 0.5).state_dict()
    for reading in READINGS.values():
        ftm = small(**reading)  # with the same weights, so that only the reading tells them apart
        rho = weights["rho"] * (torch.tensor([1.0, 3.0, 2.0]) if ftm.rho.ndim else 1)
        ftm.load_state_dict(weights | {"rho": rho})
        outputs.append(ftm(f, 1))
    for i, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-3 for other in outputs[:i])


def test_tokens_and_mixers_belong_to_a_layer_and_the_rest_to_all(perturb):
    ftm = perturb(small(), 0.5)
    ftm(torch.randn(1, 6, 8), 1).square().sum().backward()
    assert [gradient.abs().sum() > 0 for gradient in ftm.tokens.grad] == [False, True, False]
    assert [layer.weight.grad is not None for layer in ftm.mix] == [False, True, False]
    for shared in (ftm.mlp_t, ftm.mlp_f, ftm.down, ftm.up):
        assert shared.weight.grad.abs().sum() > 0
    assert len({layer.weight.data_ptr() for layer in ftm.mix}) == 3


def test_tokens_start_in_the_range_rein_gives_them():
    tokens = FTM(replace(SMALL, width=1024, depth=1)).tokens
    assert 0.057 < tokens.abs().max() <= math.sqrt(6 / (3 * 16**2 + 1024))


def test_rho_is_one_number_or_one_per_layer():
    assert small().rho.shape == ()
    assert small().rho.item() == pytest.approx(1e-3)
    assert small(per_layer_rho=True).rho.shape == (3,)


def test_ftm_has_its_published_size(schnet_l):
    assert sum(p.numel() for p in schnet_l.ftm.parameters()) == 6_661_377


def test_frozen_layers_get_no_gradient_while_ftm_and_srm_learn(tiny, perturb):
    net = perturb(tiny())
    net(torch.randn(1, 3, 32, 32))["pascal"].square().mean().backward()
    for name, parameter in net.named_parameters():
        learns = not name.startswith(("sam.", "clip.")) or name.startswith("sam.patch_embed.")
        assert (parameter.grad is not None) == learns, name
        if name.startswith(("ftm.", "srm.", "sam.patch_embed.")):
            assert parameter.grad.abs().sum() > 0, name
