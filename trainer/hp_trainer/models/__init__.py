"""Networks by family. A network knows nothing of how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.sst import SST, SSTConfig

MODELS: dict[str, tuple[type[Any], type[nn.Module]]] = {"sst": (SSTConfig, SST)}
"""Family → (configuration, network)."""


def build_network(family: str, config: Mapping[str, Any], domains: Sequence[Domain]) -> nn.Module:
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
