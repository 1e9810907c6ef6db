"""Tensors of another project under our names, all of them or none."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, ModelError

Renames = Sequence[tuple[str, str]]
"""Patterns, applied in turn."""

COUNTER = "num_batches_tracked"
"""Counts training steps; does not enter the result, and often is not there."""


def renamed(tensors: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """The same tensors under other names."""
    return {_rename(name, renames): tensor for name, tensor in tensors.items()}


def require_fit(what: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly those of `network`.

    Raises:
        ModelError: the message names what is missing, left over or of another shape.
    """
    own = {key: value for key, value in network.state_dict().items() if COUNTER not in key}
    given = {key: value for key, value in tensors.items() if COUNTER not in key}
    problems = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": [
            f"{key} ({_shape(given[key])} instead of {_shape(own[key])})"
            for key in own.keys() & given.keys()
            if own[key].shape != given[key].shape
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{len(n)} {kind}: {few(n)}" for kind, n in problems.items() if n)
        raise ModelError(f"{what} has another layout than the published one: {told}")


def check_classes(domain: Domain, classes: int) -> None:
    """Refuse a domain of another size than the network's last layer.

    Raises:
        ConfigError: both numbers are named.
    """
    if domain.num_classes != classes:
        raise ConfigError(
            f"the checkpoint tells {classes} classes apart, domain {domain.name!r} has "
            f"{domain.num_classes}; give a domain file with {classes} names"
        )


def few(names: Sequence[str], count: int = 3) -> str:
    """The first names of a list."""
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _rename(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
