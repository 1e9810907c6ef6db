"""Checkpoints: `model` (ships) and `aux` (stays behind) stored apart, with their label domains.

A file is a plain dict of tensors, numbers, strings and lists that `torch.load(weights_only=True)`
reads, so opening someone else's checkpoint runs none of their code.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelNotFound, SchemaMismatch
from hp_trainer.models import Network, build_network, family_of
from hp_trainer.models.sst import MEAN, STD

FORMAT, VERSION = "hp-ckpt", 1

PAD_VALUE = 0
"""Training pads crops with black; a network that never saw grey borders loses by them."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint file holds."""

    family: str
    config: dict[str, Any]
    """Network configuration, as `build_network` takes it."""
    domains: tuple[Domain, ...]
    model: dict[str, Tensor]
    aux: dict[str, Tensor] | None = None
    input: dict[str, Any] = field(default_factory=dict)
    """mean, std (0..255, RGB), color, size_hw, resize, pad_value."""
    train: dict[str, Any] = field(default_factory=dict)
    """step, configuration, optimiser and random states; empty in a stripped file."""


def input_description(size_hw: tuple[int, int], resize: str = "letterbox") -> dict[str, Any]:
    """How an image has to be prepared for the network."""
    windows = {"stride_hw": list(InputSpec(size_hw=size_hw, resize=resize).window_stride_hw)}
    return {
        "mean": list(MEAN),
        "std": list(STD),
        "color": "RGB",
        "size_hw": list(size_hw),
        "resize": resize,
        "pad_value": PAD_VALUE,
        **(windows if resize == "shortest-side" else {}),
    }


def describe_network(net: Network) -> tuple[str, dict[str, Any]]:
    """Family and plain configuration of a network built by `build_network`."""
    return family_of(net.config), asdict(net.config)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write to a temporary name, then rename: an interrupted write loses no earlier file.

    Raises:
        ConfigError: the folder cannot be written to, or the disk is full.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "family": checkpoint.family,
        "config": _plain(checkpoint.config),
        "domains": [domain.to_dict() for domain in checkpoint.domains],
        "input": _plain(checkpoint.input),
        "model": checkpoint.model,
        "aux": checkpoint.aux,
        "train": _plain(checkpoint.train),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as exc:  # torch's own writer reports a full disk as the latter
        raise ConfigError(
            f"cannot write {path}: {exc}; an earlier checkpoint of that name is untouched. "
            "Free space or choose another folder, and resume"
        ) from exc
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running code from it.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: not a checkpoint, or truncated.
        SchemaMismatch: written by a newer version.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as exc:
        raise CorruptArtifact(
            f"{path} is not a checkpoint or is damaged; train or copy it again"
        ) from exc
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CorruptArtifact(f"{path} is not a checkpoint of this project (no format {FORMAT!r})")
    if (version := content.get("version", 0)) > VERSION:
        raise SchemaMismatch(
            f"{path} has checkpoint version {version}, this software reads up to {VERSION}; "
            "update hp-sdk"
        )
    try:
        return _checkpoint(content)
    except (KeyError, TypeError, AttributeError) as exc:
        raise CorruptArtifact(f"{path} lacks parts of a checkpoint ({exc!r})") from exc


def _checkpoint(content: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        family=content["family"],
        config=content["config"],
        domains=tuple(Domain.from_dict(entry) for entry in content["domains"]),
        model=content["model"],
        aux=content["aux"],
        input=content["input"],
        train=content["train"],
    )


def build_from_checkpoint(checkpoint: Checkpoint) -> Network:
    """The network that ships, with its weights, in eval mode."""
    network = build_network(checkpoint.family, checkpoint.config, checkpoint.domains)
    network.load_state_dict(checkpoint.model)
    return network.eval()


def _plain(value: Any) -> Any:
    """Tuples become lists; tensors, numbers and strings stay."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
