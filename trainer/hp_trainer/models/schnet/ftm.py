"""FTM: learned tokens and a small bottleneck adjust what each frozen layer of SAM says.

    f_i ─ softmax(f_i T_iᵀ) MLP_t(T_i) ─ MLP_f ─ ρ ─(+ f_i)─► f'_i
    f'_i ─ W_d ─ GELU ─ V_i ─ GELU ─ W_u ─(+ f_i)─► f''_i

The tokens T_i and the mixers V_i belong to a layer, everything else to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

RESIDUALS = ("f", "fprime")


@dataclass(frozen=True, slots=True)
class FTMShape:
    """Sizes and readings; see `SCHNetConfig` for what the readings mean."""

    width: int = 1024
    depth: int = 24
    tokens: int = 100
    reduction: int = 4
    rho: float = 1e-3
    per_layer_rho: bool = False
    attn_scale: bool = True
    drop_first: bool = False
    inner_residual: bool = False
    residual: str = "f"
    zero_init: bool = True


class FTM(nn.Module):
    """Features f_i (N, T, C) and the layer's number i → f''_i (N, T, C).

    Source: SCHNet, Eqs. (5), (6); `mlp_t`, `mlp_f`, `down`, `mix[i]`, `up` are MLP_t, MLP_f, W_d,
    V_i, W_u. Initial tokens and rho: Rein, arXiv:2312.04265.
    """

    def __init__(self, shape: FTMShape) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        hidden = width // shape.reduction
        self.tokens = nn.Parameter(torch.empty(shape.depth, shape.tokens, width))
        self.mlp_t = nn.Linear(width, width)
        self.mlp_f = nn.Linear(width, width)
        count = (shape.depth,) if shape.per_layer_rho else ()
        self.rho = nn.Parameter(torch.full(count, shape.rho))
        self.down = nn.Linear(width, hidden)
        self.mix = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(shape.depth))
        self.up = nn.Linear(hidden, width)
        bound = sqrt(6 / (3 * 16**2 + width))
        nn.init.uniform_(self.tokens, -bound, bound)
        if shape.zero_init:
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

    @property
    def score_scale(self) -> float:
        """Factor on the scores of Eq. (5)."""
        return self.shape.width**-0.5 if self.shape.attn_scale else 1.0

    def forward(self, f: Tensor, layer: int) -> Tensor:
        return self.bottleneck(f, self.consult(f, layer), layer)

    def consult(self, f: Tensor, layer: int) -> Tensor:
        """f'_i of Eq. (5): what the layer's tokens have to add."""
        tokens = self.tokens[layer]  # (m, C)
        weights = (f @ tokens.T * self.score_scale).softmax(-1)  # (N, T, m)
        if self.shape.drop_first:
            weights, tokens = weights[..., 1:], tokens[1:]
        # not a module call: torch's FLOP counter fails on modules that take a slice of a parameter
        values = functional.linear(tokens, self.mlp_t.weight, self.mlp_t.bias)
        update = weights @ values
        if self.shape.inner_residual:
            update = update + f
        return self.rho_of(layer) * self.mlp_f(update) + f

    def bottleneck(self, f: Tensor, consulted: Tensor, layer: int) -> Tensor:
        """f''_i of Eq. (6); literally, its residual is f_i and not f'_i."""
        x = functional.gelu(self.down(consulted))
        x = self.up(functional.gelu(self.mix[layer](x)))
        return x + (f if self.shape.residual == "f" else consulted)

    def rho_of(self, layer: int) -> Tensor:
        """The scalar that weighs Eq. (5) in a layer."""
        return self.rho[layer] if self.shape.per_layer_rho else self.rho
