"""Multi-scale deformable attention encoder (the pixel decoder SST takes over from Mask2Former).

    C5, C4, C3 ─ 1×1 + norm ─► tokens (N, S, D) + sine position + level embedding
        └► [deformable self-attention ─ LayerNorm ─ FFN ─ LayerNorm] × layers ─► E5, E4, E3

Three interchangeable cores sample the same values (spec §5.2): `grid_sample` for PyTorch, ONNX
Runtime and OpenVINO, `gather` for TensorRT, `plugin` as one node; `loop` is the readable reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_trainer.models.precision import without_autocast

Shapes = Sequence[tuple[int, int]]


def deformable_sampling(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, *, core: str = "grid_sample"
) -> Tensor:
    """Weighted sum of bilinear samples over levels and points, zero outside, half-pixel centres.

    `value` (N, S, M, d) with S the tokens of all levels, row-major; `shapes` [(h, w)] per level;
    `locations` (N, Lq, M, L, P, 2) as (x, y) in [0, 1]; `weights` (N, Lq, M, L, P).
    Returns (N, Lq, M·d), head-major.

    Source: Deformable DETR, arXiv:2010.04159, Eq. (3).
    """
    return CORES[core](value, shapes, locations, weights)


def _grid_sample_core(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    n, _, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    grids = locations * 2 - 1  # (N, Lq, M, L, P, 2)
    start, sampled = 0, []
    for level, (h, w) in enumerate(shapes):
        plane = value[:, start : start + h * w].permute(0, 2, 3, 1)  # (N, M, d, h·w)
        plane = plane.reshape(n * heads, channels, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(n * heads, queries, points, 2)
        sampled.append(
            functional.grid_sample(
                plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False
            )
        )  # (N·M, d, Lq, P)
        start += h * w
    samples = torch.cat(sampled, dim=-1)  # (N·M, d, Lq, L·P)
    mix = weights.transpose(1, 2).reshape(n * heads, 1, queries, levels * points)
    out = (samples * mix).sum(-1)  # (N·M, d, Lq)
    return out.reshape(n, heads * channels, queries).transpose(1, 2)


def gather_core(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Rows of a table, four per sample: no GridSample, which some TensorRT versions miscompute."""
    n, tokens, heads, channels = value.shape
    table = value.reshape(n * tokens * heads, channels)
    image = torch.arange(n, device=value.device)[:, None, None, None]
    head = torch.arange(heads, device=value.device)[None, None, :, None]
    start, out = 0, torch.zeros((), dtype=value.dtype, device=value.device)
    for level, (h, w) in enumerate(shapes):
        x = locations[:, :, :, level, :, 0] * w - 0.5  # (N, Lq, M, P)
        y = locations[:, :, :, level, :, 1] * h - 0.5
        x0, y0 = x.floor(), y.floor()
        for corner_x, corner_y in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
            bilinear = (1 - (x - corner_x).abs()) * (1 - (y - corner_y).abs())
            inside = (corner_x >= 0) & (corner_x < w) & (corner_y >= 0) & (corner_y < h)
            column, row = corner_x.clamp(0, w - 1).long(), corner_y.clamp(0, h - 1).long()
            index = ((image * tokens + start + row * w + column) * heads) + head
            mix = weights[:, :, :, level] * bilinear * inside.to(value.dtype)
            rows = table[index.reshape(-1)].reshape(*index.shape, channels)  # (N, Lq, M, P, d)
            out = out + (rows * mix.unsqueeze(-1)).sum(3)
        start += h * w
    return out.flatten(2)  # (N, Lq, M·d)


def _loop_core(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    n, _, heads, channels = value.shape
    out = value.new_zeros(n, locations.shape[1], heads, channels)
    for b, q, m, level, p in torch.cartesian_prod(
        *(torch.arange(size) for size in locations.shape[:5])
    ).tolist():
        h, w = shapes[level]
        start = sum(a * b_ for a, b_ in shapes[:level])
        x, y = (locations[b, q, m, level, p] * torch.tensor([w, h]) - 0.5).tolist()
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < h and 0 <= column < w:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    token = value[b, start + row * w + column, m]
                    out[b, q, m] += weights[b, q, m, level, p] * share * token
    return out.flatten(2)


def _plugin_core(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    from hp_trainer.models.deformable_plugin import plugin_core  # registers an operator

    return plugin_core(value, shapes, locations, weights)


CORES: dict[str, Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]] = {
    "grid_sample": _grid_sample_core,
    "gather": gather_core,
    "plugin": _plugin_core,
    "loop": _loop_core,
}


class DeformableAttention(nn.Module):
    """Every token looks at `points` learned places on every level.

    Source: Deformable DETR, arXiv:2010.04159, Eq. (3); initialisation as there (eight directions).
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, core: str) -> None:
        super().__init__()
        self.heads, self.levels, self.points, self.core = heads, levels, points, core
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialise()

    def _initialise(self) -> None:
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)  # (M, 2)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        radius = torch.arange(1, self.points + 1)[None, None, :, None]
        bias = direction[:, None, None, :] * radius  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).reshape(-1))
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()
            for layer in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()

    def forward(self, query: Tensor, tokens: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """`query`, `tokens` (N, S, D); `reference` (S, 2) in [0, 1] → (N, S, D)."""
        n, count, _ = query.shape
        value = self.value_proj(tokens).reshape(n, count, self.heads, -1)
        offsets = self.sampling_offsets(query)
        offsets = offsets.reshape(n, count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).reshape(n, count, self.heads, -1)
        weights = weights.softmax(-1).reshape(offsets.shape[:-1])
        extent = torch.tensor([(w, h) for h, w in shapes], device=query.device, dtype=query.dtype)
        locations = reference[None, :, None, None, None] + offsets / extent[:, None]
        out = deformable_sampling(value, shapes, locations, weights, core=self.core)
        return self.output_proj(out)


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each followed by LayerNorm."""

    def __init__(self, width: int, attention: DeformableAttention, ffn: int) -> None:
        super().__init__()
        self.self_attn = attention
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        x = self.norm1(x + self.self_attn(x + position, x, reference, shapes))
        return self.norm2(x + self.linear2(torch.relu(self.linear1(x))))


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Sizes of the encoder; `core` is the sampling core."""

    width: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    ffn: int = 1024
    core: str = "grid_sample"


class Encoder(nn.Module):
    """[C_coarse … C_fine] → [E_coarse … E_fine], each (N, D, h, w) at the same sizes."""

    def __init__(
        self, in_channels: Sequence[int], shape: EncoderShape, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        width, levels = shape.width, len(in_channels)
        self.input_proj = nn.ModuleList(
            nn.Sequential(_projection(channels, width), norm(width)) for channels in in_channels
        )
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(
            EncoderLayer(
                width,
                DeformableAttention(width, shape.heads, levels, shape.points, shape.core),
                shape.ffn,
            )
            for _ in range(shape.layers)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        # sampling positions lose whole pixels in half precision (spec §2.3)
        with without_autocast(features[0]):
            return self._encode([feature.float() for feature in features])

    def _encode(self, features: Sequence[Tensor]) -> list[Tensor]:
        maps = [project(x) for project, x in zip(self.input_proj, features, strict=True)]
        shapes = [(int(x.shape[2]), int(x.shape[3])) for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)  # (N, S, D)
        position = self._positions(shapes, tokens)
        reference = torch.cat([pixel_centres(h, w) for h, w in shapes]).to(tokens.device)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, shapes)
        parts = tokens.split([h * w for h, w in shapes], 1)
        return [
            part.transpose(1, 2).reshape(part.shape[0], -1, h, w)
            for part, (h, w) in zip(parts, shapes, strict=True)
        ]

    def _positions(self, shapes: Shapes, like: Tensor) -> Tensor:
        width = like.shape[-1]
        sine = [sine_position(h, w, width).to(like) for h, w in shapes]
        levels = zip(sine, self.level_embed.unbind(), strict=True)
        return torch.cat([position + level for position, level in levels])  # (S, D)


def _projection(inputs: int, outputs: int) -> nn.Conv2d:
    projection = nn.Conv2d(inputs, outputs, 1)
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(_given(projection.bias))
    return projection


def _given(parameter: Tensor | None) -> Tensor:
    assert parameter is not None  # the layer was built with a bias
    return parameter


def pixel_centres(h: int, w: int) -> Tensor:
    """Centres of an h×w grid in [0, 1] as (x, y), row-major (h·w, 2)."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x, y], -1).reshape(h * w, 2)


def sine_position(h: int, w: int, width: int) -> Tensor:
    """Sine position code (h·w, width): first half for y, second for x, sin and cos interleaved.

    Indices start at 1 and are scaled to 2π; temperature 10000; eps 1e-6.

    Source: Mask2Former, arXiv:2112.01527 (the DETR position embedding).
    """
    half = width // 2
    wavelength = 10000.0 ** (2 * (torch.arange(half) // 2) / half)
    y = (torch.arange(1, h + 1) / (h + 1e-6) * 2 * math.pi)[:, None] / wavelength  # (h, half)
    x = (torch.arange(1, w + 1) / (w + 1e-6) * 2 * math.pi)[:, None] / wavelength

    def wave(phase: Tensor) -> Tensor:
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], 2).flatten(1)

    rows = wave(y)[:, None].expand(h, w, half)
    columns = wave(x)[None].expand(h, w, half)
    return torch.cat([rows, columns], -1).reshape(h * w, width)
