"""Every configuration in the package trains: a few steps at toy size, in the order of the paper."""

import os
from pathlib import Path
from unittest.mock import patch

import pytest

from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.cli.train import main as hp_train
from hp_trainer.cli.train import shipped_configs
from hp_trainer.paperdolls import write_dataset

FOLDERS = {"pascal": "pascal", "ATR": "atr", "CIHP": "cihp"}
TOY = (
    "preset=sst-tiny",
    "train.steps=2",
    "train.samples=1",
    "train.input_hw=[64, 64]",
    "train.amp=off",
    "data.workers=0",
    "data.augment.crop_hw=[64, 64]",
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
    }.get(name, [])
    with patch.dict(os.environ, HP_DATA=str(data)):
        assert hp_train([name, *TOY, *more, "--output", str(tmp_path)]) == 0
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    kinds = {key.partition(".")[0] for key in checkpoint.aux or {}}
    bare = {"sst-single", "sst-multi", "sst-finetune", "bundled", "bundled-low"}
    assert kinds == (set() if name in bare else FULL_AUX)
    if name != "paperdolls":  # which validates on nothing
        assert (tmp_path / "best.pt").exists()


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
