"""Checkpoints hold no code, survive interruption and say what is wrong with them."""

from pathlib import Path

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelNotFound, SchemaMismatch
from hp_trainer.checkpoint import (
    Checkpoint,
    build_from_checkpoint,
    describe_network,
    input_description,
    read_checkpoint,
    write_checkpoint,
)
from hp_trainer.models import build_network
from hp_trainer.models.sst import PRESETS, SST


def tiny_checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    net = SST(PRESETS["sst-tiny"], [load_domain("cihp"), load_domain("pascal")])
    family, config = describe_network(net)
    return Checkpoint(
        family, config, net.domains, net.state_dict(), None, input_description((64, 64))
    )


def test_a_network_comes_back_with_its_logits_and_domains(tmp_path: Path):
    checkpoint = tiny_checkpoint()
    write_checkpoint(tmp_path / "a.pt", checkpoint)
    net = build_from_checkpoint(read_checkpoint(tmp_path / "a.pt"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        again, before = net(image), build_from_checkpoint(checkpoint)(image)
    assert list(again) == ["cihp", "pascal"]
    assert all(torch.equal(again[name], before[name]) for name in again)
    assert isinstance(net, SST)
    assert net.domains[0].flip_pairs == load_domain("cihp").flip_pairs


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.pt"
    write_checkpoint(path, tiny_checkpoint())
    before = path.read_bytes()

    def full_disk(content: object, name: Path) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(ConfigError, match=r"No space.*earlier checkpoint"):
        write_checkpoint(path, tiny_checkpoint())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"nothing\.pt"):
        read_checkpoint(tmp_path / "nothing.pt")


def test_a_truncated_file_is_refused(tmp_path: Path):
    path = tmp_path / "a.pt"
    write_checkpoint(path, tiny_checkpoint())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptArtifact, match=r"a\.pt"):
        read_checkpoint(path)


def test_a_pickle_with_code_is_never_run(tmp_path: Path):
    torch.save({"format": "hp-ckpt", "code": print}, tmp_path / "evil.pt")
    with pytest.raises(CorruptArtifact):
        read_checkpoint(tmp_path / "evil.pt")


def test_another_projects_weights_are_refused(tmp_path: Path):
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(CorruptArtifact, match="not a checkpoint of this project"):
        read_checkpoint(tmp_path / "other.pt")


def test_a_file_without_its_parts_is_refused(tmp_path: Path):
    torch.save({"format": "hp-ckpt", "version": 1, "family": "sst"}, tmp_path / "part.pt")
    with pytest.raises(CorruptArtifact, match="config"):
        read_checkpoint(tmp_path / "part.pt")


def test_a_newer_version_is_refused_by_number(tmp_path: Path):
    torch.save({"format": "hp-ckpt", "version": 99}, tmp_path / "new.pt")
    with pytest.raises(SchemaMismatch, match="99"):
        read_checkpoint(tmp_path / "new.pt")


def test_unknown_families_and_settings_are_refused():
    with pytest.raises(ConfigError, match="vit"):
        build_network("vit", {}, [load_domain("cihp")])
    with pytest.raises(ConfigError, match="depth"):
        build_network("sst", {"depth": 3}, [load_domain("cihp")])
