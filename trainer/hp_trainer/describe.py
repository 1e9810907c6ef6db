"""What a network costs: parameters and multiply-accumulates per part, shipped and auxiliary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.models import PRESETS, Network, new_network
from hp_trainer.models.sst import SST
from hp_trainer.schnet_training import SCHNetTraining
from hp_trainer.training_model import SSTTraining


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a network. `macs`: multiply-accumulates for one image; 0 for auxiliary parts."""

    name: str
    parameters: int
    macs: int
    ships: bool
    frozen: int = 0
    """Those of the parameters that training leaves as they are."""

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
        net = new_network(PRESETS[preset], [load_domain(name) for name in domains]).eval()
        stages = {**net.parts(), **{f"heads.{name}": head for name, head in net.heads.items()}}
        macs = _macs(net, list(stages), torch.empty(1, 3, *size_hw))
        training = SSTTraining(net) if isinstance(net, SST) else SCHNetTraining(net)
    shipped = [
        Part(name, _count(module), macs[name], ships=True, frozen=_frozen(module))
        for name, module in stages.items()
    ]
    auxiliary = [
        Part(f"aux.{kind}.{name}", _count(module), 0, ships=False)
        for kind, modules in training.aux.named_children()
        for name, module in modules.named_children()
    ]
    return shipped + auxiliary


def _count(module: nn.Module) -> int:
    """Weights and biases, those of frozen norms too; running statistics are not counted."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(v.numel() for k, v in module.state_dict().items() if not k.endswith(statistics))


def _frozen(module: nn.Module) -> int:
    """Those of `_count` that no optimiser changes: without gradient, and constants."""
    return _count(module) - sum(p.numel() for p in module.parameters() if p.requires_grad)


def _macs(net: Network, names: Sequence[str], image: torch.Tensor) -> dict[str, int]:
    """MACs by part name, as the FLOP counter sees them (a multiply-accumulate is two FLOPs)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    counts = {k: sum(v.values()) for k, v in counter.get_flop_counts().items()}
    return {name: _below(f"{type(net).__name__}.{name}", counts) // 2 for name in names}


def _below(part: str, counts: Mapping[str, int]) -> int:
    """FLOPs of a part, or, where only its children are called, those of all of them."""
    inside = [name for name in counts if f"{name}.".startswith(f"{part}.")]
    return sum(
        counts[name] for name in inside if not any(name.startswith(f"{other}.") for other in inside)
    )
