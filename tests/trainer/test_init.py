"""`train.init_fitting`: weights from a network of another shape, as far as they fit."""

from dataclasses import replace

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import Checkpoint
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.new_model import load_fitting, load_weights
from hp_trainer.training_model import SSTTraining

TINY = PRESETS["sst-tiny"]
PASCAL = load_domain("pascal")


def model(config=TINY, seed=0):
    torch.manual_seed(seed)
    return SSTTraining(SST(config, [PASCAL]), beta=0.0, lam=0.0)


def checkpoint_of(other: SSTTraining) -> Checkpoint:
    return Checkpoint("sst", {}, (PASCAL,), other.net.state_dict())


def test_what_fits_is_taken_and_the_rest_stays_as_it_was():
    wide, other = replace(TINY, decoder_kernels=(1, 1, 3)), model(seed=1)
    own = model(wide)
    before = {key: value.clone() for key, value in own.net.state_dict().items()}
    note = load_fitting(own, checkpoint_of(other))
    changed = "decoder.stages.2.fuse.0.weight"
    for key, value in own.net.state_dict().items():
        wanted = before[key] if key == changed else other.net.state_dict()[key]
        assert torch.equal(value, wanted), key
    assert note.endswith(f"1 start fresh, first {changed}")


def test_the_same_checkpoint_is_refused_where_everything_must_fit():
    own = model(replace(TINY, decoder_kernels=(1, 1, 3)))
    with pytest.raises(ConfigError, match="1 of another shape"):
        load_weights(own, checkpoint_of(model(seed=1)))


def test_a_checkpoint_of_which_nothing_fits_is_refused():
    strange = Checkpoint("sst", {}, (PASCAL,), {"x": torch.zeros(1)})
    with pytest.raises(ConfigError, match="no tensor fits"):
        load_fitting(model(), strange)


@torch.inference_mode()
def test_a_deeper_network_begins_with_what_the_shallower_one_knew():
    shallow = model(PRESETS["sst-compact"], seed=1)
    deep = model(replace(PRESETS["sst-compact"], backbone="compact-deep"))
    load_fitting(deep, checkpoint_of(shallow))
    image = torch.randn(1, 3, 64, 64)
    blocks = [
        len(list(each.net.backbone.get_submodule("layer3").children())) for each in (deep, shallow)
    ]
    assert blocks == [4, 2]
    given, expected = (each.net.eval()(image)["pascal"] for each in (deep, shallow))
    assert torch.allclose(given, expected, atol=1e-6)
