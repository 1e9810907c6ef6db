"""T-24, T-25, Eq. 13: a domain is added, a frozen teacher shows a new one what it knows."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.checkpoint import Checkpoint, describe_network, read_checkpoint, write_checkpoint
from hp_trainer.dedicated import build_teacher, teacher_pairs
from hp_trainer.models.auxiliary.msa import predicted_regions
from hp_trainer.models.auxiliary.mst import scr
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.new_model import load_weights
from hp_trainer.training_model import SSTTraining

CONFIG = AuxConfig(alpha=1.0, beta=0.5, lam=0.5)


def trained(*names: str, **options: Any) -> Any:
    torch.manual_seed(0)
    domains = [load_domain(name) for name in names]
    model: Any = SSTTraining(SST(PRESETS["sst-tiny"], domains), AuxConfig(**options))
    for head in model.net.heads.values():
        torch.nn.init.normal_(head.weight)
    return model


def saved(model: Any, folder: Path, *, aux: bool = True) -> Checkpoint:
    family, network = describe_network(model.net)
    path = folder / "last.pt"
    write_checkpoint(
        path,
        Checkpoint(
            family=family,
            config=network,
            domains=model.net.domains,
            model=model.net.state_dict(),
            aux=model.aux.state_dict() if aux else None,
        ),
    )
    return read_checkpoint(path)


def student_of(checkpoint: Checkpoint, *, target: str = "atr", config: AuxConfig = CONFIG, **more):
    torch.manual_seed(1)
    net = SST(PRESETS["sst-tiny"], [load_domain(target)])
    student: Any = SSTTraining(net, config, teacher=build_teacher(checkpoint, config, **more))
    load_weights(student, checkpoint)
    return student


def batch(name: str, count: int = 2, size: int = 64):
    g = torch.Generator().manual_seed(5)
    maps = torch.randint(load_domain(name).num_classes, (count, size, size), generator=g)
    maps[:, size - 8 :] = 255
    return torch.randn(count, 3, size, size, generator=g), {name: (torch.arange(count), maps)}


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# ---- T-24: adding a domain ---------------------------------------------------------------------


def test_an_added_domain_starts_fresh_and_everything_else_is_kept(tmp_path):
    old = saved(trained("pascal", "atr"), tmp_path)
    model = trained("pascal", "atr", "cihp")
    before = {**tensors(model.net), **tensors(model.aux)}
    load_weights(model, old)
    after = {**tensors(model.net), **tensors(model.aux)}
    new = {name for name in after if name not in {**old.model, **(old.aux or {})}}
    for name in new:
        assert torch.equal(after[name], before[name])
    for name, value in {**old.model, **(old.aux or {})}.items():
        assert torch.equal(after[name], value), name
    parts = {".".join(name.split(".")[:2]) for name in new}
    assert parts == {
        "heads.cihp", "msa.cihp", "mse.cihp", "mst.pascal__cihp", "mst.atr__cihp",
    }  # fmt: skip


def test_the_order_in_which_domains_are_listed_does_not_matter_when_one_is_added(tmp_path):
    old = saved(trained("pascal", "cihp"), tmp_path)
    model = trained("cihp", "atr", "pascal")
    load_weights(model, old)
    kept = model.aux.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in (old.aux or {}).items())


# ---- T-25: the teacher -------------------------------------------------------------------------


def test_training_changes_the_student_and_no_bit_of_the_teacher(tmp_path):
    student = student_of(saved(trained("pascal", "cihp"), tmp_path)).train()
    teacher, net = tensors(student.teacher), tensors(student.net)
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], 1e-2)
    images, labels = batch("atr")
    for _ in range(3):
        optimiser.zero_grad()
        student.losses(images, labels)["total"].backward()
        optimiser.step()
    assert all(torch.equal(teacher[k], v) for k, v in student.teacher.state_dict().items())
    changed = [k for k, v in student.net.state_dict().items() if not torch.equal(net[k], v)]
    assert {k.partition(".")[0] for k in changed} == {"backbone", "encoder", "decoder", "heads"}


def test_the_teacher_is_in_no_state_that_is_saved(tmp_path):
    student = student_of(saved(trained("pascal", "cihp"), tmp_path))
    assert list(student.net.heads) == ["atr"]
    assert not any(
        "teacher" in name for name in (*student.net.state_dict(), *student.aux.state_dict())
    )
    assert set(student.aux.msa) == {"atr"}
    assert set(student.aux.mst) == {"pascal__atr", "atr__cihp"}


def test_the_student_starts_from_the_weights_of_step_one(tmp_path):
    checkpoint = saved(trained("pascal"), tmp_path)
    own = student_of(checkpoint).net.state_dict()
    for name, value in checkpoint.model.items():
        if not name.startswith("heads."):
            assert torch.equal(own[name], value), name


def test_the_teacher_stays_in_eval_mode(tmp_path):
    student = student_of(saved(trained("pascal"), tmp_path)).train()
    assert student.net.training
    assert not any(module.training for module in student.teacher.modules())


# ---- Eq. 13b against brute force ---------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["all", "same"])
@torch.no_grad()
def test_the_consistency_with_the_teacher_equals_a_double_loop(tmp_path, pairing):
    config = AuxConfig(alpha=1.0, beta=0.5, lam=0.5, pairing=pairing)
    student = student_of(saved(trained("pascal"), tmp_path), config=config).eval()
    torch.nn.init.normal_(student.net.heads["atr"].weight)
    images, labels = batch("atr", 3)
    losses = student.losses(images, labels)
    valid = labels["atr"][1] != 255

    def look(net: Any, aux: Any, name: str):
        maps = net.features(images)
        return aux.semantics(name, maps, predicted_regions(net.heads[name](maps[-1]), maps, valid))

    of_s = look(student.teacher.net, student.teacher.aux, "pascal")
    of_t = look(student.net, student.aux, "atr")
    mst = student.aux.mst["pascal__atr"]
    pairs = [(i, j) for i, j in itertools.product(range(3), range(3)) if pairing == "all" or i == j]
    total = 0.0
    for (i, j), level in itertools.product(pairs, range(3)):
        x = (of_s.x[level][i : i + 1], of_t.x[level][j : j + 1])
        s = (of_s.s[level][i : i + 1], of_t.s[level][j : j + 1])
        to_t, to_s = mst.map_image(level + 1, x, s)
        total += float(scr(x[1], to_t[0]) + scr(x[0], to_s[0]))
    assert float(losses["img.pascal__atr"]) == pytest.approx(total / len(pairs), abs=1e-4)
    to_t, to_s = mst.map_dataset(of_s.x0, of_t.x0)
    expected = float(scr(of_t.x0, to_t) + scr(of_s.x0, to_s))
    assert float(losses["dataset.pascal__atr"]) == pytest.approx(expected, abs=1e-4)


def test_the_transfer_trains_the_students_features(tmp_path):
    student = student_of(saved(trained("pascal"), tmp_path)).train()
    images, labels = batch("atr")
    student.losses(images, labels)["img.pascal__atr"].backward()
    assert student.net.backbone.conv1.weight.grad.abs().sum() > 0
    assert student.aux.mse["atr"].x0.grad.abs().sum() > 0


def test_the_teacher_may_also_look_at_images_of_its_own_domain(tmp_path):
    checkpoint = saved(trained("pascal"), tmp_path)
    images, labels = batch("atr", 3)
    index, maps = labels["atr"]
    mixed = {"atr": (index[:2], maps[:2]), "pascal": (index[2:], maps[2:].clamp(max=6))}
    seen = {
        inputs: student_of(checkpoint, inputs=inputs).teacher.look_at(images, mixed, ("atr",))
        for inputs in ("target", "all")
    }
    assert [len(seen[inputs]["pascal"].s[0]) for inputs in ("target", "all")] == [2, 3]


def test_finetuning_builds_nothing_beside_the_network(tmp_path):
    checkpoint = saved(trained("pascal"), tmp_path)
    model: Any = SSTTraining(
        SST(PRESETS["sst-tiny"], [load_domain("atr")]), AuxConfig(beta=0.0, lam=0.0)
    )
    load_weights(model, checkpoint)
    images, labels = batch("atr")
    assert set(model.losses(images, labels)) == {"total", "seg.atr"}
    assert not list(model.aux.parameters())


# ---- what cannot be ----------------------------------------------------------------------------


def test_pairs_join_every_source_with_every_target(tmp_path):
    teacher = build_teacher(saved(trained("pascal", "cihp"), tmp_path), CONFIG)
    assert teacher_pairs(teacher, [load_domain("atr")]) == (("pascal", "atr"), ("atr", "cihp"))


def test_a_teacher_that_knows_the_target_already_is_refused(tmp_path):
    checkpoint = saved(trained("pascal", "atr"), tmp_path)
    with pytest.raises(ConfigError, match="'atr' already"):
        student_of(checkpoint)


def test_a_stripped_teacher_is_refused(tmp_path):
    checkpoint = saved(trained("pascal"), tmp_path, aux=False)
    with pytest.raises(ConfigError, match="unstripped"):
        build_teacher(checkpoint, CONFIG)


def test_same_images_cannot_be_paired_without_a_teacher():
    with pytest.raises(ConfigError, match="same"):
        trained("pascal", "atr", pairing="same")
