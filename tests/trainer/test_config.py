"""Configurations: parsed strictly, overridden by path, wrong ones refused by key."""

from dataclasses import replace
from pathlib import Path

import pytest

from hp_sdk.errors import ConfigError
from hp_trainer.cli.train import shipped_configs
from hp_trainer.config import load_config, parse_config
from hp_trainer.models.schnet.schnet import PRESETS as SCHNET
from hp_trainer.models.sst import SSTConfig


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_every_shipped_configuration_loads(name: str):
    config = load_config(shipped_configs()[name])
    assert config.data.sets
    assert config.train.steps > 0


def test_overrides_replace_values_by_path(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text('domains = ["cihp"]\n[train]\nsteps = 5\n', "utf-8")
    config = load_config(path, ["train.steps=7", "train.amp=bf16", "model.width=64"])
    assert (config.train.steps, config.train.amp, config.model.width) == (7, "bf16", 64)


def test_an_override_names_a_place_in_a_list(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text('domains = ["cihp"]\n[[data.sets]]\nroot = "a"\n[[data.sets]]\nroot = "b"\n')
    config = load_config(path, ["data.sets.1.weight=1.5", "data.sets.0.root=c"])
    assert [(each.root, each.weight) for each in config.data.sets] == [("c", 1.0), ("b", 1.5)]
    for wrong, told in (
        ("data.sets.2.weight=1", "2 is no place in a list of 2"),
        ("data.sets.first.weight=1", "first is no place"),
        ("data.sets.1=b", "names no setting"),
        ("data.sets.1.root.x=b", "root is not a section"),
    ):
        with pytest.raises(ConfigError, match=told):
            load_config(path, [wrong])


def test_a_preset_is_the_base_of_the_model_settings():
    config = parse_config({"domains": ["atr"], "preset": "sst-tiny", "model": {"width": 64}})
    assert isinstance(config.model, SSTConfig)
    assert config.model.backbone == "tiny"
    assert config.model.width == 64


def test_a_preset_decides_the_family_of_the_model_settings():
    prompts = {"prompt": ["a {label}", "one {label}"]}
    model = {"ftm_tokens": 20, "sim_scale": 50, "trainable": ["sam", "clip.conv1"]}
    values = {"domains": ["lip"], "preset": "schnet-b", "model": model, "foundation": prompts}
    config = parse_config(values)
    changed = replace(
        SCHNET["schnet-b"], ftm_tokens=20, sim_scale=50.0, trainable=("sam", "clip.conv1")
    )
    assert config.model == changed
    assert config.foundation.prompts == ("a {label}", "one {label}")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"domains": ["cihp"], "train": {"stepz": 1}}, ["train.stepz", "steps"]),
        ({"domains": ["cihp"], "train": {"steps": "many"}}, ["train.steps", "whole number"]),
        ({"domains": ["cihp"], "train": {"steps": True}}, ["train.steps", "whole number"]),
        ({"domains": ["cihp"], "data": {"augment": {"crop_hw": [1]}}}, ["crop_hw", "2 values"]),
        ({"domains": ["cihp"], "preset": "sst-giant"}, ["sst-giant", "sst-compact"]),
        ({"domains": ["cihp"], "model": {"backbone": "vgg"}}, ["vgg", "resnet50"]),
        ({"domains": ["cihp"], "model": {"encoder_strides": [8]}}, ["encoder_strides"]),
        ({"domains": ["cihp"], "train": 3}, ["train", "table"]),
        ({"domains": ["cihp"], "train": {"resize": "crop"}}, ["train.resize", "shortest-side"]),
        ({"domains": ["cihp"], "foundation": {}}, ["foundation", "schnet", "aux and dedicated"]),
        (
            {"domains": ["cihp"], "preset": "schnet-l", "aux": {"beta": 0.0}},
            ["aux", "'schnet-l'", "schnet and foundation"],
        ),
        (
            {"domains": ["cihp"], "preset": "schnet-b", "schnet": {"miou_loss": "dice"}},
            ["schnet.miou_loss", "lovasz"],
        ),
        ({"domains": ["cihp"], "preset": "schnet-b", "model": {"width": 1}}, ["model.width"]),
        ({}, ["domains"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(values: dict, names: list[str]):
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert all(name in str(caught.value) for name in names)


def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "broken.toml"
    path.write_text("domains = [", "utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(path)


def test_an_override_without_a_value_is_refused(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text('domains = ["cihp"]\n', "utf-8")
    with pytest.raises(ConfigError, match="key=value"):
        load_config(path, ["train.steps"])


def test_a_table_of_numbers_is_read_by_name_and_checked():
    config = parse_config({"domains": ["atr"], "aux": {"domain_weights": {"atr": 2}}})
    assert config.aux.domain_weights == {"atr": 2.0}
    with pytest.raises(ConfigError, match=r"aux.domain_weights.atr is 'much'"):
        parse_config({"domains": ["atr"], "aux": {"domain_weights": {"atr": "much"}}})
