"""CLIP's image encoder: four maps of tokens that carry meaning, and one vector for the image.

    image ─ own statistics ─ patches + class token + positions ─ ln_pre ─ [block] × depth
               maps after the out_blocks (N, h·w, W) ◄────────────────────────┘     │
               class vector (N, D) ◄─ unit length ◄─ proj ◄─ ln_post ◄─ class token ┘

Names equal those below `visual.` in the published checkpoint, so importing is a prefix map.

Source: CLIP, arXiv:2103.00020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_trainer.models.schnet.positions import resize_positions
from hp_trainer.models.sst import MEAN, STD

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
"""Pixel statistics CLIP was trained with, RGB, of values in 0..255."""

PIXEL_STATS = ("clip", "sam")


@dataclass(frozen=True, slots=True)
class CLIPShape:
    """Sizes of the encoder; the defaults are ViT-B/16."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    grid: int = 14
    out_blocks: tuple[int, ...] = (3, 5, 7, 11)
    joint: int = 512
    """Width of the space shared with text."""
    stats: str = "clip"
    pos_interp: str = "bicubic"


class CLIPFeatures(NamedTuple):
    """What CLIP says about an image."""

    maps: list[Tensor]
    """Patch tokens (N, h·w, W) after each of `out_blocks`; the last entry, index -1, is what
    enters block 0."""
    grid_hw: tuple[int, int]
    vector: Tensor
    """f_cls, (N, D) of length 1."""


class Renormalise(nn.Module):
    """Network input, normalised with this project's statistics, → normalised with CLIP's."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        scale = [ours / theirs for ours, theirs in zip(STD, CLIP_STD, strict=True)]
        pairs = zip(MEAN, CLIP_MEAN, CLIP_STD, strict=True)
        shift = [(ours - theirs) / spread for ours, theirs, spread in pairs]
        # constants, not weights: they stay out of checkpoints
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return image * self.scale + self.shift


class CLIPAttention(nn.Module):
    """Multi-head self-attention. (N, T, W) → same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        n, count, _ = x.shape
        qkv = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.reshape(n, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (N, heads, T, d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, count, -1))


class CLIPMlp(nn.Module):
    """Two layers with the sigmoid approximation of GELU that CLIP was trained with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class CLIPBlock(nn.Module):
    """Pre-norm block. (N, T, W) → same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = CLIPAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = CLIPMlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class CLIPTransformer(nn.Module):
    """The blocks, under the name they have in the published checkpoint."""

    def __init__(self, shape: CLIPShape) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            CLIPBlock(shape.width, shape.heads) for _ in range(shape.depth)
        )


class CLIPVision(nn.Module):
    """Image (N, 3, H, W), normalised as for the rest of the network → `CLIPFeatures`."""

    def __init__(self, shape: CLIPShape) -> None:
        super().__init__()
        self.shape = shape
        self.grid_hw = (shape.grid, shape.grid)
        self.renormalise = Renormalise() if shape.stats == "clip" else nn.Identity()
        self.conv1 = nn.Conv2d(3, shape.width, shape.patch, shape.patch, bias=False)
        spread = shape.width**-0.5
        self.class_embedding = nn.Parameter(spread * torch.randn(shape.width))
        count = 1 + shape.grid**2
        self.positional_embedding = nn.Parameter(spread * torch.randn(count, shape.width))
        self.ln_pre = nn.LayerNorm(shape.width)
        self.transformer = CLIPTransformer(shape)
        self.ln_post = nn.LayerNorm(shape.width)
        self.proj = nn.Parameter(spread * torch.randn(shape.width, shape.joint))

    def embed(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """What enters block 0: tokens (N, 1 + h·w, W), the class token first, and (h, w)."""
        x = self.conv1(self.renormalise(image))  # (N, W, h, w)
        grid_hw = (int(x.shape[2]), int(x.shape[3]))
        patches = x.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return self.ln_pre(torch.cat([first, patches], 1) + self.positions(grid_hw)), grid_hw

    def positions(self, grid_hw: tuple[int, int]) -> Tensor:
        """(1 + h·w, W): the class token's own row, then the patches' resized to the grid."""
        table = self.positional_embedding
        if grid_hw == self.grid_hw:
            return table
        patches = table[1:].unflatten(0, self.grid_hw)[None]
        resized = resize_positions(patches, grid_hw, self.shape.pos_interp)
        return torch.cat([table[:1], resized[0].flatten(0, 1)])

    def forward(self, image: Tensor) -> CLIPFeatures:
        x, grid_hw = self.embed(image)
        entry, maps = x[:, 1:], []
        for i, block in enumerate(self.transformer.resblocks):
            x = block(x)
            if i in self.shape.out_blocks:
                maps.append(x[:, 1:])
        return CLIPFeatures([*maps, entry], grid_hw, self.vector(x[:, 0]))

    def vector(self, class_token: Tensor) -> Tensor:
        """Last class token (N, W) → f_cls (N, D) of length 1, in float32."""
        joint = self.ln_post(class_token) @ self.proj
        return functional.normalize(joint.float(), dim=-1)
