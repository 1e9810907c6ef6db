"""Auxiliary head on the map at 1/16: it helps training and never ships (register A31)."""

from __future__ import annotations

from torch import Tensor, nn

from hp_trainer.models.schnet.conv_norm import conv_norm_relu


class FCNHead(nn.Module):
    """(N, inputs, h, w) → logits (N, classes, h, w).

    Source: fully convolutional networks, arXiv:1411.4038, in the form UperNet baselines use.
    """

    def __init__(
        self, inputs: int, classes: int, *, width: int = 256, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.conv = conv_norm_relu(inputs, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.dropout(self.conv(x)))
