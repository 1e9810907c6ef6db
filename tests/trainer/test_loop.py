"""The loop learns, saves, resumes exactly and starts from other checkpoints."""

import csv
import errno
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from hp_sdk.errors import ConfigError, DataError
from hp_trainer import loop
from hp_trainer.augment import AugmentConfig
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.config import Config, EvalConfig, TrainConfig
from hp_trainer.data import DataConfig, SetConfig
from hp_trainer.loop import train
from hp_trainer.metrics import Scores
from hp_trainer.models.sst import PRESETS
from hp_trainer.optimiser import average, averaged, build_optimiser, learning_rate
from hp_trainer.paperdolls import write_dataset
from hp_trainer.run import start_run


def config(steps: int = 4, **train: object) -> Config:
    return Config(
        domains=("pascal", "atr"),
        preset="sst-tiny",
        model=replace(PRESETS["sst-tiny"], drop_path=0.1),
        aux=AuxConfig(alpha=1.0, beta=0.1, lam=0.1, loss_stride=2),
        data=DataConfig(
            (SetConfig(dolls=8, size_hw=(64, 64)),),
            AugmentConfig(crop_hw=(64, 64), scale=(0.9, 1.1)),
            batch=2,
            workers=0,
        ),
        train=TrainConfig(
            steps=steps,
            **{
                "lr": 2e-3,
                "backbone_lr": 1.0,
                "clip": 5.0,
                "save_every": 2,
                "log_every": 2,
                "input_hw": (64, 64),
                **train,
            },  # type: ignore[arg-type]
        ),
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(path)
    return {**checkpoint.model, **{f"aux.{k}": v for k, v in (checkpoint.aux or {}).items()}}


def logged(folder: Path) -> list[list[str]]:
    return list(csv.reader((folder / "metrics.csv").read_text("utf-8").splitlines()))


def test_a_resumed_run_equals_the_run_that_never_stopped(tmp_path: Path):
    full = config(steps=4, ema=0.9, decay_at=9.0)
    straight = weights(train(full, tmp_path / "straight"))
    half = replace(full, train=replace(full.train, steps=2))
    stopped = train(half, tmp_path / "stopped")
    resumed = weights(train(full, tmp_path / "stopped", resume=stopped))
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_a_run_folder_holds_configuration_metrics_and_checkpoint(tmp_path: Path):
    train(config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text("utf-8"))["train"]["steps"] == 4
    names = {name for _, name, _ in logged(tmp_path)}
    assert {"total", "seg.atr", "aux.pascal", "img.pascal__atr", "step_ms"} <= names
    assert read_checkpoint(tmp_path / "last.pt").train["step"] == 4


def test_a_run_can_start_from_a_checkpoint_with_fewer_domains(tmp_path: Path):
    first = replace(config(steps=1), domains=("pascal",))
    path = train(first, tmp_path / "one")
    second = config(steps=1, init=str(path))
    run = start_run(second, tmp_path / "two", None)
    old = read_checkpoint(path).model
    new = run.model.net.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert "heads.atr.weight" in new


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_heads_can_learn_alone_and_the_others_stay_exactly(tmp_path: Path, ema: float):
    """Batch statistics too, which nobody would miss until the other heads answer otherwise."""
    first = train(replace(config(), preset="sst-compact", model=PRESETS["sst-compact"]), tmp_path)
    dolls = write_dataset(tmp_path / "dolls", count=4, seed=0, size_hw=(64, 64), split="train")
    later = config(ema=ema, init=str(first), heads_only=True)
    labelled = SetConfig(str(dolls), {"lip": "labels_lip"})
    later = replace(
        later,
        domains=("pascal", "lip"),
        preset="sst-compact",
        model=PRESETS["sst-compact"],
        aux=AuxConfig(alpha=1.0, beta=0.0, lam=0.0),
        data=replace(later.data, sets=(labelled,)),
    )
    before, after = weights(first), weights(train(later, tmp_path / "heads"))
    changed = {
        key
        for key, value in after.items()
        if key not in before or not torch.equal(value, before[key])
    }
    assert changed == {"heads.lip.weight", "heads.lip.bias"}
    run = start_run(later, tmp_path / "again", tmp_path / "heads" / "last.pt")
    assert not run.model.net.get_submodule("backbone").training
    assert run.model.net.get_submodule("heads").training


def test_heads_alone_need_something_trained(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"name a checkpoint with train\.init"):
        train(config(heads_only=True), tmp_path)
    with pytest.raises(ConfigError, match=r"train\.init_fitting lets start fresh; leave one out"):
        train(config(heads_only=True, init="last.pt", init_fitting=True), tmp_path)
    with pytest.raises(ConfigError, match=r"aux\.beta is 0\.1, aux\.lam 0\.1; set both to 0"):
        train(config(heads_only=True, init="last.pt"), tmp_path)


def test_starting_from_another_network_is_refused(tmp_path: Path):
    path = train(config(steps=1), tmp_path)
    other = config(steps=1, init=str(path))
    other = replace(other, model=replace(other.model, width=64))
    with pytest.raises(ConfigError, match="another network"):
        start_run(other, tmp_path / "two", None)


def test_averaged_weights_ship_and_raw_ones_go_on(tmp_path: Path):
    path = train(config(steps=3, ema=0.99), tmp_path)
    checkpoint = read_checkpoint(path)
    raw = checkpoint.train["raw"]
    assert not torch.equal(raw["heads.atr.weight"], checkpoint.model["heads.atr.weight"])
    for counted in (name for name in raw if name.endswith("num_batches_tracked")):
        assert torch.equal(raw[counted], checkpoint.model[counted])


def test_the_average_is_the_recurrence_of_weights_and_statistics():
    net = torch.nn.BatchNorm1d(2)
    ema = {key: value.clone() for key, value in averaged(net).items()}
    assert set(ema) == {"weight", "bias", "running_mean", "running_var"}
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.register_buffer("running_mean", torch.ones(2))
    average(ema, net, 0.75)
    assert ema["weight"].tolist() == [1.5, 1.5]
    assert ema["running_mean"].tolist() == [0.25, 0.25]


def test_validation_scores_are_written(tmp_path: Path):
    write_dataset(tmp_path / "val", count=2, seed=3, size_hw=(64, 64), split="val")
    entry = EvalConfig(str(tmp_path / "val"), "atr", "labels_atr")
    train(replace(config(steps=1), validate=(entry,)), tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "validation.jsonl").read_text("utf-8"))
    assert scores["val.atr"]["images"] == 2
    assert 0 <= scores["val.atr"]["miou"] <= 1


def test_every_parameter_is_optimised_once_and_norms_do_not_decay(tmp_path: Path):
    run = start_run(config(), tmp_path, None)
    groups = build_optimiser(run.model, run.config.train).param_groups
    counted = [id(p) for group in groups for p in group["params"]]
    assert sorted(counted) == sorted(id(p) for p in run.model.parameters())
    free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    for name, parameter in run.model.named_parameters():
        if name.endswith(("bias", "x0", "level_embed", "relative_bias")):
            assert id(parameter) in free, name


def test_schedules_warm_up_and_come_down():
    paper = TrainConfig(lr=1e-4, schedule="step", decay_at=125 / 150)
    assert [learning_rate(paper, s, 150) for s in (0, 124, 125, 149)] == pytest.approx(
        [1e-4, 1e-4, 1e-5, 1e-5]
    )
    cosine = TrainConfig(lr=1.0, schedule="cosine", warmup=10)
    assert learning_rate(cosine, 0, 100) == pytest.approx(0.1)
    assert learning_rate(cosine, 9, 100) == pytest.approx(1.0)
    assert learning_rate(cosine, 55, 100) == pytest.approx(0.5)
    assert learning_rate(cosine, 100, 100) == pytest.approx(0.0)
    poly = TrainConfig(lr=1.0, schedule="poly", warmup=10, warmup_ratio=1e-3)
    rates = [learning_rate(poly, step, 110) for step in (0, 5, 10, 60, 110, 120)]
    assert rates == pytest.approx([1e-3, 0.5005, 1.0, 0.5, 0.0, 0.0])
    curved = TrainConfig(lr=1.0, schedule="poly", poly_power=0.9)
    assert learning_rate(curved, 50, 100) == pytest.approx(0.5**0.9)


@pytest.mark.parametrize("key", ["schedule", "optimiser", "amp"])
def test_an_unknown_choice_is_refused(key):
    with pytest.raises(ConfigError, match=f"train.{key} is 'nonsense'"):
        TrainConfig(**{key: "nonsense"})  # type: ignore[arg-type]


def test_training_on_paper_dolls_lowers_the_loss(tmp_path: Path):
    settings = config(steps=30, schedule="cosine", log_every=5)
    train(settings, tmp_path)
    seg = [float(value) for _, name, value in logged(tmp_path) if name == "seg.atr"]
    assert seg[-1] < 0.75 * seg[0]


# ---- what a training user expects --------------------------------------------------------------


def test_a_run_folder_tells_where_the_run_came_from(tmp_path: Path):
    train(config(steps=2), tmp_path)
    told = json.loads((tmp_path / "run.json").read_text("utf-8"))
    assert {"command", "started", "device", "packages", "git"} <= told.keys()
    assert told["packages"]["torch"]


def validated(tmp_path: Path, **train_settings: object) -> Config:
    write_dataset(tmp_path / "val", count=3, seed=3, size_hw=(64, 64), split="val")
    entry = EvalConfig(str(tmp_path / "val"), "atr", "labels_atr")
    return replace(config(**train_settings), validate=(entry,))  # type: ignore[arg-type]


def test_every_validation_leaves_scores_samples_and_curves(tmp_path: Path):
    run = tmp_path / "run"
    train(validated(tmp_path, steps=4, eval_every=2, samples=2), run)
    scores = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in scores] == [2, 4]
    sheets = sorted((run / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["000002.val.atr.png", "000004.val.atr.png"]
    picture: Any = cv2.imread(str(sheets[0]))
    assert picture.shape[0] > 2 * 190
    assert picture.shape[1] > 3 * 190
    curves: Any = cv2.imread(str(run / "curves.png"))
    assert curves.size


def test_the_best_validation_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    heights = iter([0.3, 0.5, 0.4])

    def scored(*_: object, **__: object) -> Scores:
        value = next(heights)
        return Scores(1, value, value, value, value, value, {"background": value})

    monkeypatch.setattr("hp_trainer.loop.evaluate_list", scored)
    run = tmp_path / "run"
    train(validated(tmp_path, steps=6, eval_every=2, samples=0), run)
    best = read_checkpoint(run / "best.pt")
    assert best.train["step"] == 4
    assert best.train["score"] == 0.5
    assert "optimiser" not in best.train
    assert read_checkpoint(run / "last.pt").train["best"] == 0.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_saved_and_goes_on_exactly(tmp_path: Path, monkeypatch, number):
    full = config(steps=4, decay_at=9.0, save_every=100)
    straight = weights(train(full, tmp_path / "straight"))
    step = loop.optimise

    def interrupted(run, batch):
        if run.step == 1:
            signal.raise_signal(number)
        return step(run, batch)

    monkeypatch.setattr(loop, "optimise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(full, tmp_path / "stopped")
    monkeypatch.setattr(loop, "optimise", step)
    saved = tmp_path / "stopped" / "last.pt"
    assert read_checkpoint(saved).train["step"] == 2
    resumed = weights(train(full, tmp_path / "stopped", resume=saved))
    assert all(torch.equal(straight[name], value) for name, value in resumed.items())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_names_itself_and_loses_no_step(tmp_path: Path, monkeypatch, workers):
    write_dataset(tmp_path / "data", count=4, seed=3, size_hw=(64, 64), split="train")
    settings = config(steps=30, save_every=100)
    entry = SetConfig(root=str(tmp_path / "data"), labels={"atr": "labels_atr"})
    data = replace(settings.data, sets=(entry,), workers=workers)
    broken = sorted((tmp_path / "data" / "images").iterdir())[1]
    step = loop.optimise

    def breaking(run, batch):
        broken.write_bytes(b"no picture")
        return step(run, batch)

    monkeypatch.setattr(loop, "optimise", breaking)
    with pytest.raises(DataError) as failure:
        train(replace(settings, data=data), tmp_path / "run")
    assert broken.name in str(failure.value)
    assert "Traceback" not in str(failure.value)
    assert read_checkpoint(tmp_path / "run" / "last.pt").train["step"] < 30


def test_a_full_disk_is_one_clear_error_and_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    path = train(config(steps=2), tmp_path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ConfigError, match=r"No space left.*earlier"):
        train(config(steps=4), tmp_path, resume=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow  # bfloat16 convolutions on the CPU; see run.memory_format
def test_half_precision_learns_and_resumes(tmp_path: Path):
    settings = config(steps=4, amp="bf16", decay_at=9.0)
    straight = weights(train(settings, tmp_path / "straight"))
    half = replace(settings, train=replace(settings.train, steps=2))
    stopped = train(half, tmp_path / "stopped")
    resumed = weights(train(settings, tmp_path / "stopped", resume=stopped))
    assert all(torch.equal(straight[name], value) for name, value in resumed.items())
    assert all(value.isfinite().all() for value in straight.values())


def test_stochastic_gradient_descent_is_a_choice(tmp_path: Path):
    run = start_run(config(optimiser="sgd"), tmp_path, None)
    assert isinstance(run.optimiser, torch.optim.SGD)
    assert run.optimiser.defaults["momentum"] == 0.9


def test_labels_give_the_regions_for_the_first_epochs_only(tmp_path: Path):
    settings = config()
    run = start_run(
        replace(settings, aux=replace(settings.aux, gt_warmup_epochs=2)), tmp_path, None
    )
    loop.read_batches(run)
    assert run.images_per_epoch == 8
    warm = []
    for run.step in range(10):
        warm.append(loop.in_warm_up(run))
    assert warm == [True] * 8 + [False] * 2  # two passes over 8 images in batches of 2
