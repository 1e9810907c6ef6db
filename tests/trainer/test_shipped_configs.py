"""Every configuration in the package trains: a few steps at toy size, in the order of the paper."""

import json
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.cli.train import main as hp_train
from hp_trainer.cli.train import shipped_configs
from hp_trainer.config import load_config
from hp_trainer.limbs import limb_sides
from hp_trainer.models import PRESETS
from hp_trainer.optimiser import learning_rate
from hp_trainer.paperdolls import write_dataset
from hp_trainer.schnet_training import SCHNetTrainConfig

FOLDERS = {"pascal": "pascal", "ATR": "atr", "CIHP": "cihp", "LIP": "lip"}
TOY = (
    "preset=sst-tiny",
    "train.steps=2",
    "train.samples=1",
    "train.input_hw=[64, 64]",
    "train.amp=off",
    "data.workers=0",
    "data.augment.crop_hw=[64, 64]",
)
TOY_SCHNET = (
    "preset=schnet-tiny",
    "foundation.sam=",
    "foundation.clip=",
    "foundation.merges=",
    "schnet.random_foundation=true",
    "data.batch=4",
)
FULL_AUX = {"msa", "mse", "mst"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny sets where the shipped configurations look for the real ones."""
    root = tmp_path_factory.mktemp("data")
    for folder in (*FOLDERS, "pascal_person_part", "ccp"):
        for seed, split in enumerate(("train", "val")):
            write_dataset(root / folder, count=3, seed=seed, size_hw=(64, 64), split=split)
    for folder, domain in {**FOLDERS, "pascal_person_part": "pascal", "ccp": "ccp"}.items():
        for label in (root / folder / f"labels_{domain}").iterdir():
            (root / folder / "labels" / label.name).write_bytes(label.read_bytes())
        for split in ("sided", "crossed"):
            list_ = root / folder / "train.txt"
            (root / folder / f"{split}.txt").write_bytes(list_.read_bytes())
    return root


@pytest.fixture(scope="module")
def source(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 1: universal training on two domains."""
    output = tmp_path_factory.mktemp("source")
    sets = f"data.sets=[{_set(data, 'pascal')}, {_set(data, 'ATR')}]"
    two = [sets, "validate=[]", 'domains=["pascal","atr"]']
    with patch.dict(os.environ, HP_DATA=str(data)):
        assert hp_train(["sst-universal", *TOY, *two, "--output", str(output)]) == 0
    return output / "last.pt"


def _set(data: Path, folder: str) -> str:
    return f'{{root = "{(data / folder).as_posix()}", labels = {{{FOLDERS[folder]} = "labels"}}}}'


@pytest.mark.parametrize("name", sorted(shipped_configs()))
def test_it_trains_validates_and_saves(name: str, data: Path, source: Path, tmp_path: Path):
    more = {
        "sst-dedicated": [f"dedicated.teacher={source}"],
        "sst-finetune": [f"train.init={source}"],
        "bundled-lean": [f"train.init={source}"],
        "bundled-deep": [f"train.init={source}"],
        "bundled-sides": [f"train.init={source}"],
        "bundled-heads": [f"train.init={source}", "model.backbone=tiny"],
    }.get(name, TOY_SCHNET if name.startswith("schnet") else [])
    skin = data / "pascal_person_part" / "labels_ccp"
    folders = {"HP_DATA": str(data), "HP_SKIN": str(skin), "HP_SIDES": str(data)}
    with patch.dict(os.environ, folders):
        assert hp_train([name, *TOY, *more, "--output", str(tmp_path)]) == 0
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    kinds = {key.partition(".")[0] for key in checkpoint.aux or {}}
    bare = {"sst-single", "sst-multi", "sst-finetune"}
    full = {"fcn"} if name.startswith("schnet") else FULL_AUX
    assert kinds == (set() if name in bare or name.startswith("bundled") else full)
    if name not in ("paperdolls", "schnet-small"):  # which validate on nothing
        assert (tmp_path / "best.pt").exists()


def test_sides_of_limbs_are_one_more_head(data: Path, tmp_path: Path):
    """As in scripts/train_default.sh: the domain is a file that lies with the labels."""
    sides = limb_sides()
    (data / f"{sides.name}.json").write_text(json.dumps(sides.to_dict()))
    labels = data / "pascal_person_part" / f"labels_{sides.name}"
    labels.mkdir()
    for old in (data / "pascal_person_part" / "labels").iterdir():
        (labels / old.name).write_bytes(old.read_bytes())
    more = [
        f'domains=["pascal","atr","cihp","$HP_SIDES/{sides.name}.json"]',
        f'data.sets.0.labels={{pascal="labels",{sides.name}="{labels.name}"}}',
    ]
    with patch.dict(os.environ, HP_DATA=str(data), HP_SIDES=str(data)):
        assert hp_train(["bundled-sides", *TOY, *more, "--output", str(tmp_path)]) == 0
    assert sides in read_checkpoint(tmp_path / "last.pt").domains


def test_the_chain_has_one_pair_less_than_all_pairs_of_three_domains(data: Path, tmp_path: Path):
    pairs = {}
    for name in ("sst-universal", "sst-progressive"):
        with patch.dict(os.environ, HP_DATA=str(data)):
            assert hp_train([name, *TOY, "validate=[]", "--output", str(tmp_path / name)]) == 0
        aux = read_checkpoint(tmp_path / name / "last.pt").aux or {}
        pairs[name] = {key.split(".")[1] for key in aux if key.startswith("mst.")}
    assert pairs["sst-universal"] == {"pascal__atr", "pascal__cihp", "atr__cihp"}
    assert pairs["sst-progressive"] == {"pascal__atr", "atr__cihp"}


def test_dedicated_training_ships_one_head_and_no_teacher(data: Path, source: Path, tmp_path: Path):
    settings = [f"dedicated.teacher={source}", "validate=[]"]
    with patch.dict(os.environ, HP_DATA=str(data)):
        assert hp_train(["sst-dedicated", *TOY, *settings, "--output", str(tmp_path)]) == 0
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    assert {key for key in checkpoint.model if key.startswith("heads.")} == {
        "heads.cihp.weight", "heads.cihp.bias",
    }  # fmt: skip
    assert not any("teacher" in key for key in (*checkpoint.model, *(checkpoint.aux or {})))


def test_a_share_of_the_data_is_chosen_by_the_seed(data: Path, tmp_path: Path):
    entry = _set(data, "CIHP").removesuffix("}") + ", fraction = 0.5}"
    with patch.dict(os.environ, HP_DATA=str(data)):
        code = hp_train(
            ["sst-single", *TOY, f"data.sets=[{entry}]", "validate=[]", "--output", str(tmp_path)]
        )
    assert code == 0


@pytest.mark.parametrize(
    ("name", "domain", "steps"),
    [
        ("schnet_lip", "lip", 60_000),
        ("schnet_pascal", "pascal", 30_000),
        ("schnet_cihp", "cihp", 80_000),
    ],
)
def test_the_configurations_of_schnet_are_the_papers_settings(name: str, domain: str, steps: int):
    config = load_config(shipped_configs()[name])
    settings, augment = config.train, config.data.augment
    assert (config.domains, config.preset) == ((domain,), "schnet-l")
    assert config.model == PRESETS["schnet-l"]
    assert config.schnet == SCHNetTrainConfig()
    assert (settings.steps, settings.lr, settings.warmup) == (steps, 6e-4, 1500)
    assert (settings.optimiser, settings.weight_decay, settings.clip) == ("adamw", 0.05, 0)
    assert config.data.batch == 16
    assert (augment.crop_hw, augment.scale, augment.flip) == ((480, 480), (0.5, 2.0), 0.5)
    assert augment.photometric
    assert (augment.keep_ratio, settings.input_hw) == (True, (480, 480))
    rates = [learning_rate(settings, step, steps) for step in (0, 750, 1500, steps)]
    assert rates == pytest.approx([6e-9, 3e-4, 6e-4, 0], rel=1e-4)
