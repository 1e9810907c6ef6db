"""The guide to a head of one's own (docs/guides/domains.md), on the bundled model and dolls."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from hp_sdk.models import find_bundle
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.cli.train import main as hp_train
from hp_trainer.paperdolls import write_dataset

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "domains.md"
QUICK = (
    "train.steps=2",
    "train.samples=1",
    "train.input_hw=[64, 64]",
    "data.workers=0",
    "data.augment.crop_hw=[64, 64]",
)


def test_a_new_head_learns_and_the_bundled_ones_answer_as_before(
    tmp_path: Path, load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
):
    found = re.search(r"```toml\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert found
    assert tomllib.loads(found[1])["train"]["heads_only"]
    monkeypatch.chdir(tmp_path)
    Path("head.toml").write_text(found[1], "utf-8")
    names = [
        "background",
        "head",
        "torso",
        "b",
        "c",
        "d",
        "e",
    ]  # as many as pascal's, which dolls have
    Path("mine.toml").write_text(f"names = {names}\n", "utf-8")
    for split in ("train", "val"):
        root = write_dataset(Path("photos"), count=9, seed=1, size_hw=(96, 64), split=split)
    (root / "labels").mkdir(exist_ok=True)
    for png in (root / "labels_pascal").iterdir():
        (root / "labels" / png.name).write_bytes(png.read_bytes())

    words = ["checkpoint_from_bundle.py", str(find_bundle("cihp")[0]), "--config", "head.toml"]
    words += ["-o", "universal.pt", "--batches", "1", *QUICK]
    monkeypatch.setattr("sys.argv", words)
    load_script("checkpoint_from_bundle").main()
    assert hp_train(["head.toml", *QUICK, "--output", "mine"]) == 0

    before = read_checkpoint(Path("universal.pt")).model
    after = read_checkpoint(Path("mine/last.pt"))
    assert [domain.name for domain in after.domains][-1] == "mine"
    changed = {
        k for k, v in after.model.items() if k not in before or not torch.equal(v, before[k])
    }
    assert changed == {"heads.mine.weight", "heads.mine.bias"}
