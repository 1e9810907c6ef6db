"""Deformable sampling as one operator, in the form of TensorRT's own plugin.

    value (N, S, M, d) · spatial_shapes (L, 2) int32 (h, w) · level_start_index (L,) int32
    sampling_locations (N, Lq, M, L, P, 2) · attention_weights (N, Lq, M, L, P) → (N, Lq, M, d)

In a traced graph it is one node, which an exporter can spell `MultiscaleDeformableAttnPlugin_TRT`;
run by torch it computes what the other cores compute. It has no gradient: train with another core.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hp_trainer.models.encoder import gather_core

OPERATOR = "hp_sdk::multiscale_deformable_attention"


@torch.library.custom_op(OPERATOR, mutates_args=())
def multiscale_deformable_attention(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples, (N, Lq, M, d)."""
    del level_start_index  # follows from the shapes
    shapes = [(int(h), int(w)) for h, w in spatial_shapes.tolist()]
    out = gather_core(value, shapes, sampling_locations, attention_weights)
    return out.reshape(*sampling_locations.shape[:3], value.shape[-1])


@multiscale_deformable_attention.register_fake
def _shape_of_output(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    del spatial_shapes, level_start_index, attention_weights
    return value.new_empty(*sampling_locations.shape[:3], value.shape[-1])


def plugin_core(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """The core `plugin`: level sizes and starts become real int32 tensors, as the plugin wants."""
    starts = [0]
    for h, w in shapes[:-1]:
        starts.append(starts[-1] + h * w)
    sizes = torch.tensor(shapes, dtype=torch.int32, device=value.device)
    first = torch.tensor(starts, dtype=torch.int32, device=value.device)
    return multiscale_deformable_attention(value, sizes, first, locations, weights).flatten(2)
