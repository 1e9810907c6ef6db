"""What a network costs: parameters and multiply-accumulates per part, shipped and auxiliary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.training_model import SSTTraining


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a network. `macs`: multiply-accumulates for one image; 0 for auxiliary parts."""

    name: str
    parameters: int
    macs: int
    ships: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe(preset: str, domains: Sequence[str], size_hw: tuple[int, int]) -> list[Part]:
    """Parts of `preset` with one head per domain; nothing is computed (meta tensors).

    Raises:
        ConfigError: unknown preset or an illegal size.
        InputError: unknown domain.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    with torch.device("meta"):
        net = SST(PRESETS[preset], [load_domain(name) for name in domains]).eval()
        macs = _macs(net, torch.empty(1, 3, *size_hw))
    shipped = [
        Part(name, _count(module), macs.get(name, 0), ships=True)
        for name, module in [*_stages(net), *((f"heads.{k}", m) for k, m in net.heads.items())]
    ]
    training = SSTTraining(SST(PRESETS[preset], net.domains))
    auxiliary = [
        Part(f"aux.{kind}.{name}", _count(module), 0, ships=False)
        for kind in ("msa", "mse", "mst")
        for name, module in training.aux.get_submodule(kind).named_children()
    ]
    return shipped + auxiliary


def _stages(net: SST) -> list[tuple[str, nn.Module]]:
    return [("backbone", net.backbone), ("encoder", net.encoder), ("decoder", net.decoder)]


def _count(module: nn.Module) -> int:
    """Weights and biases, those of frozen norms too; running statistics are not counted."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(v.numel() for k, v in module.state_dict().items() if not k.endswith(statistics))


def _macs(net: SST, image: torch.Tensor) -> dict[str, int]:
    """MACs by part name, as the FLOP counter sees them (a multiply-accumulate is two FLOPs)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    counts = counter.get_flop_counts()
    names = ["backbone", "encoder", "decoder", *(f"heads.{name}" for name in net.heads)]
    return {name: sum(counts.get(f"SST.{name}", {}).values()) // 2 for name in names}
