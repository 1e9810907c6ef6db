"""The mean of several trainings of one network."""

from dataclasses import asdict, replace

import pytest
import torch

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.averaging import average
from hp_trainer.checkpoint import Checkpoint, build_from_checkpoint
from hp_trainer.models.sst import PRESETS, SST, SSTConfig

CONFIG = PRESETS["sst-tiny"]


def trained(seed: int, *names: str, config: SSTConfig = CONFIG) -> Checkpoint:
    torch.manual_seed(seed)
    domains = tuple(load_domain(name) for name in names)
    net = SST(config, domains)
    return Checkpoint(
        "sst", asdict(config), domains, net.state_dict(), {"a": torch.ones(1)}, {}, {"step": 5}
    )


def test_every_tensor_is_the_mean():
    a, b = trained(0, "pascal", "atr"), trained(1, "pascal", "atr")
    found = average([a, b])
    assert found.aux is None
    assert found.train == {}
    assert set(found.model) == set(a.model)
    for name, value in found.model.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (a.model[name] + b.model[name]) / 2)
        assert value.dtype == a.model[name].dtype


def test_the_mean_of_one_network_with_itself_answers_alike():
    a = trained(0, "pascal")
    picture = torch.rand(1, 3, 64, 64)
    answers = [build_from_checkpoint(c)(picture)["pascal"] for c in (a, average([a, a, a]))]
    torch.testing.assert_close(*answers)


def test_a_head_that_only_one_has_is_kept_as_it_is():
    one, both = trained(0, "pascal"), trained(1, "pascal", "atr")
    for order in ([one, both], [both, one]):
        found = average(order)
        assert [d.name for d in found.domains] == ["pascal", "atr"]
        alone = [name for name in both.model if name not in one.model]
        assert alone
        assert all(torch.equal(found.model[name], both.model[name]) for name in alone)


def test_each_of_two_may_have_heads_that_the_other_lacks():
    a, b = trained(0, "pascal", "ccp"), trained(1, "pascal", "atr")
    found = average([a, b])
    assert [d.name for d in found.domains] == ["pascal", "atr", "ccp"]
    assert torch.equal(found.model["heads.ccp.bias"], a.model["heads.ccp.bias"])
    assert torch.equal(found.model["heads.atr.bias"], b.model["heads.atr.bias"])
    build_from_checkpoint(found)


def test_heads_can_come_from_another_training_of_which_nothing_else_is_used():
    a, b = trained(0, "pascal"), trained(1, "pascal")
    more = trained(2, "pascal", "atr")
    found = average([a, b], heads=more)
    assert [d.name for d in found.domains] == ["pascal", "atr"]
    for name, value in average([a, b]).model.items():
        assert torch.equal(found.model[name], value)
    alone = [name for name in more.model if name not in a.model]
    assert alone
    assert all(torch.equal(found.model[name], more.model[name]) for name in alone)


def test_sources_are_not_written_to():
    a, b = trained(0, "pascal"), trained(1, "pascal")
    before = {name: value.clone() for name, value in a.model.items()}
    average([a, b])
    assert all(torch.equal(before[name], a.model[name]) for name in before)


def test_what_cannot_be_averaged_is_refused():
    a = trained(0, "pascal")
    with pytest.raises(ConfigError, match="at least two"):
        average([a])
    with pytest.raises(ConfigError, match="checkpoint 2 of 2 holds another network"):
        average([a, trained(0, "pascal", config=replace(CONFIG, width=64))])
    other = Domain(name="pascal", names=("background", *a.domains[0].names[:0:-1]))
    with pytest.raises(ConfigError, match="checkpoint 2 of 2 divides 'pascal' into other"):
        average([a, replace(a, domains=(other,))])
