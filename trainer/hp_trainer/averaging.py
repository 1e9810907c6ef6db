"""The mean of the weights of several trainings of one network.

    a ─┐
    b ─┼─ mean of every tensor, over those that have it ─► one network, as fast as each
    c ─┘

For trainings that share a start: the loss is then mostly flat between them. Score the mean before
using it.

Source: Model Soups, arXiv:2203.05482, Section 2 (the uniform soup).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hp_sdk.domains import Domain, coarse_to_fine
from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import Checkpoint


def average(checkpoints: Sequence[Checkpoint], *, heads: Checkpoint | None = None) -> Checkpoint:
    """One checkpoint without auxiliary modules and training state.

    It has every head that one of them has. What only some have, such as a head that was added
    later, is the mean over those. Running statistics of batch norms are averaged like weights. Of
    `heads` nothing is used but the heads that none of the others has.

    Raises:
        ConfigError: fewer than two, other families or networks, or a domain with other classes.
    """
    if len(checkpoints) < 2:
        raise ConfigError("an average needs at least two checkpoints; name another")
    first, given = checkpoints[0], [*checkpoints, heads] if heads else checkpoints
    domains: dict[str, Domain] = {}
    for number, each in enumerate(given, 1):
        which = f"checkpoint {number} of {len(given)}"
        if (each.family, each.config) != (first.family, first.config):
            raise ConfigError(
                f"{which} holds another network than the first; only the weights of one network "
                "can be averaged"
            )
        for domain in each.domains:
            if domains.setdefault(domain.name, domain).names != domain.names:
                raise ConfigError(
                    f"{which} divides {domain.name!r} into other classes than one before it; "
                    "leave one of them out"
                )
    model = {}
    for name in {name: None for each in given for name in each.model}:
        found = [each.model[name] for each in checkpoints if name in each.model]
        model[name] = _mean(found or [each.model[name] for each in given if name in each.model])
    return replace(first, domains=coarse_to_fine(domains.values()), model=model, aux=None, train={})


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.clone()
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(first.dtype)
