"""Networks by family. A network knows nothing of how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.schnet import PRESETS as SCHNET_PRESETS
from hp_trainer.models.schnet.schnet import SCHNet, SCHNetConfig
from hp_trainer.models.schp import SCHP, SCHPConfig
from hp_trainer.models.segformer import SegFormer, SegFormerConfig
from hp_trainer.models.sst import PRESETS as SST_PRESETS
from hp_trainer.models.sst import SST, SSTConfig

Network = SST | SCHNet
NetworkConfig = SSTConfig | SCHNetConfig

MODELS: dict[str, tuple[type[Any], type[Any]]] = {
    "sst": (SSTConfig, SST),
    "schnet": (SCHNetConfig, SCHNet),
    "schp": (SCHPConfig, SCHP),
    "segformer": (SegFormerConfig, SegFormer),
}
"""Family → (configuration, network). The last two come from others' checkpoints, for export."""

PRESETS: dict[str, NetworkConfig] = {**SST_PRESETS, **SCHNET_PRESETS}
"""Configurations of both families by name."""


def family_of(config: NetworkConfig) -> str:
    """The family that a configuration belongs to."""
    return next(family for family, (kind, _) in MODELS.items() if isinstance(config, kind))


def new_network(config: NetworkConfig, domains: Sequence[Domain]) -> Network:
    """The network of a configuration, with random weights."""
    return MODELS[family_of(config)][1](config, domains)


def build_network(family: str, config: Mapping[str, Any], domains: Sequence[Domain]) -> Network:
    """Build a network with random weights from the plain values a checkpoint or a TOML file holds.

    Raises:
        ConfigError: unknown family or key.
    """
    if family not in MODELS:
        raise ConfigError(f"unknown family {family!r}; this version builds {', '.join(MODELS)}")
    config_type, network_type = MODELS[family]
    known = [field.name for field in fields(config_type)]
    if unknown := sorted(set(config) - set(known)):
        raise ConfigError(f"{family} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
    return network_type(config_type(**values), domains)
