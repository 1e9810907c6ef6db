"""Text features f_txt: one unit vector per class of each domain, kept as constants.

They are CLIP's embeddings of the class names, computed once; the text encoder itself is no part of
the network. They travel in the checkpoint as `text.<domain>` (Z, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError

SOURCES = ("required", "random-orthonormal")

REMEDY = (
    "load a checkpoint that holds them, import CLIP's embeddings of the class names, or set "
    'model.text_features = "random-orthonormal" for a trial without CLIP\'s text encoder'
)


class TextFeatures(nn.Module):
    """Buffers by domain name; zeros until somebody brings the embeddings."""

    def __init__(self, domains: Sequence[Domain], width: int, *, source: str = "required") -> None:
        super().__init__()
        self.width = width
        self.names = tuple(domain.name for domain in domains)
        self._checked = False
        for domain in domains:
            self.register_buffer(domain.name, torch.zeros(domain.num_classes, width))
            if source == "random-orthonormal":
                self.assign(domain.name, nn.init.orthogonal_(torch.empty_like(self[domain.name])))

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def forward(self) -> dict[str, Tensor]:
        """All domains' features, checked once.

        Raises:
            ConfigError: a domain has no text features.
        """
        if not self._checked and not torch.compiler.is_compiling():
            for name in self.names:
                self._check(name, self[name])
            self._checked = True
        return {name: self[name] for name in self.names}

    @torch.no_grad()
    def assign(self, name: str, features: Tensor) -> None:
        """Take (Z, D) embeddings of a domain's class names; they are brought to length 1.

        Raises:
            ConfigError: unknown domain, another shape, or a row that is zero or not finite.
        """
        if name not in self.names:
            raise ConfigError(
                f"text features for domain {name!r}; the network has {', '.join(self.names)}"
            )
        if features.shape != self[name].shape:
            given, wanted = tuple(features.shape), tuple(self[name].shape)
            raise ConfigError(
                f"text features of {name} have shape {given}; one row per class, {wanted}, is "
                "expected"
            )
        self._check(name, features)
        self[name].copy_(functional.normalize(features.float(), dim=-1))

    def _check(self, name: str, features: Tensor) -> None:
        if features.is_meta:
            return
        length = features.float().norm(dim=-1)
        usable = (length > 0) & length.isfinite()
        if not bool(usable.all()):
            rows = f"{int((~usable).sum())} of {len(usable)} classes"
            raise ConfigError(f"domain {name!r} has no text features ({rows} lack one); {REMEDY}")

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._checked = False  # what was loaded has not been looked at
        super()._load_from_state_dict(*args, **kwargs)
