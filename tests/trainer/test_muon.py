"""Muon: which tensors it turns, how far they move, and that the others are AdamW's."""

import copy

import pytest
import torch
from torch import nn

from hp_sdk.domains import load_domain
from hp_trainer.config import TrainConfig
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.muon import STEP_RMS, orthogonalised
from hp_trainer.optimiser import build_optimiser
from hp_trainer.training_model import SSTTraining

LR = 1e-3


@pytest.mark.parametrize("shape", [(32, 288), (288, 32), (24, 24)])
def test_singular_values_become_about_one_and_their_directions_stay(shape: tuple[int, int]):
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    strengths = torch.linspace(1, 0.1, min(shape))
    turned = orthogonalised(left @ torch.diag(strengths) @ right)
    values = torch.linalg.svdvals(turned)
    assert values.min() > 0.6
    assert values.max() < 1.3
    likeness = torch.nn.functional.cosine_similarity(turned.ravel(), (left @ right).ravel(), dim=0)
    assert likeness > 0.97


def model() -> SSTTraining:
    torch.manual_seed(0)
    return SSTTraining(SST(PRESETS["sst-tiny"], [load_domain("pascal")]), beta=0.0, lam=0.0)


def with_gradients(net: nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)


def moved(optimiser: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Parameter → (before, after) one step without decay, by the same gradients."""
    net = model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    settings = TrainConfig(lr=LR, optimiser=optimiser, weight_decay=0.0, backbone_lr=1.0)
    with_gradients(net, 1)
    build_optimiser(net, settings).step()
    return {name: (before[name], p.detach()) for name, p in net.named_parameters()}


def test_hidden_matrices_are_turned_and_all_else_moves_as_with_adamw():
    by_muon, by_adamw = moved("muon"), moved("adamw")
    differ = {n for n in by_muon if not torch.equal(by_muon[n][1], by_adamw[n][1])}
    assert "net.backbone.layer4.0.conv2.weight" in differ
    assert "net.encoder.layers.0.linear1.weight" in differ
    kept = ("net.backbone.conv1.weight", "net.encoder.level_embed", "net.heads.pascal.weight")
    assert not differ & {*kept, "net.backbone.bn1.weight"}
    assert {n for n in differ if by_muon[n][0].ndim < 2} == set()


def test_a_step_has_the_size_of_one_of_adamw():
    before, after = moved("muon")["net.backbone.layer4.0.conv2.weight"]
    rms = (after - before).square().mean().sqrt().item()
    assert rms == pytest.approx(STEP_RMS * LR, rel=0.25)


def test_a_run_goes_on_from_its_saved_state():
    settings = TrainConfig(lr=LR, optimiser="muon")
    ahead = model()
    optimiser = build_optimiser(ahead, settings)
    with_gradients(ahead, 1)
    optimiser.step()
    again = copy.deepcopy(ahead)
    resumed = build_optimiser(again, settings)
    resumed.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for net, each in ((ahead, optimiser), (again, resumed)):
        with_gradients(net, 2)
        each.step()
    for ours, theirs in zip(ahead.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)
