"""Three up-sampling Swin stages: E5 at 1/32 → H_1, H_2, H_3 at 1/16, 1/8, 1/4.

    prev ─ up×2 ─┐
                 ├ concat ─ 1×1 ─ norm ─ relu ─ [W-MSA, MLP][SW-MSA, MLP] ─► H_l
    skip ────────┘

The paper names three successive Swin transformers with up-sampling and no more; the reading
here is spec §2.4 (register A14).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e4
"""Added to a masked score: exp(-1e4) is exactly 0 in fp32 and -1e4 still fits fp16."""


@cache
def window_regions(h: int, w: int, window: int, shift: int) -> np.ndarray:
    """Which tokens of a window may see each other: (windows, window²) int64, -1 marks padding.

    After the cyclic shift a window can hold pieces from opposite image borders; pieces carry
    different ids.
    """
    rows, columns = (-(-size // window) * window for size in (h, w))
    ids = np.full((rows, columns), -1, np.int64)
    ids[:h, :w] = 0
    ids = np.roll(ids, (-shift, -shift), (0, 1))
    if shift:
        band_y, band_x = (
            np.searchsorted([n - window, n - shift], np.arange(n), side="right")
            for n in (rows, columns)
        )
        ids = np.where(ids < 0, -1, band_y[:, None] * 3 + band_x[None, :])
    ids = ids.reshape(rows // window, window, columns // window, window)
    return ids.transpose(0, 2, 1, 3).reshape(-1, window * window)


@cache
def relative_index(window: int) -> np.ndarray:
    """Row of the relative-position table for every (query, key) of a window: (window²,)² int64."""
    y, x = np.divmod(np.arange(window * window), window)
    dy = y[:, None] - y[None] + window - 1
    dx = x[:, None] - x[None] + window - 1
    return dy * (2 * window - 1) + dx


class DropPath(nn.Module):
    """Drop a residual branch per sample while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a relative-position bias.

    Source: Swin Transformer, arXiv:2103.14030, Eq. (4).
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)

    def forward(self, x: Tensor, regions: Tensor, *, masked: bool) -> Tensor:
        """`x` (N·nW, w², D), windows fastest; `regions` (nW, w²) → (N·nW, w², D)."""
        count, area, width = x.shape
        qkv = self.qkv(x).reshape(count, area, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind()  # (N·nW, heads, w², d)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores = scores + self._bias(area).to(scores.dtype)
        if masked:
            hidden = (regions[:, :, None] != regions[:, None]) | (regions[:, None] < 0)
            scores = scores.reshape(-1, len(regions), self.heads, area, area)
            scores = scores + (hidden.to(scores.dtype) * MASKED)[:, None]
            scores = scores.reshape(count, self.heads, area, area)
        out = scores.softmax(-1) @ v
        return self.proj(out.transpose(1, 2).reshape(count, area, width))

    def _bias(self, area: int) -> Tensor:
        index = torch.as_tensor(relative_index(self.window), device=self.relative_bias.device)
        rows = self.relative_bias.index_select(0, index.reshape(-1))
        return rows.reshape(area, area, -1).permute(2, 0, 1)


class SwinBlock(nn.Module):
    """LayerNorm, (shifted) window attention, LayerNorm, MLP, each with a residual. NHWC."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        *,
        shift: int,
        mlp_ratio: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        h, w, size = int(x.shape[1]), int(x.shape[2]), self.window
        shift = self.shift if max(h, w) > size else 0
        pad_y, pad_x = -h % size, -w % size
        if pad_y or pad_x:
            x = functional.pad(x, (0, 0, 0, pad_x, 0, pad_y))
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        rows, columns = h + pad_y, w + pad_x
        masked = bool(shift or pad_y or pad_x)
        regions = torch.as_tensor(window_regions(h, w, size, shift), device=x.device)
        windows = self.attn(to_windows(x, size), regions, masked=masked)
        x = from_windows(windows, size, rows, columns)
        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        return x[:, :h, :w] if pad_y or pad_x else x


def to_windows(x: Tensor, size: int) -> Tensor:
    """(N, h, w, D) → (N·nW, size², D), windows of one image together, row-major."""
    _, h, w, width = x.shape
    x = x.reshape(-1, h // size, size, w // size, size, width)
    return x.transpose(2, 3).reshape(-1, size * size, width)


def from_windows(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    """Inverse of `to_windows`."""
    x = windows.reshape(-1, h // size, w // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, windows.shape[-1])


class SwinStage(nn.Module):
    """`depth` Swin blocks, every second one shifted by half a window. (N, D, h, w) → same."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        window: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    width,
                    heads,
                    window,
                    shift=(i % 2) * (window // 2),
                    mlp_ratio=mlp_ratio,
                    drop_path=drop_path,
                )
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class UpAndMix(nn.Conv2d):
    """Coarse (N, D, h, w), up-sampled, and fine (N, D, 2h, 2w), joined and convolved.

    A 1×1 convolution commutes with up-sampling, so its half for the coarse map comes first: the
    same sums, a quarter of those products, and no joined map.
    """

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        size = (int(fine.shape[2]), int(fine.shape[3]))
        if self.kernel_size != (1, 1):
            return super().forward(torch.cat([_up(coarse, size), fine], 1))
        for_coarse, for_fine = self.weight.split(coarse.shape[1], 1)
        own = functional.conv2d(fine, for_fine, self.bias)
        return _up(functional.conv2d(coarse, for_coarse), size) + own


def _up(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)


class DecoderStage(nn.Module):
    """Up-sample ×2, join the skip, mix, attend: (N, D, h, w), (N, D, 2h, 2w) → (N, D, 2h, 2w)."""

    def __init__(
        self, width: int, swin: SwinStage, norm: Callable[[int], nn.Module], kernel: int = 1
    ) -> None:
        super().__init__()
        mix = UpAndMix(2 * width, width, kernel, padding=kernel // 2, bias=False)
        self.fuse = nn.Sequential(mix, norm(width))
        self.swin = swin

    def forward(self, previous: Tensor, skip: Tensor) -> Tensor:
        mix, norm = self.fuse
        return self.swin(torch.relu(norm(mix(previous, skip))))


class Decoder(nn.Module):
    """Encoded maps and backbone maps by stride → [H_1, H_2, H_3] at strides 16, 8, 4.

    The skip of a stride is its encoded map, or its backbone map through a 1×1 `lateral` where
    the encoder does not reach (stride 4 always).
    """

    def __init__(self, stages: Sequence[DecoderStage], lateral: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleDict({str(stride): layer for stride, layer in lateral.items()})

    def forward(self, encoded: Mapping[int, Tensor], maps: Mapping[int, Tensor]) -> list[Tensor]:
        outputs, x = [], encoded[32]
        for stride, stage in zip((16, 8, 4), self.stages, strict=True):
            lateral = str(stride) in self.lateral
            skip = self.lateral[str(stride)](maps[stride]) if lateral else encoded[stride]
            x = stage(x, skip)
            outputs.append(x)
        return outputs
