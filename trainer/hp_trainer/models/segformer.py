"""SegFormer: a transformer whose keys and values are pooled, and a decoder of projections.

    image ─ stage 1 ─ stage 2 ─ stage 3 ─ stage 4
             │ 1/4       │ 1/8     │ 1/16    │ 1/32
             └───────────┴─────────┴─────────┴─ 1×1, up to 1/4, concat ─ fuse ─ heads.<d> ─► logits

    stage: overlapping patches ─ n × [x + attention(norm(x)); x + mlp(norm(x))] ─ norm

A 3×3 depthwise convolution inside the MLP stands in for positions, so any size will do.

Source: SegFormer, arXiv:2105.15203.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.domains import Domain
from hp_trainer.models.sizes import check_size

STEP = 32
"""Sides of inputs are multiples of this."""


@dataclass(frozen=True, slots=True)
class SegFormerConfig:
    """Shape of the network; the defaults are `mit-b0`."""

    depths: tuple[int, ...] = (2, 2, 2, 2)
    widths: tuple[int, ...] = (32, 64, 160, 256)
    attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    """Sides of the squares that keys and values are pooled from."""
    patches: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    decoder: int = 256


class Attention(nn.Module):
    """Tokens (N, h·w, C) attend to the map pooled by `reduction`."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.reduce: nn.Conv2d | None = None
        self.norm: nn.LayerNorm | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        seen = x
        if self.reduce is not None and self.norm is not None:
            seen = self.norm(_tokens(self.reduce(_grid(x, h, w))))  # (N, h·w / reduction², C)
        q, k, v = (
            self._split(f(t)) for f, t in ((self.query, x), (self.key, seen), (self.value, seen))
        )
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5  # (N, heads, h·w, seen)
        mixed = torch.softmax(scores, -1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, C) → (N, heads, L, C/heads)."""
        return x.unflatten(2, (self.heads, x.shape[2] // self.heads)).transpose(1, 2)


class Mlp(nn.Module):
    """Tokens (N, h·w, C) → the same, mixed with their neighbours on the way."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = _tokens(self.depthwise(_grid(self.fc1(x), h, w)))
        return self.fc2(functional.gelu(x))


class Block(nn.Module):
    """Attention, then the MLP, each around a shortcut."""

    def __init__(self, width: int, heads: int, reduction: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = x + self.attention(self.norm1(x), h, w)
        return x + self.mlp(self.norm2(x), h, w)


class Stage(nn.Module):
    """Map (N, inputs, H, W) → (N, width, H/stride, W/stride)."""

    def __init__(self, config: SegFormerConfig, index: int, inputs: int) -> None:
        super().__init__()
        width, patch = config.widths[index], config.patches[index]
        self.embed = nn.Conv2d(inputs, width, patch, config.strides[index], patch // 2)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.attention_heads[index],
                config.reductions[index],
                int(width * config.mlp_ratios[index]),
            )
            for _ in range(config.depths[index])
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h, w = int(x.shape[2]), int(x.shape[3])
        tokens = self.embed_norm(_tokens(x))  # (N, h·w, C)
        for block in self.blocks:
            tokens = block(tokens, h, w)
        return _grid(self.norm(tokens), h, w)


class SegFormer(nn.Module):
    """Normalised image (N, 3, H, W) RGB → {domain: logits (N, Z, H/4, W/4)}.

    H and W must be multiples of 32; others raise `ConfigError`.
    """

    def __init__(self, config: SegFormerConfig, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.config = config
        self.domains = tuple(domains)
        inputs = (3, *config.widths)
        self.stages = nn.ModuleList(Stage(config, i, inputs[i]) for i in range(len(config.widths)))
        self.projections = nn.ModuleList(nn.Linear(w, config.decoder) for w in config.widths)
        self.fuse = nn.Sequential(
            nn.Conv2d(len(config.widths) * config.decoder, config.decoder, 1, bias=False),
            nn.BatchNorm2d(config.decoder),
            nn.ReLU(),
        )
        self.heads = nn.ModuleDict(
            {d.name: nn.Conv2d(config.decoder, d.num_classes, 1) for d in domains}
        )

    def forward(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        check_size(int(image.shape[2]), int(image.shape[3]), STEP)
        maps: list[Tensor] = []
        x = image
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        fused = self.fuse(torch.cat([self._lifted(i, maps) for i in reversed(range(len(maps)))], 1))
        return {name: self.heads[name](fused) for name in heads or self.heads}

    def _lifted(self, index: int, maps: Sequence[Tensor]) -> Tensor:
        """One map, projected and up-sampled to the finest: (N, D, H/4, W/4)."""
        h, w = int(maps[index].shape[2]), int(maps[index].shape[3])
        x = _grid(self.projections[index](_tokens(maps[index])), h, w)
        if index == 0:
            return x
        size = (int(maps[0].shape[2]), int(maps[0].shape[3]))
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _tokens(x: Tensor) -> Tensor:
    """(N, C, h, w) → (N, h·w, C)."""
    return x.flatten(2).transpose(1, 2)


def _grid(x: Tensor, h: int, w: int) -> Tensor:
    """(N, h·w, C) → (N, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, (h, w))
