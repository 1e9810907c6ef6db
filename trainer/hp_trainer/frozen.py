"""Networks that teach: no gradient reaches them, and they stay in eval mode."""

from __future__ import annotations

from typing import Self

from torch import nn


class Frozen(nn.Module):
    """Base of modules whose parts are trained already; `freeze` ends their `__init__`."""

    def freeze(self) -> None:
        """Stop learning, whatever the model around this one does later."""
        self.requires_grad_(requires_grad=False)
        self.train(mode=False)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (nn.Module's signature)
        """Stay in eval mode."""
        del mode
        return super().train(mode=False)
