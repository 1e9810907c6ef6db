"""SCHNet as it trains: losses, what is frozen, what ships, how a run starts and goes on."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.augment import AugmentConfig
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from hp_trainer.config import Config, EvalConfig, TrainConfig
from hp_trainer.data import DataConfig, SetConfig
from hp_trainer.evaluate import open_predictor
from hp_trainer.foundation_config import FoundationConfig
from hp_trainer.loop import train
from hp_trainer.losses import cross_entropy, lovasz_softmax, soft_iou
from hp_trainer.models import PRESETS, family_of
from hp_trainer.models.schnet.schnet import SCHNet
from hp_trainer.new_model import build_model
from hp_trainer.optimiser import average, averaged, build_optimiser
from hp_trainer.paperdolls import paper_doll, write_dataset
from hp_trainer.run import start_run
from hp_trainer.schnet_training import SCHNetTrainConfig, SCHNetTraining

DOMAINS = ("pascal", "atr")


def training(tiny: Any, perturb: Any, *names: str, **options: Any) -> Any:
    return SCHNetTraining(perturb(tiny(*names), 0.02), SCHNetTrainConfig(**options)).eval()


def batch() -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Four images of 64x64, two per domain, the lower edge unlabelled."""
    g = torch.Generator().manual_seed(3)
    labels = {}
    for i, name in enumerate(DOMAINS):
        maps = torch.randint(load_domain(name).num_classes, (2, 64, 64), generator=g)
        maps[:, 60:] = 255
        labels[name] = (torch.tensor([i, i + 2]), maps)
    return torch.randn(4, 3, 64, 64, generator=g), labels


def up(logits: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(logits, size=(64, 64), mode="bilinear")


def test_the_loss_is_cross_entropy_plus_lovasz_plus_four_tenths_of_the_fcn_heads(tiny, perturb):
    model = training(tiny, perturb, *DOMAINS)
    images, labels = batch()
    with torch.no_grad():
        losses = model.losses(images, labels)
        expected, coarse = 0.0, model.net.maps(images)[2]
        logits = model.net(images)
        for name, (index, maps) in labels.items():
            own = up(logits[name][index])
            helped = up(model.aux.fcn[name](coarse[index]))
            expected += cross_entropy(own, maps) + lovasz_softmax(own, maps)
            expected += 0.4 * cross_entropy(helped, maps)
    torch.testing.assert_close(losses["total"], torch.as_tensor(expected), atol=1e-4, rtol=1e-4)
    kinds = ("seg", "miou", "aux")
    assert set(losses) == {"total", *(f"{kind}.{name}" for kind in kinds for name in DOMAINS)}


def test_each_part_of_the_loss_has_its_weight_and_weight_zero_builds_nothing(tiny, perturb):
    images, labels = batch()
    options = {"cross_entropy": 0.5, "miou": 0.5, "miou_loss": "soft-iou", "fcn": 0.0}
    model = training(tiny, perturb, *DOMAINS, **options)
    with torch.no_grad():
        losses = model.losses(images, labels)
    assert model.aux.state_dict() == {}
    assert not [name for name in losses if name.startswith("aux.")]
    parts = [value for name, value in losses.items() if name != "total"]
    torch.testing.assert_close(losses["total"], 0.5 * torch.stack(parts).sum())


def test_a_domain_that_the_batch_does_not_label_costs_nothing(tiny, perturb):
    images, labels = batch()
    with torch.no_grad():
        losses = training(tiny, perturb, *DOMAINS).losses(images, {"atr": labels["atr"]})
    assert set(losses) == {"total", "seg.atr", "miou.atr", "aux.atr"}


def test_soft_iou_is_nothing_for_a_sure_prediction_and_counts_by_hand():
    labels = torch.tensor([[[0, 0, 1, 255]]])
    sure = 100 * functional.one_hot(labels % 255, 3).permute(0, 3, 1, 2).float()
    assert soft_iou(sure, labels).item() == pytest.approx(0, abs=1e-6)
    # thirds everywhere: class 0 has 2 of 3 pixels, I = 2/3, U = 2 + 1 - 2/3; class 1: 1/3, 5/3
    even = torch.zeros(1, 3, 1, 4)
    assert soft_iou(even, labels).item() == pytest.approx(1 - ((2 / 7) + (1 / 5)) / 2, abs=1e-6)
    assert soft_iou(even, torch.full_like(labels, 255)).item() == 0


def test_one_step_moves_what_learns_and_nothing_that_is_frozen(tiny, perturb):
    model = training(tiny, perturb, *DOMAINS).train()
    optimiser = build_optimiser(model, TrainConfig(lr=1e-2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels = batch()
    model(images, labels, warm_up=False)["total"].backward()
    optimiser.step()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert any(name.startswith("net.clip.") for name in frozen)
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (name not in frozen), name
        assert (parameter.grad is None) == (name in frozen), name
    assert not any(module.training for module in model.net.sam.modules())


def test_the_optimiser_holds_nothing_frozen_and_decays_no_tokens_norms_or_positions(tiny):
    net = tiny(trainable=("sam", "clip.positional_embedding"))
    model = SCHNetTraining(net)
    groups = build_optimiser(model, TrainConfig()).param_groups
    held = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in held) == parameter.requires_grad, name
        if parameter.requires_grad:
            last = name.rpartition(".")[2]
            stands_for_itself = last in (
                "tokens", "pos_embed", "positional_embedding", "rel_pos_h", "rel_pos_w",
                "level_embed", "rho", "gamma", "bias",
            )  # fmt: skip
            free = stands_for_itself or parameter.ndim == 1
            assert (held[id(parameter)] == 0) == free, name
    assert {g["factor"] for g in groups} == {1.0}


def test_the_average_leaves_frozen_weights_out(tiny):
    net = tiny()
    names = set(averaged(net))
    assert not {n for n in names if n.startswith("clip.")}
    assert {n for n in names if n.startswith("sam.")} == {
        "sam.patch_embed.proj.weight", "sam.patch_embed.proj.bias",
    }  # fmt: skip
    assert {"ftm.tokens", "adapter.norms.0.running_mean"} <= names
    ema = {name: torch.zeros_like(value) for name, value in averaged(net).items()}
    average(ema, net, 0.75)
    torch.testing.assert_close(ema["ftm.tokens"], 0.25 * net.ftm.tokens.detach())


# ---- runs --------------------------------------------------------------------------------------


def config(steps: int = 2, **settings: Any) -> Config:
    return Config(
        domains=("pascal",),
        preset="schnet-tiny",
        model=PRESETS["schnet-tiny"],
        schnet=SCHNetTrainConfig(random_foundation=True, fcn_width=16),
        data=DataConfig(
            (SetConfig(dolls=8, size_hw=(64, 64)),),
            AugmentConfig(crop_hw=(64, 64), scale=(0.9, 1.1), photometric=True),
            batch=2,
            workers=0,
        ),
        train=TrainConfig(
            **{
                "steps": steps, "lr": 2e-3, "schedule": "poly", "warmup": 1, "clip": 0.0,
                "ema": 0.9, "save_every": 2, "log_every": 1, "input_hw": (64, 64), **settings,
            }  # type: ignore[arg-type]
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps with a validation."""
    root = tmp_path_factory.mktemp("schnet")
    write_dataset(root / "dolls", count=2, seed=5, size_hw=(64, 64), split="val")
    entry = EvalConfig(str(root / "dolls"), "pascal", "labels_pascal")
    train(replace(config(4), validate=(entry,)), root / "run")
    return root / "run"


def test_the_loop_trains_validates_and_saves(run: Path):
    names = {name for _, name, _ in csv.reader((run / "metrics.csv").read_text().splitlines())}
    assert {"total", "seg.pascal", "miou.pascal", "aux.pascal", "lr"} <= names
    assert (run / "validation.jsonl").stat().st_size
    assert (run / "best.pt").exists()


def test_the_checkpoint_says_what_it_holds_and_keeps_the_fcn_head_apart(run: Path):
    checkpoint = read_checkpoint(run / "last.pt")
    assert checkpoint.family == "schnet"
    assert {key.partition(".")[0] for key in checkpoint.model} == {
        "sam", "clip", "text", "srm", "ftm", "adapter", "decoder", "heads",
    }  # fmt: skip
    assert {key.split(".")[0] for key in checkpoint.aux or {}} == {"fcn"}
    net = build_from_checkpoint(checkpoint)
    assert isinstance(net, SCHNet)
    assert net.config == PRESETS["schnet-tiny"]


def test_the_optimisers_state_is_that_of_what_learns(run: Path):
    checkpoint = read_checkpoint(run / "last.pt")
    model = SCHNetTraining(
        SCHNet(config().model, [load_domain("pascal")]),  # type: ignore[arg-type]
        config().schnet,
    )
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = checkpoint.train["optimiser"]["state"].values()
    assert sum(entry["exp_avg"].numel() for entry in state) == learns


def test_a_resumed_run_equals_the_run_that_never_stopped(run: Path, tmp_path: Path):
    stopped = train(config(2, warmup=0, schedule="step"), tmp_path)
    straight = train(config(3, warmup=0, schedule="step"), tmp_path / "straight")
    resumed = train(config(3, warmup=0, schedule="step"), tmp_path, resume=stopped)
    one, other = (read_checkpoint(path) for path in (straight, resumed))
    assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
    assert all(torch.equal((one.aux or {})[k], v) for k, v in (other.aux or {}).items())


def test_a_checkpoint_predicts_with_the_normalisation_it_names(run: Path):
    photo = paper_doll(np.random.default_rng(0), (80, 60)).image
    with open_predictor(str(run / "last.pt"), "pascal") as predict:
        labels = predict(photo)
        assert predict.protocol["family"] == "schnet"
    assert labels.shape == (80, 60)
    assert labels.max() < 7
    described = read_checkpoint(run / "last.pt").input
    assert described["mean"] == [123.675, 116.28, 103.53]
    assert described["std"] == [58.395, 57.12, 57.375]
    assert described["size_hw"] == [64, 64]


def test_a_photo_is_parsed_at_full_size_where_the_policy_says_so(run: Path, tmp_path: Path):
    checkpoint = read_checkpoint(run / "last.pt")
    described = {**checkpoint.input, "resize": "shortest-side"}
    write_checkpoint(tmp_path / "wide.pt", replace(checkpoint, input=described))
    photo = paper_doll(np.random.default_rng(0), (64, 150)).image
    with open_predictor(str(tmp_path / "wide.pt"), "pascal") as predict:
        assert predict(photo).shape == (64, 150)
        assert predict.protocol["resize"] == "shortest-side"


def test_a_new_run_without_weights_must_be_asked_for(tmp_path: Path):
    unsaid = replace(config(), schnet=SCHNetTrainConfig())
    with pytest.raises(ConfigError, match=r"foundation\.sam and .*random_foundation = true"):
        start_run(unsaid, tmp_path, None)


def test_what_sst_alone_can_do_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"train\.heads_only is for sst"):
        start_run(config(heads_only=True), tmp_path, None)


def test_a_new_run_starts_from_the_published_weights_it_names(tiny, perturb, tmp_path, monkeypatch):
    published = perturb(tiny())
    for name, prefix in (("sam", "image_encoder"), ("clip", "visual")):
        state = getattr(published, name).state_dict()
        torch.save({f"{prefix}.{k}": v for k, v in state.items()}, tmp_path / f"{name}.pth")
    monkeypatch.setenv("HP_WEIGHTS", str(tmp_path))
    named = FoundationConfig(sam="$HP_WEIGHTS/sam.pth", clip="$HP_WEIGHTS/clip.pth")
    settings = replace(config(), schnet=SCHNetTrainConfig(), foundation=named)
    started: Any = start_run(settings, tmp_path / "run", None)
    for name in ("sam", "clip"):
        found = getattr(started.model.net, name).state_dict()
        for key, value in getattr(published, name).state_dict().items():
            assert torch.equal(found[key], value), key
    assert "sam.pth" in (tmp_path / "run" / "pretrained.txt").read_text("utf-8")


def test_a_resumed_run_asks_for_no_published_weights(run: Path, tmp_path: Path):
    unsaid = replace(config(), schnet=SCHNetTrainConfig(fcn_width=16))
    assert start_run(unsaid, tmp_path, run / "last.pt").step == 4


def test_a_run_can_start_from_a_checkpoint_and_add_a_domain(run: Path):
    unsaid = replace(config(init=str(run / "last.pt")), schnet=SCHNetTrainConfig(fcn_width=16))
    two = replace(unsaid, domains=("pascal", "cihp"))
    model: Any
    model, _ = build_model(two, tuple(load_domain(name) for name in two.domains))
    old = read_checkpoint(run / "last.pt")
    new = model.net.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.model.items())
    assert {"heads.cihp.weight", "text.cihp", "srm.0.gate.cihp.weight"} <= new.keys()
    kept = model.aux.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in (old.aux or {}).items())


def test_a_network_without_text_features_is_refused_before_the_first_step():
    wordless = replace(PRESETS["schnet-tiny"], text_features="required")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no text features"):
        build_model(replace(config(), model=wordless), (load_domain("pascal"),))


def test_weights_of_the_other_family_are_refused(run: Path):
    with pytest.raises(ConfigError, match=r"foundation\.sam"):
        build_model(config(pretrained="resnet50.pth"), (load_domain("pascal"),))
    foreign = replace(config(init=str(run / "last.pt")), model=PRESETS["sst-tiny"])
    with pytest.raises(ConfigError, match="another network"):
        build_model(foreign, (load_domain("pascal"),))


def test_every_preset_knows_its_family():
    families = {name: family_of(preset) for name, preset in PRESETS.items()}
    assert {name.partition("-")[0] == family for name, family in families.items()} == {True}


def test_training_on_paper_dolls_lowers_every_part_of_the_loss(tmp_path: Path):
    settings = config(30, schedule="step", warmup=5, lr=3e-3, log_every=5)
    settings = replace(settings, data=replace(settings.data, batch=4))
    train(settings, tmp_path)
    rows = list(csv.reader((tmp_path / "metrics.csv").read_text("utf-8").splitlines()))
    for part, share in {"seg.pascal": 0.85, "aux.pascal": 0.85, "miou.pascal": 0.99}.items():
        values = [float(value) for _, name, value in rows if name == part]
        assert values[-1] < share * values[0], part
