"""What a network costs, part by part, without computing anything."""

import json

import pytest

from hp_sdk.errors import ConfigError
from hp_trainer.cli.train import main as hp_train
from hp_trainer.describe import describe
from hp_trainer.models import PRESETS


def test_schnet_l_is_described_as_the_specification_counts_it():
    parts = {part.name: part for part in describe("schnet-l", ["cihp"], (480, 480))}
    assert parts["sam"].parameters == 307_425_280
    assert parts["clip"].parameters == parts["clip"].frozen == 86_192_640
    assert parts["adapter"].parameters == 23_236_800
    assert parts["ftm"].parameters == 6_661_377
    assert parts["srm"].parameters == 1_329_152
    assert parts["decoder"].parameters + parts["heads.cihp"].parameters == 34_363_412
    assert parts["sam"].parameters - parts["sam"].frozen == 787_456  # the patch embedding
    assert sum(part.macs for part in parts.values()) / 1e9 == pytest.approx(774, rel=0.005)
    assert parts["clip"].macs / 1e9 == pytest.approx(92.0, rel=0.005)
    assert not parts["aux.fcn.cihp"].ships


def test_parts_of_sst_and_their_operations_are_those_of_its_specification():
    parts = {part.name: part for part in describe("sst-r50", ["cihp"], (512, 512))}
    assert sum(p.parameters for p in parts.values() if p.ships) == 34_037_060
    for name, billions in (("backbone", 21.4), ("encoder", 25.0), ("decoder", 39.1)):
        assert parts[name].macs / 1e9 == pytest.approx(billions, rel=0.03)
    assert {name for name, part in parts.items() if not part.ships} == {
        "aux.msa.cihp", "aux.mse.cihp",
    }  # fmt: skip


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_is_described(preset: str, capsys: pytest.CaptureFixture[str]):
    assert hp_train(["describe", preset, "--domains", "pascal", "--size", "64x64", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert all(0 <= part["frozen"] <= part["parameters"] for part in parts)
    assert {part["ships"] for part in parts} == {True, False}


def test_the_table_adds_up_what_ships(capsys: pytest.CaptureFixture[str]):
    assert hp_train(["describe", "schnet-tiny", "--size", "64x64"]) == 0
    _, *rows = (line.replace(",", "") for line in capsys.readouterr().out.splitlines())
    counted = [(row.split()[0], int(row[24:].split()[0])) for row in rows]
    total = dict(counted)["ships"]
    assert total == sum(n for name, n in counted[:-2] if not name.startswith("aux."))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"schnet-xl.*schnet-l"):
        describe("schnet-xl", ["cihp"], (64, 64))
