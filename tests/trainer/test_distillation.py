"""A trained network teaches a new one on every head and image; nothing of it is saved."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.augment import AugmentConfig
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.checkpoint import Checkpoint, describe_network, read_checkpoint, write_checkpoint
from hp_trainer.config import Config, TrainConfig, parse_config
from hp_trainer.data import DataConfig, SetConfig
from hp_trainer.distillation import Distillation, DistillationConfig, open_distillation
from hp_trainer.loop import train
from hp_trainer.models import PRESETS
from hp_trainer.models.sst import SST, SSTConfig
from hp_trainer.optimiser import build_optimiser
from hp_trainer.training_model import SSTTraining

TINY: Any = PRESETS["sst-tiny"]
BARE = AuxConfig(alpha=1.0, beta=0.0, lam=0.0, topology="none", loss_stride=4)


def network(*names: str, config: SSTConfig = TINY, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    net: Any = SST(config, [load_domain(name) for name in names]).eval()
    for head in net.heads.values():
        torch.nn.init.normal_(head.weight)
    return net


def saved(net: SST, path: Path) -> str:
    family, config = describe_network(net)
    write_checkpoint(path, Checkpoint(family, config, net.domains, net.state_dict()))
    return str(path)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def test_each_term_is_the_divergence_written_out():
    student, teacher = network("pascal", "atr", seed=1), network("atr", "cihp", seed=2)
    found = Distillation(teacher, temperature=3.0).losses(
        images(), student, student.features(images())[-1]
    )
    assert set(found) == {"distil.atr"}
    p = (teacher(images())["atr"] / 3).softmax(1).detach().numpy()
    q = (student(images())["atr"] / 3).softmax(1).detach().numpy()
    wanted = 9 * (p * np.log(p / q)).sum(1).mean()
    assert found["distil.atr"].item() == pytest.approx(wanted, rel=1e-3)


def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it():
    net = network("atr")
    found = Distillation(network("atr")).losses(images(), net, net.features(images())[-1])
    assert abs(found["distil.atr"].item()) < 1e-6


def test_the_term_enters_the_total_with_its_weight_and_reaches_unlabelled_heads():
    student = network("pascal", "atr", seed=1)
    guide = Distillation(network("pascal", "atr", seed=2), weight=0.25)
    model = SSTTraining(student, BARE, distillation=guide).eval()
    labels = {"pascal": (torch.arange(2), torch.zeros(2, 64, 64, dtype=torch.long))}
    parts = model.losses(images(), labels)
    wanted = parts["seg.pascal"] + 0.25 * (parts["distil.pascal"] + parts["distil.atr"])
    assert torch.allclose(parts["total"], wanted)
    parts["total"].backward()
    assert student.heads["atr"].weight.grad.abs().sum() > 0


def test_the_teacher_is_never_trained():
    model = SSTTraining(network("atr"), BARE, distillation=Distillation(network("atr", seed=2)))
    model.train()
    guide = model.distillation
    assert guide is not None
    assert not guide.teacher.training
    trained = {
        id(p) for g in build_optimiser(model, TrainConfig()).param_groups for p in g["params"]
    }
    assert not trained & {id(p) for p in guide.parameters()}


def test_teacher_and_student_may_differ_in_shape(tmp_path: Path):
    wide = replace(TINY, width=64, decoder_depths=(2, 1, 1))
    path = saved(network("atr", config=wide), tmp_path / "teacher.pt")
    student = network("atr")
    guide = open_distillation(DistillationConfig(path), student)
    assert guide is not None
    assert guide.losses(images(), student, student.features(images())[-1])["distil.atr"] > 0


def test_a_run_learns_from_it_and_keeps_nothing_of_it(tmp_path: Path):
    path = saved(network("pascal", "atr", seed=2), tmp_path / "teacher.pt")
    config = Config(
        domains=("pascal", "atr"),
        preset="sst-tiny",
        model=TINY,
        aux=BARE,
        distillation=DistillationConfig(path, weight=5.0),
        data=DataConfig(
            (SetConfig(dolls=8, size_hw=(64, 64)),), AugmentConfig(crop_hw=(64, 64)), 2, workers=0
        ),
        train=TrainConfig(steps=40, lr=5e-3, clip=5.0, log_every=10, save_every=20),
    )
    last = train(config, tmp_path / "run")
    rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().split()]
    told = [float(value) for _, name, value in rows if name == "distil.atr"]
    assert told[-1] < 0.7 * told[0]
    checkpoint = read_checkpoint(last)
    assert {key.partition(".")[0] for key in checkpoint.model} == {
        "backbone", "encoder", "decoder", "heads",
    }  # fmt: skip
    again = train(
        replace(config, train=replace(config.train, steps=42)), tmp_path / "run", resume=last
    )
    assert read_checkpoint(again).train["step"] == 42


@pytest.mark.parametrize(
    ("teacher", "words"),
    [(("lip",), "they must share a domain"), (("pascal", "lip"), "answers pascal, lip")],
)
def test_a_teacher_of_other_domains_is_refused(tmp_path: Path, teacher, words: str):
    path = saved(network(*teacher), tmp_path / "teacher.pt")
    with pytest.raises(ConfigError, match=words):
        open_distillation(DistillationConfig(path), network("atr"))


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path):
    own = replace(load_domain("pascal"), name="atr")
    path = saved(SST(TINY, [own]), tmp_path / "teacher.pt")
    with pytest.raises(ConfigError, match="other classes in 'atr'"):
        open_distillation(DistillationConfig(path), network("atr"))


@pytest.mark.parametrize("key", ["weight", "temperature"])
def test_settings_must_be_positive(key: str):
    with pytest.raises(ConfigError, match=f"distillation.{key} is 0"):
        parse_config({"domains": ["atr"], "preset": "sst-tiny", "distillation": {key: 0.0}})


def test_schnet_has_no_such_section():
    with pytest.raises(ConfigError, match="distillation is a section for sst"):
        parse_config({"domains": ["atr"], "preset": "schnet-tiny", "distillation": {"weight": 1.0}})
