"""T-44 to T-48: folding changes no logit by more than 1e-5, step by step and all together."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.clip_vision import Renormalise
from hp_trainer.models.schnet.folding import FOLDS, FoldedFTM, ScaleShift, fold
from hp_trainer.models.schnet.ftm import FTM, FTMShape

SIZE = (64, 96)
"""Neither square nor the size the positions belong to."""


@pytest.fixture(scope="session")
def image():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def with_unit_logits(net, image):
    """The network with heads scaled so that 1e-5 is an error relative to the logits' spread."""
    for name, logits in net(image).items():
        for parameter in net.heads[name].parameters():
            parameter.div_(logits.std())
    return net


@pytest.fixture(scope="session")
def trained(tiny, perturb, image):
    return with_unit_logits(perturb(tiny("pascal", "atr", sim_scale="clip")), image)


@pytest.fixture(scope="session")
def expected(trained, image):
    with torch.no_grad():
        return trained(image)


def check(folded, image, expected):
    with torch.no_grad():
        logits = folded(image)
    assert logits.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.std() == pytest.approx(1, abs=1e-3)
        assert (logits[name] - wanted).abs().max() <= 1e-5


def test_positions_become_constants_of_one_size(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["positions"])
    assert folded.sam.pos_embed.shape == (1, 4, 6, 64)
    assert folded.clip.positional_embedding.shape == (1 + 4 * 6, 64)
    windowed, everywhere = folded.sam.blocks[0].attn, folded.sam.blocks[1].attn
    assert (windowed.rel_pos_h.shape, windowed.rel_pos_w.shape) == ((4, 4, 16), (4, 4, 16))
    assert (everywhere.rel_pos_h.shape, everywhere.rel_pos_w.shape) == ((4, 4, 16), (6, 6, 16))
    check(folded, image, expected)


def test_tokens_become_two_products(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["tokens"])
    assert isinstance(folded.ftm, FoldedFTM)
    assert not [name for name, _ in folded.ftm.named_parameters() if name.startswith("mlp_")]
    check(folded, image, expected)


@torch.no_grad()
@pytest.mark.parametrize("attn_scale", [True, False])
@pytest.mark.parametrize("drop_first", [False, True])
@pytest.mark.parametrize("inner_residual", [False, True])
@pytest.mark.parametrize("per_layer_rho", [False, True])
def test_every_reading_of_the_tokens_folds(
    perturb, attn_scale, drop_first, inner_residual, per_layer_rho
):
    shape = FTMShape(
        width=8, depth=3, tokens=5, reduction=2, attn_scale=attn_scale, drop_first=drop_first,
        inner_residual=inner_residual, per_layer_rho=per_layer_rho,
    )  # fmt: skip
    ftm = perturb(FTM(shape), 0.3)
    folded = FoldedFTM(ftm)
    f = torch.randn(2, 6, 8)
    for layer in range(3):
        assert (ftm.consult(f, layer) - f).abs().max() > 0.01
        assert (folded(f, layer) - ftm(f, layer)).abs().max() <= 1e-5


def test_clips_statistics_move_into_its_first_convolution(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["clip_input"])
    assert not [m for m in folded.modules() if isinstance(m, Renormalise)]
    assert folded.clip.conv1.bias is not None
    check(folded, image, expected)


def test_batch_norms_move_into_convolutions(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["norms"])
    left = [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == []
    assert isinstance(folded.adapter.norms[3], ScaleShift)  # a padded convolution reads that map
    check(folded, image, expected)


def test_gamma_moves_into_the_last_layer_of_the_injectors(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["gamma"])
    assert all(injector.gamma is None for injector in folded.adapter.injectors)
    check(folded, image, expected)


def test_the_scale_of_the_similarity_moves_into_the_text_features(trained, image, expected):
    folded: Any = fold(trained, SIZE, steps=["text"])
    assert folded.sim.scale == 1.0
    torch.testing.assert_close(folded.text["atr"], 100 * trained.text["atr"])
    check(folded, image, expected)


def test_all_steps_together_change_no_logit(trained, image, expected):
    check(fold(trained, SIZE), image, expected)


@pytest.mark.parametrize("row", [{"use_sam": False}, {"use_clip": False}])
def test_networks_of_the_ablation_fold_too(tiny, perturb, image, row):
    net = with_unit_logits(perturb(tiny(use_srm=False, use_ftm=False, **row)), image)
    with torch.no_grad():
        check(fold(net, SIZE), image, net(image))


def test_folding_leaves_the_trained_network_alone(trained, image, expected):
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    fold(trained, SIZE)
    after = trained.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    check(trained, image, expected)


def test_weights_that_no_step_changes_are_shared_and_learn_in_the_trained_network_only(trained):
    folded: Any = fold(trained, SIZE)
    for name in ("sam.blocks.0.mlp.lin1.weight", "ftm.down.weight", "heads.atr.weight"):
        ours, theirs = trained.get_parameter(name), folded.get_parameter(name)
        assert theirs.data_ptr() == ours.data_ptr()
        assert (ours.requires_grad, theirs.requires_grad) == (not name.startswith("sam."), False)


def test_a_folded_network_takes_one_size_and_is_not_folded_again(trained):
    folded: Any = fold(trained, SIZE)
    with pytest.raises(ConfigError, match="folded for 64x96 and got 96x64"):
        folded(torch.randn(1, 3, 96, 64))
    with pytest.raises(ConfigError, match="folded for 64x96 already"):
        fold(folded, (64, 64))
    with pytest.raises(ConfigError, match="multiples of 32"):
        fold(trained, (64, 90))


def test_a_folded_network_learns_nothing(trained):
    folded: Any = fold(trained, SIZE)
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_every_step_has_a_name():
    assert list(FOLDS) == ["text", "positions", "tokens", "clip_input", "norms", "gamma"]


def test_folding_saves_25_billion_multiply_accumulates_of_the_full_network(schnet_l):
    folded: Any = fold(schnet_l, (480, 480), steps=["tokens"])
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        for layer in range(24):
            folded.ftm(torch.empty(1, 900, 1024), layer)
    assert counter.get_total_flops() / 2e9 == pytest.approx(17.2, rel=0.01)


@pytest.mark.slow
@torch.no_grad()
def test_a_folded_network_is_a_graph_for_any_batch_without_resized_positions(tiny, perturb):
    folded: Any = fold(perturb(tiny()), (32, 32))
    images = torch.randn(3, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(folded, (images[:2],), dynamic_shapes=({0: batch},))
    targets = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in targets if "bicubic" in name or "upsample_linear" in name]
    for count in (1, 3):
        out = program.module()(images[:count])["pascal"]
        torch.testing.assert_close(out, folded(images[:count])["pascal"], atol=1e-5, rtol=1e-5)
