"""Several processes train one model: two on the CPU, talking through gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.distributed import ALONE, World, any_in_world, mean_over_world, sum_over_world
from hp_trainer.paperdolls import write_dataset
from hp_trainer.sampler import DomainMixSampler, ShareOfBatches

CONFIG = """
domains = ["pascal", "atr"]
preset = "sst-tiny"
[aux]
alpha = 1.0
beta = 0.1
lam = 0.1
loss_stride = 2
[data]
batch = 4
workers = 0
[[data.sets]]
dolls = 8
size_hw = [64, 64]
[data.augment]
crop_hw = [64, 64]
[train]
steps = 4
lr = 2e-3
backbone_lr = 1.0
clip = 5.0
decay_at = 9.0
log_every = 1
samples = 1
threads = 1
device = "cpu"
input_hw = [64, 64]
[[validate]]
root = "ROOT"
domain = "atr"
labels = "labels_atr"
"""

CHILD = """
import sys, torch
from hp_trainer.cli.train import main
from hp_trainer import loop
kept = loop.start_run
def start(*a, **k):
    start.run = kept(*a, **k)
    return start.run
loop.start_run = start
code = main(sys.argv[2:])
torch.save(dict(start.run.model.state_dict()), f"{sys.argv[1]}.{start.run.world.rank}")
sys.exit(code)
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train_together(folder: Path, *arguments: str, size: int = 2) -> list[dict[str, torch.Tensor]]:
    """Run hp-train in `size` processes, as torchrun would; returns each one's final state."""
    port, children = str(free_port()), []
    for rank in range(size):
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment = {**os.environ, **world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", CHILD, str(folder / "state"), *arguments]
        children.append(
            subprocess.Popen(
                command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
    told = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0] * size, told
    return [torch.load(f"{folder / 'state'}.{rank}") for rank in range(size)]


@pytest.fixture
def configured(tmp_path: Path) -> str:
    write_dataset(tmp_path / "val", count=3, seed=3, size_hw=(64, 64), split="val")
    path = tmp_path / "pair.toml"
    path.write_text(CONFIG.replace("ROOT", (tmp_path / "val").as_posix()), "utf-8")
    return str(path)


@pytest.mark.slow  # four processes that import torch: about 15 seconds
def test_two_processes_keep_the_same_weights_and_score_all_images_once(tmp_path, configured):
    run = tmp_path / "run"
    first, second = train_together(tmp_path, configured, "--output", str(run))
    trained = [
        name for name in first if not name.endswith(("_mean", "_var", "num_batches_tracked"))
    ]
    for name in trained:
        assert torch.equal(first[name], second[name]), name
    scores = json.loads((run / "validation.jsonl").read_text("utf-8"))
    assert scores["val.atr"]["images"] == 3
    assert read_checkpoint(run / "last.pt").train["step"] == 4
    rows = (run / "metrics.csv").read_text("utf-8").splitlines()
    assert sum(",total," in row for row in rows) == 4  # only one process writes the log

    # and goes on from there
    train_together(tmp_path, configured, "train.steps=5", "--resume", "auto", "--output", str(run))
    assert read_checkpoint(run / "last.pt").train["step"] == 5


def test_the_module_that_torchrun_is_told_to_run_is_the_command():
    told = subprocess.run(
        [sys.executable, "-m", "hp_trainer.cli.train", "no-such.toml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert "no-such.toml" in told.stderr


def test_the_shares_of_all_processes_make_up_the_batch():
    def batches():
        return DomainMixSampler([5, 9], [1, 1], batch=4, seed=1, start=3)

    whole = iter(batches())
    first, second = (iter(ShareOfBatches(batches(), rank, 2)) for rank in range(2))
    for _ in range(6):
        assert sorted(next(whole)) == sorted(next(first) + next(second))


def test_a_batch_that_cannot_be_shared_is_refused():
    World(0, 2).check_batch(4)
    with pytest.raises(ConfigError, match="multiple of 3"):
        World(0, 3).check_batch(4)


def test_alone_nothing_is_reduced():
    assert mean_over_world({"total": torch.tensor(2.0)}, ALONE) == {"total": 2.0}
    assert sum_over_world(np.array([3]), ALONE).tolist() == [3]
    assert not any_in_world(False, ALONE)
    assert ALONE.leads
