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

from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import Checkpoint


def average(checkpoints: Sequence[Checkpoint], *, heads: Checkpoint | None = None) -> Checkpoint:
    """One checkpoint without auxiliary modules and training state.

    Its heads are those of the checkpoint with most, which must have all. What only some have, such
    as a head that was added later, is the mean over those. Running statistics of batch norms are
    averaged like weights. Of `heads` nothing is used but the heads that none of the others has.

    Raises:
        ConfigError: fewer than two, other families or networks, or a domain with other classes.
    """
    if len(checkpoints) < 2:
        raise ConfigError("an average needs at least two checkpoints; name another")
    given = [*checkpoints, heads] if heads else checkpoints
    widest = max(given, key=lambda each: len(each.domains))
    known = {domain.name: domain.names for domain in widest.domains}
    for number, each in enumerate(given, 1):
        _check(each, widest, known, f"checkpoint {number} of {len(given)}")
    model = {}
    for name in widest.model:
        found = [each.model[name] for each in checkpoints if name in each.model]
        model[name] = _mean(found or [widest.model[name]])
    return replace(widest, model=model, aux=None, train={})


def _check(
    one: Checkpoint, widest: Checkpoint, known: dict[str, tuple[str, ...]], which: str
) -> None:
    if (one.family, one.config) != (widest.family, widest.config):
        raise ConfigError(
            f"{which} holds another network than the others; only the weights of one network "
            "can be averaged"
        )
    for domain in one.domains:
        if known.get(domain.name) != domain.names:
            raise ConfigError(
                f"{which} answers in {domain.name!r}, which the one with most heads lacks or "
                f"divides otherwise; that one answers in {', '.join(known)}"
            )


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if not first.is_floating_point():
        return first.clone()
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(first.dtype)
