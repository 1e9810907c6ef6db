"""Published SAM and CLIP weights under the names and in the shapes of SCHNet's own encoders.

    file ─ which layout? ─► its share of the tensors ─ rename ─ transpose ─ join q, k, v ─► ours

Ours are the names of the first publication, without the prefix of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from hp_sdk.errors import ModelError
from hp_trainer.weight_layouts import OTHER_NETWORKS, Layout, OtherNetwork, Weights


@dataclass(frozen=True, slots=True)
class PartLayout(Layout):
    """One encoder in the names of one library; `renames` lead to ours."""

    owns: str = ""
    """Pattern that the names of the encoder's tensors begin with; empty: the file is all its."""
    transposed: tuple[str, ...] = ()
    """Matrices, by our names, that the library keeps the other way round."""


@dataclass(frozen=True, slots=True)
class Part:
    """An encoder that published weights are imported into."""

    title: str
    accepted: str
    """What may be given, and where it comes from."""
    layouts: Mapping[str, PartLayout]
    droppable: str
    """Tensors, by our names, that SCHNet has no use for."""


@dataclass(frozen=True, slots=True)
class PartWeights:
    """The tensors of one encoder, named and shaped as here."""

    layout: str
    tensors: dict[str, Tensor]
    renamed: frozenset[str]
    """Names in `tensors` that the file does not have."""
    taken: int
    """Tensors of the file that went into `tensors`."""


HUGGING_FACE_CLIP = (
    (r"^(vision|text)_model\.", ""),
    (r"^embeddings\.patch_embedding\.", "conv1."),
    (r"^embeddings\.(class_embedding|token_embedding)\b", r"\1"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),  # spelled like this
    (r"^post_layernorm\.", "ln_post."),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^visual_projection\.weight$", "proj"),
    (r"^text_projection\.weight$", "text_projection"),
)

PARTS: dict[str, Part] = {
    "sam": Part(
        title="SAM encoder",
        accepted="sam_vit_b, sam_vit_l or sam_vit_h of Segment Anything, as published or in the "
        "layout of Hugging Face or timm",
        layouts={
            "original": PartLayout(
                "image_encoder.blocks.0.attn.rel_pos_h",
                ((r"^image_encoder\.", ""),),
                owns=r"image_encoder\.",
            ),
            "hugging-face": PartLayout(
                "vision_encoder.layers.0.attn.rel_pos_h",
                (
                    (r"^vision_encoder\.", ""),
                    (r"^layers\.", "blocks."),
                    (r"\.layer_norm([12])\.", r".norm\1."),
                    (r"^patch_embed\.projection\.", "patch_embed.proj."),
                ),
                owns=r"vision_encoder\.",
            ),
            "timm": PartLayout(
                "blocks.0.attn.rel_pos_h", ((r"\.mlp\.fc([12])\.", r".mlp.lin\1."),)
            ),
        },
        droppable=r"neck\.",
    ),
    "clip": Part(
        title="CLIP encoder",
        accepted="a CLIP with a ViT, as published by OpenAI, or in the layout of open_clip or "
        "Hugging Face",
        layouts={
            "openai": PartLayout("visual.class_embedding", ((r"^visual\.", ""),), owns=r"visual\."),
            "hugging-face": PartLayout(
                "vision_model.embeddings.class_embedding",
                HUGGING_FACE_CLIP,
                owns=r"vision_model\.|visual_projection\.",
                transposed=("proj",),
            ),
        },
        droppable=r"embeddings\.position_ids$",
    ),
    "text": Part(
        title="text encoder",
        accepted="a CLIP with its text encoder, as published by OpenAI, or in the layout of "
        "open_clip or Hugging Face",
        layouts={
            "openai": PartLayout(
                "token_embedding.weight",
                owns=r"(token_embedding|transformer|ln_final)\.|(positional_embedding"
                r"|text_projection|attn_mask)$",
            ),
            "open_clip": PartLayout(
                "text.token_embedding.weight", ((r"^text\.", ""),), owns=r"text\."
            ),
            "hugging-face": PartLayout(
                "text_model.embeddings.token_embedding.weight",
                HUGGING_FACE_CLIP,
                owns=r"text_model\.|text_projection\.",
                transposed=("text_projection",),
            ),
        },
        droppable=r"embeddings\.position_ids$|attn_mask$",
    ),
}

STRANGERS = (
    OtherNetwork(
        "a SCHNet of this project (start from it with train.init)", ("adapter.level_embed",), ""
    ),
    OtherNetwork(
        "a CLIP with a ResNet as image encoder", ("visual.attnpool.positional_embedding",), ""
    ),
    OtherNetwork("Segment Anything 2", ("image_encoder.trunk.pos_embed",), ""),
    *OTHER_NETWORKS,
)
"""Whom unknown weights may be of."""


def take_part(tensors: Weights, key: str) -> PartWeights:
    """The share of one encoder, `key` of `PARTS`.

    Raises:
        ModelError: nothing of it is in these tensors.
    """
    part = PARTS[key]
    name = next((n for n, item in part.layouts.items() if item.signature in tensors), None)
    if name is None:
        raise ModelError(f"foundation.{key}: {_who(tensors)}; give {part.accepted}")
    layout = part.layouts[name]
    own = {n: tensor for n, tensor in tensors.items() if re.match(layout.owns, n)}
    named = {layout.rename(n): tensor for n, tensor in own.items()}
    for matrix in layout.transposed:
        if matrix in named and named[matrix].ndim == 2:
            named[matrix] = named[matrix].T.contiguous()
    named = join_projections(named)
    return PartWeights(name, named, frozenset(named.keys() - own.keys()), len(own))


def has_part(tensors: Weights, key: str) -> bool:
    """Whether the tensors hold that encoder in a known layout."""
    return any(layout.signature in tensors for layout in PARTS[key].layouts.values())


def join_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q_proj, k_proj, v_proj of an attention, if all three are there, as its one in_proj."""
    joined = dict(tensors)
    for name in tensors:
        if found := re.fullmatch(r"(.*\.)q_proj\.(weight|bias)", name):
            stem, kind = found.groups()
            three = [tensors.get(f"{stem}{letter}_proj.{kind}") for letter in "qkv"]
            present = [tensor for tensor in three if tensor is not None]
            if len(present) == 3 and len({tensor.shape for tensor in present}) == 1:
                joined[f"{stem}in_proj_{kind}"] = torch.cat(present)
                for letter in "qkv":
                    del joined[f"{stem}{letter}_proj.{kind}"]
    return joined


def _who(tensors: Weights) -> str:
    for other in STRANGERS:
        if any(signature in tensors for signature in other.signatures):
            return f"these weights are {other.name}"
    return f"these tensors ({', '.join(list(tensors)[:3])}, …) are of no known layout"


# ---- sizes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ViTSize:
    """What tells one ViT from another."""

    width: int
    depth: int
    patch: int
    grid: int
    """Edge, in tokens, of the map that the positions were learned on."""

    def __str__(self) -> str:
        name = PUBLISHED[self][0] if self in PUBLISHED else "a ViT"
        return (
            f"{name} (width {self.width}, {self.depth} blocks, patch {self.patch}, positions on "
            f"{self.grid}x{self.grid})"
        )


PUBLISHED: dict[ViTSize, tuple[str, int]] = {
    ViTSize(768, 12, 16, 64): ("sam_vit_b", 12),
    ViTSize(1024, 24, 16, 64): ("sam_vit_l", 16),
    ViTSize(1280, 32, 16, 64): ("sam_vit_h", 16),
    ViTSize(768, 12, 16, 14): ("CLIP ViT-B/16", 12),
    ViTSize(768, 12, 32, 7): ("CLIP ViT-B/32", 12),
    ViTSize(1024, 24, 14, 16): ("CLIP ViT-L/14", 16),
    ViTSize(1024, 24, 14, 24): ("CLIP ViT-L/14@336px", 16),
}
"""Name, and heads of the attention, which CLIP's weights do not show."""

SIZE_TENSORS = {
    "sam": ("patch_embed.proj.weight", "pos_embed"),
    "clip": ("conv1.weight", "positional_embedding"),
}


def vit_size(tensors: Weights, key: str) -> ViTSize | None:
    """Size of an image encoder in our names; None where the tensors do not tell."""
    patches, positions = (tensors.get(name) for name in SIZE_TENSORS[key])
    if patches is None or positions is None:
        return None
    if patches.ndim != 4 or positions.ndim not in (2, 4) or not len(positions):
        return None
    blocks = {found[1] for name in tensors if (found := re.search(r"blocks\.(\d+)\.", name))}
    grid = positions.shape[1] if positions.ndim == 4 else isqrt(len(positions) - 1)
    return ViTSize(patches.shape[0], len(blocks), patches.shape[2], grid)
