"""UperNet: pyramid pooling on the coarsest map, then a feature pyramid down to 1/4.

    f4 ─ pooled to 1, 2, 3, 6 cells ─ concat ─ 3×3 ─► p4
    f3, f2, f1 ─ 1×1 ─(+ coarser one, up-sampled)─ 3×3 ─► p3, p2, p1 ;  concat at 1/4 ─ 3×3 ─► out

The class layers are not here: they are the network's heads, one per domain.

Source: Unified Perceptual Parsing, arXiv:1807.10221; pooling: PSPNet, arXiv:1612.01105.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.conv_norm import conv_norm_relu


class UperNet(nn.Module):
    """[f1, f2, f3, f4], each (N, inputs, h, w) at 1/4 … 1/32 → (N, width, H/4, W/4)."""

    def __init__(
        self, inputs: int, width: int, *, scales: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.pyramid = nn.ModuleList(conv_norm_relu(inputs, width, 1) for _ in self.scales)
        self.bottleneck = conv_norm_relu(inputs + width * len(self.scales), width, 3)
        self.laterals = nn.ModuleList(conv_norm_relu(inputs, width, 1) for _ in range(3))
        self.smooth = nn.ModuleList(conv_norm_relu(width, width, 3) for _ in range(3))
        self.fuse = conv_norm_relu(4 * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        *fine, coarsest = maps
        x = self._pool(coarsest)
        levels = [x]  # coarse to fine
        merged = []
        for lateral, feature in zip(reversed(self.laterals), reversed(fine), strict=True):
            x = lateral(feature)
            x = x + _resize_like(levels[-1], x)
            levels.append(x)
        for smooth, level in zip(self.smooth, reversed(levels[1:]), strict=True):
            merged.append(smooth(level))
        merged.append(levels[0])
        merged = [_resize_like(level, merged[0]) for level in merged]
        return self.dropout(self.fuse(torch.cat(merged, 1)))

    def _pool(self, x: Tensor) -> Tensor:
        """(N, inputs, h, w) → (N, width, h, w) that has seen the whole map."""
        if self.training:
            self._check_batch(len(x))
        pooled = [
            _resize_like(layer(average_pool(x, cells)), x)
            for layer, cells in zip(self.pyramid, self.scales, strict=True)
        ]
        return self.bottleneck(torch.cat([x, *pooled], 1))

    def _check_batch(self, images: int) -> None:
        # a map of one cell of one image has no variance; norms across devices see other images
        smallest = self.pyramid[self.scales.index(min(self.scales))]
        norms = (m for m in smallest.modules() if isinstance(m, nn.BatchNorm2d))
        if images * min(self.scales) ** 2 == 1 and any(norm.training for norm in norms):
            raise ConfigError(
                "the pyramid pooling of SCHNet normalises over the images of a batch and cannot "
                "train on a batch of 1; use two images or more"
            )


def average_pool(x: Tensor, cells: int) -> Tensor:
    """Adaptive average pooling (N, C, h, w) → (N, C, cells, cells) as two constant products.

    No exporter agrees with another on the operator itself where `cells` does not divide h.
    """
    rows, columns = (
        torch.as_tensor(averaging_matrix(int(size), cells), device=x.device).to(x.dtype)
        for size in x.shape[2:]
    )
    return rows @ x @ columns.T


@cache
def averaging_matrix(size: int, cells: int) -> np.ndarray:
    """Row i averages from floor(i·size/cells) up to ceil((i+1)·size/cells): (cells, size) f32."""
    matrix = np.zeros((cells, size), np.float32)
    for i in range(cells):
        start, end = i * size // cells, -(-(i + 1) * size // cells)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def _resize_like(x: Tensor, like: Tensor) -> Tensor:
    size = (int(like.shape[2]), int(like.shape[3]))
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
