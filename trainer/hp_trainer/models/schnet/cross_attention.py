"""Deformable attention from one set of tokens to the maps of another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hp_trainer.models.encoder import DeformableAttention, Shapes, deformable_sampling
from hp_trainer.models.precision import without_autocast


class DeformableCrossAttention(DeformableAttention):
    """Every query looks at `points` learned places on every level of other tokens' maps.

    Values are `ratio` times as wide as the tokens. Queries (N, Lq, C), tokens (N, S, C), reference
    points (Lq, 2) in [0, 1], [(h, w)] of the tokens' levels → (N, Lq, C).

    Source: Deformable DETR, arXiv:2010.04159, Eq. (3).
    """

    def __init__(
        self, width: int, heads: int, levels: int, *, points: int, ratio: float, core: str
    ) -> None:
        super().__init__(width, heads, levels, points, core)
        value = int(width * ratio)
        self.value_proj = _projection(width, value)
        self.output_proj = _projection(value, width)

    def forward(self, query: Tensor, tokens: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        value = self.value_proj(tokens)
        # sampling positions lose whole pixels in half precision (spec §5.2)
        with without_autocast(query):
            sampled = self._sample(query.float(), value.float(), reference, shapes)
        return self.output_proj(sampled.to(value.dtype))

    def _sample(self, query: Tensor, value: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        n, count, _ = query.shape
        offsets = _exact(self.sampling_offsets, query)
        offsets = offsets.reshape(n, count, self.heads, self.levels, self.points, 2)
        weights = _exact(self.attention_weights, query).reshape(n, count, self.heads, -1)
        weights = weights.softmax(-1).reshape(offsets.shape[:-1])
        extent = torch.tensor([(w, h) for h, w in shapes], device=query.device, dtype=query.dtype)
        locations = reference[None, :, None, None, None] + offsets / extent[:, None]
        value = value.reshape(n, value.shape[1], self.heads, -1)  # (N, S, M, d)
        return deformable_sampling(value, shapes, locations, weights, core=self.core)


def _exact(layer: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, layer.weight.float(), layer.bias.float())


def _projection(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
