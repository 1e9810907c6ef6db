"""SAM's image encoder without its neck: the trunk of SCHNet.

    image (N, 3, H, W) ─ patch 16 + positions ─► (N, h, w, C) ─ [block] × depth ─► (N, h, w, C)
    block: x + attention(LN x), windowed or global;  x + MLP(LN x)

Names equal those below `image_encoder.` in the published checkpoint, so importing is a prefix map.

Source: Segment Anything, arXiv:2304.02643; relative positions: MViTv2, arXiv:2112.01526, Eq. (4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_trainer.models.decoder import from_windows, to_windows
from hp_trainer.models.schnet.positions import gather_relative, resize_positions

PATCH = 16
"""Input pixels per token."""

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class SAMShape:
    """Sizes of the encoder; the defaults are ViT-L."""

    width: int = 1024
    depth: int = 24
    heads: int = 16
    global_blocks: tuple[int, ...] = (5, 11, 17, 23)
    window: int = 14
    native_window: int = 14
    grid: int = 64
    relpos: str = "bias"
    pos_interp: str = "bicubic"


def _relative_scores(q: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products of a query with the offsets to each row and to each column of keys.

    `q` (N, M, h·w, d) unscaled; `rows` (h, h, d); `columns` (w, w, d) → (N, M, h·w, h) and
    (N, M, h·w, w).
    """
    h, w = len(rows), len(columns)
    grid = q.unflatten(2, (h, w))  # (N, M, h, w, d)
    by_row = _per_line(grid.permute(2, 0, 1, 3, 4), rows).permute(1, 2, 0, 3, 4)
    by_column = _per_line(grid.permute(3, 0, 1, 2, 4), columns).permute(1, 2, 3, 0, 4)
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


def _per_line(q: Tensor, table: Tensor) -> Tensor:
    """`q` (L, N, M, O, d), `table` (L, L, d) → (L, N, M, O, L).

    Lines lead, so that the product keeps the small table and not a copy of it per image.
    """
    scores = q.flatten(1, 3) @ table.transpose(1, 2)
    return scores.unflatten(1, q.shape[1:4])


def _attend_bias(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    by_row, by_column = _relative_scores(q, rows, columns)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (N, M, h·w, h·w)
    scores = scores.unflatten(-1, (len(rows), len(columns)))
    scores = scores + by_row.unsqueeze(-1) + by_column.unsqueeze(-2)
    return scores.flatten(-2).softmax(-1) @ v


def _attend_augmented(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same scores as one product, which fused attention kernels can take."""
    by_row, by_column = _relative_scores(q, rows, columns)
    h, w = len(rows), len(columns)
    which_row = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, 0)  # (h·w, h)
    which_column = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)  # (h·w, w)
    where = torch.cat([which_row, which_column], -1).expand(*k.shape[:2], -1, -1)
    q = torch.cat([q * q.shape[-1] ** -0.5, by_row.to(q.dtype), by_column.to(q.dtype)], -1)
    k = torch.cat([k, where], -1)  # (N, M, h·w, d + h + w)
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


RELPOS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "bias": _attend_bias,
    "augmented": _attend_augmented,
}
"""Two ways to the same attention with decomposed relative positions."""


class SAMAttention(nn.Module):
    """Multi-head attention over an (h, w) map with decomposed relative positions. NHWC."""

    def __init__(self, width: int, heads: int, table_edge: int, relpos: str) -> None:
        super().__init__()
        self.heads, self.relpos = heads, relpos
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_edge - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_edge - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(n, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (N, M, h·w, d)
        rows, columns = gather_relative(self.rel_pos_h, h), gather_relative(self.rel_pos_w, w)
        out = RELPOS[self.relpos](q, k, v, rows, columns)
        return self.proj(out.transpose(1, 2).reshape(n, h, w, -1))


class SAMMlp(nn.Module):
    """Two layers, exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, hidden)
        self.lin2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(functional.gelu(self.lin1(x)))


class SAMBlock(nn.Module):
    """Pre-norm block; `window` 0 attends over the whole map. (N, h, w, C) → same."""

    def __init__(self, shape: SAMShape, window: int) -> None:
        super().__init__()
        table_edge = shape.native_window if window else shape.grid
        self.window = window
        self.norm1 = nn.LayerNorm(shape.width, eps=EPS)
        self.attn = SAMAttention(shape.width, shape.heads, table_edge, shape.relpos)
        self.norm2 = nn.LayerNorm(shape.width, eps=EPS)
        self.mlp = SAMMlp(shape.width, 4 * shape.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        if not self.window:
            return self.attn(x)
        h, w, size = int(x.shape[1]), int(x.shape[2]), self.window
        down, right = -h % size, -w % size
        # the zeros come after the norm and no mask hides them: tokens attend to them as to any
        # other, with the key and value that the biases give (the encoder was trained that way)
        x = functional.pad(x, (0, 0, 0, right, 0, down))
        windows = to_windows(x, size).unflatten(1, (size, size))
        attended = self.attn(windows).flatten(1, 2)
        return from_windows(attended, size, h + down, w + right)[:, :h, :w]


class PatchEmbed(nn.Module):
    """(N, 3, H, W) → (N, H/16, W/16, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class SAMEncoder(nn.Module):
    """Image (N, 3, H, W), normalised → (N, H/16, W/16, C).

    SCHNet calls `embed` and the `blocks` one by one; `forward` runs them all.
    """

    def __init__(self, shape: SAMShape) -> None:
        super().__init__()
        self.pos_interp = shape.pos_interp
        self.patch_embed = PatchEmbed(shape.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.grid, shape.grid, shape.width))
        self.blocks = nn.ModuleList(
            SAMBlock(shape, 0 if i in shape.global_blocks else shape.window)
            for i in range(shape.depth)
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def embed(self, image: Tensor) -> Tensor:
        """Patches plus absolute positions, (N, h, w, C)."""
        x = self.patch_embed(image)
        grid_hw = (int(x.shape[1]), int(x.shape[2]))
        return x + resize_positions(self.pos_embed, grid_hw, self.pos_interp)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return x
