"""T-29: the network that ships is an attribute of the training model, and needs nothing else."""

import io
from typing import Any

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, HpError
from hp_trainer.models.sst import SST, SSTConfig
from hp_trainer.training_model import SSTTraining

TINY = SSTConfig(
    backbone="tiny", backbone_norm="train", width=32, encoder_layers=1, encoder_heads=4,
    encoder_ffn=64, decoder_depths=(1, 1, 1), decoder_heads=4, decoder_window=4,
)  # fmt: skip


def training(*names) -> Any:
    torch.manual_seed(0)
    return SSTTraining(SST(TINY, [load_domain(name) for name in names])).eval()


def size_of(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer().nbytes


@torch.no_grad()
def test_stripping_changes_no_logit():
    model = training("pascal", "atr").train()
    indices, maps = torch.arange(4), torch.zeros(4, 64, 64, dtype=torch.long)
    images = torch.randn(4, 3, 64, 64)  # they move the running statistics
    model.losses(images, {"pascal": (indices[:2], maps[:2]), "atr": (indices[2:], maps[2:])})
    model.eval()
    bare = SST(TINY, model.net.domains)
    bare.load_state_dict(model.net.state_dict())
    bare.eval()
    image = torch.randn(2, 3, 64, 96)
    for name in ("pascal", "atr"):
        assert torch.equal(bare(image, heads=[name])[name], model.net(image)[name])


def test_the_network_that_ships_holds_no_auxiliary_tensor():
    model = training("pascal", "atr")
    shipped, full = model.net.state_dict(), model.state_dict()
    assert {key.partition(".")[0] for key in shipped} == {"backbone", "encoder", "decoder", "heads"}
    assert {key.partition(".")[0] for key in full} == {"net", "aux"}
    assert {key.split(".")[1] for key in full if key.startswith("aux")} == {"msa", "mse", "mst"}
    assert not any("m_intra" in key or "m_static" in key for key in full)
    assert "heads.pascal.weight" in shipped
    assert "aux.msa.pascal.w_s.0.weight" in full
    assert "aux.mse.atr.x0" in full
    a, b = model.pairs[0]
    assert any(key.startswith(f"aux.mst.{a}__{b}.") for key in full)


def test_a_stripped_file_is_smaller_by_the_auxiliary_bytes():
    model = training("pascal", "atr")
    aux_bytes = sum(t.numel() * t.element_size() for t in model.aux.state_dict().values())
    assert size_of(model.state_dict()) - size_of(model.net.state_dict()) >= aux_bytes


@torch.no_grad()
def test_the_network_runs_without_its_auxiliary_modules():
    model = training("pascal", "atr")
    image = torch.randn(1, 3, 64, 64)
    before = model.net(image)
    del model.aux
    assert all(torch.equal(before[name], model.net(image)[name]) for name in before)


def test_an_unknown_head_is_refused_by_name():
    with pytest.raises(HpError, match="lip"):
        training("pascal").net(torch.randn(1, 3, 64, 64), heads=["lip"])


@pytest.mark.parametrize("size", [(64, 65), (50, 64)])
def test_a_size_that_is_no_multiple_of_32_is_refused_with_the_nearest_legal_one(size):
    with pytest.raises(ConfigError, match="64"):
        training("pascal").net(torch.randn(1, 3, *size))


@torch.no_grad()
def test_each_image_of_a_batch_is_parsed_alone():
    net = training("pascal", "atr").net
    images = torch.randn(3, 3, 64, 64)
    together = net(images)
    alone = [net(image[None]) for image in images]
    for name, logits in together.items():
        torch.testing.assert_close(
            logits, torch.cat([out[name] for out in alone]), atol=1e-4, rtol=1e-4
        )
        order = torch.tensor([2, 0, 1])
        torch.testing.assert_close(net(images[order])[name], logits[order], atol=1e-4, rtol=1e-4)
