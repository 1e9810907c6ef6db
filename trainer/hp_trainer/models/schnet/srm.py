"""SRM: CLIP's map, gated by what the image shows, is added to SAM's features.

f_sim (N, Z) ─ W1 ─► g ┐
f_cv (N, T, W) ────────⊙─ W2 ─(+)─► f' ─ W3 ─ GELU ─ W4 ─(+)─► f''
f_sv (N, T, C) ───────────────┘      └────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.domains import Domain


class SRM(nn.Module):
    """Features f_sv (N, T, C), map f_cv (N, T, W), similarities {domain: (N, Z)} → (N, T, C).

    The gate g is the mean of the domains' gates W1 f_sim + b1, so that one pass through the trunk
    serves every domain; with one domain it is the paper's.

    Source: SCHNet, Eqs. (2) to (4); `gate`, `lift`, `down`, `up` are W1 to W4.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        *,
        clip_width: int,
        width: int,
        reduction: int = 4,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.gate = nn.ModuleDict({d.name: nn.Linear(d.num_classes, clip_width) for d in domains})
        self.lift = nn.Linear(clip_width, width)
        self.down = nn.Linear(width, width // reduction)
        self.up = nn.Linear(width // reduction, width)
        if zero_init:
            for layer in (self.lift, self.up):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, clip_map: Tensor, similarity: Mapping[str, Tensor]) -> Tensor:
        gates = [gate(similarity[name]) for name, gate in self.gate.items()]
        gate = torch.stack(gates).mean(0)[:, None]  # (N, 1, W)
        x = self.lift(clip_map * gate) + x  # Eq. (2)
        return x + self.up(functional.gelu(self.down(x)))  # Eq. (4)


def resize_tokens(x: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Tokens of one grid on another, bilinear: (N, T, W) → (N, T', W)."""
    if from_hw == to_hw:
        return x
    planes = x.transpose(1, 2).unflatten(2, from_hw)
    planes = functional.interpolate(planes, size=to_hw, mode="bilinear", align_corners=False)
    return planes.flatten(2).transpose(1, 2)
