"""Optimiser, learning rate and weight average of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hp_sdk.errors import ConfigError
from hp_trainer.muon import Muon

OPTIMISERS = ("adamw", "sgd", "muon")
SCHEDULES = ("step", "cosine", "poly")
NOT_DECAYED = (
    ".x0", ".level_embed", ".relative_bias",
    ".tokens", ".pos_embed", ".positional_embedding", ".rel_pos_h", ".rel_pos_w",
)  # fmt: skip
"""Ends of names of embeddings and tables of positions: weights that stand for themselves."""
AMP = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """AdamW, linear warm-up, then `schedule`; the defaults are SST's (spec §2.10)."""

    lr: float = 1e-4
    backbone_lr: float = 0.1
    """Factor on `lr` for the backbone (1 when trained from scratch)."""
    optimiser: str = "adamw"
    """`adamw`, `sgd` with momentum 0.9 as Graphonomy uses it (register A16), or `muon` (not in the
    papers: `hp_trainer.muon`)."""
    weight_decay: float = 0.05
    warmup: int = 0
    warmup_ratio: float = 0.0
    """Share of `lr` at step 0; 0 begins with `lr / warmup`."""
    schedule: str = "step"
    """`step` (×0.1 after `decay_at` of the run; SST), `cosine`, or `poly` (SCHNet)."""
    decay_at: float = 0.8333
    poly_power: float = 1.0
    """Exponent of `poly`; 1 falls on a straight line to 0."""
    clip: float = 0.01
    """Largest gradient norm; 0 does not clip."""
    ema: float = 0.0
    """Decay of the averaged weights that are shipped; 0 ships the last ones."""
    amp: str = "off"
    """off, bf16 or fp16 autocast."""

    def __post_init__(self) -> None:
        choices = {"optimiser": OPTIMISERS, "schedule": SCHEDULES, "amp": tuple(AMP)}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                given, names = getattr(self, key), ", ".join(allowed)
                raise ConfigError(f"train.{key} is {given!r}; choose one of {names}")


def build_optimiser(model: nn.Module, settings: OptimiserConfig) -> torch.optim.Optimizer:
    """One group per rate and decay; norms, biases and embeddings do not decay."""
    groups = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if kind.decays else 0.0,
            "factor": settings.backbone_lr if kind.backbone else 1.0,
            "orthogonal": kind.hidden,
        }
        for kind, parameters in _groups(model.named_parameters(), settings.optimiser).items()
    ]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9)
    return {"adamw": torch.optim.AdamW, "muon": Muon}[settings.optimiser](groups, lr=settings.lr)


class _Kind(NamedTuple):
    """What is common to the parameters of a group."""

    backbone: bool
    decays: bool
    hidden: bool
    """For Muon: a matrix between two layers, not the first convolution and no head."""


def _groups(
    named: Iterable[tuple[str, nn.Parameter]], optimiser: str
) -> dict[_Kind, list[nn.Parameter]]:
    groups: dict[_Kind, list[nn.Parameter]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim > 1 and not name.endswith(NOT_DECAYED)
        first = parameter.ndim == 4 and parameter.shape[1] == 3
        hidden = optimiser == "muon" and decays and not first and ".heads." not in name
        kind = _Kind(name.startswith("net.backbone."), decays, hidden)
        groups.setdefault(kind, []).append(parameter)
    return groups


def learning_rate(settings: OptimiserConfig, step: int, steps: int) -> float:
    """Linear warm-up, then the schedule over a run of `steps`."""
    if step < settings.warmup:
        return settings.lr * _warm(settings, step)
    done = min(1.0, (step - settings.warmup) / max(1, steps - settings.warmup))
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "poly":
        return settings.lr * (1 - done) ** settings.poly_power
    return settings.lr * (0.1 if step >= settings.decay_at * steps else 1.0)


def _warm(settings: OptimiserConfig, step: int) -> float:
    """Share of `lr` during the warm-up."""
    if settings.warmup_ratio:
        return settings.warmup_ratio + (1 - settings.warmup_ratio) * step / settings.warmup
    return (step + 1) / settings.warmup


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]


def autocast(amp: str, device: str) -> torch.autocast:
    """Autocast context of `train.amp`."""
    dtype = AMP[amp] if amp != "off" else torch.bfloat16
    return torch.autocast(device.partition(":")[0], dtype=dtype, enabled=amp != "off")


def gradient_scaler(amp: str, device: str) -> torch.amp.GradScaler:
    """Loss scaling, which float16 needs and nothing else does."""
    return torch.amp.GradScaler(device.partition(":")[0], enabled=amp == "fp16")


@torch.no_grad()
def average(ema: Mapping[str, Tensor], net: nn.Module, decay: float) -> None:
    """Exponential moving average: ema ← decay · ema + (1 - decay) · net."""
    current = averaged(net)
    for key, value in ema.items():
        value.lerp_(current[key], 1 - decay)


def averaged(net: nn.Module) -> dict[str, Tensor]:
    """What is averaged: weights that learn and batch statistics, which belong together."""
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    state = net.state_dict().items()
    return {key: value for key, value in state if value.is_floating_point() and key not in frozen}
