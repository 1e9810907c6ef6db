"""CLIP's text encoder: tokens of a text → its direction in the space shared with images.

    ids ─ embedding + positions ─ [block, looking back only] × depth ─ ln_final ─ end token ─ proj

It runs once per label domain, before training; no network contains it. Names equal those of the
published checkpoint.

Source: CLIP, arXiv:2103.00020.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.errors import ModelError
from hp_trainer.models.schnet.clip_vision import CLIPAttention, CLIPShape, CLIPTransformer

HEAD_WIDTH = 64
"""Every published CLIP has heads of this width; the weights do not show it."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes of the encoder; the defaults are those beside ViT-B/16."""

    vocabulary: int = 49408
    context: int = 77
    width: int = 512
    depth: int = 12
    joint: int = 512

    @property
    def heads(self) -> int:
        """Heads of the attention."""
        return max(1, self.width // HEAD_WIDTH)


class CausalAttention(CLIPAttention):
    """Self-attention in which a token sees itself and those before it. (N, T, W) → same."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend to what comes before."""
        qkv = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, d)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class CLIPText(nn.Module):
    """Ids (N, T), the end token the highest → (N, joint), of any length."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.token_embedding = nn.Embedding(shape.vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(shape.context, width))
        blocks = CLIPShape(width=width, depth=shape.depth, heads=shape.heads)
        self.transformer = CLIPTransformer(blocks)
        for block in self.transformer.resblocks:
            block.attn = CausalAttention(width, shape.heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, shape.joint))

    def forward(self, ids: Tensor) -> Tensor:
        """Embed texts; T may be anything up to the context."""
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]  # (N, T, W)
        for block in self.transformer.resblocks:
            x = block(x)
        end = ids.argmax(-1)
        return self.ln_final(x[torch.arange(len(x)), end]) @ self.text_projection


def text_shape(tensors: Mapping[str, Tensor]) -> TextShape:
    """Sizes of the encoder that weights named as here belong to.

    Raises:
        ModelError: a table that the sizes are read from is missing or no table.
    """
    names = ("token_embedding.weight", "positional_embedding", "text_projection")
    tables = {name: tensors[name] for name in names if name in tensors}
    if lacking := [name for name in names if name not in tables or tables[name].ndim != 2]:
        raise ModelError(
            f"this text encoder of CLIP has no {' and no '.join(lacking)}; take a file with the "
            "whole model, or one with the text encoder and its projection"
        )
    embedding, positions, projection = (tables[name].shape for name in names)
    blocks = {name.split(".")[2] for name in tensors if name.startswith("transformer.resblocks.")}
    return TextShape(
        vocabulary=embedding[0],
        context=positions[0],
        width=embedding[1],
        depth=len(blocks),
        joint=projection[1],
    )
