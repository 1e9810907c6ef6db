"""MSE, multi-scale semantic exploration: categories of one domain exchange what they know.

    X_0 (Z, D) learned ─► X_1 ─► X_2 ─► X_3          X_l = (A_l ⊙ M_intra) V_l + X_{l-1}
             S_1 ────────┘   S_2 ┘   S_3 ┘            A_l = softmax(Q_l K_lᵀ / √D)

Source: SST, arXiv:2304.04140, Eqs. (5)–(7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hp_sdk.errors import ConfigError

INTRA_MASKS = ("post", "post_renorm", "pre", "none")


def associate(features: Tensor, x: Tensor) -> Tensor:
    """Dot product of every pixel with every category: F (N, D, h, w), X_3 (N, Z, D) → (N, Z, h, w).

    No bias and no temperature; computed at 1/4 because the product commutes with up-sampling.

    Source: SST, arXiv:2304.04140, Eq. (7).
    """
    return torch.einsum("ndhw,nzd->nzhw", features, x)


class MSE(nn.Module):
    """[S_1..S_L], each (N, Z, D) → [X_0 (Z, D), X_1..X_L each (N, Z, D)].

    `intra_mask` (register A1): `post` masks after the softmax and does not renormalise (the
    literal Eq. 6), `post_renorm` renormalises, `pre` masks before the softmax, `none` is Eq. (5).
    `share` uses one f_Q, f_K, f_V for all scales (register A5).

    Source: SST, arXiv:2304.04140, Eqs. (5), (6).
    """

    m_intra: Tensor

    def __init__(
        self,
        width: int,
        m_intra: Tensor,
        scales: int = 3,
        *,
        intra_mask: str = "post",
        share: bool = False,
    ) -> None:
        super().__init__()
        if intra_mask not in INTRA_MASKS:
            allowed = ", ".join(INTRA_MASKS)
            raise ConfigError(f"aux.intra_mask is {intra_mask!r}; choose one of {allowed}")
        self.intra_mask = intra_mask
        self.register_buffer("m_intra", m_intra.float(), persistent=False)
        self.x0 = nn.Parameter(torch.randn(len(m_intra), width) * 0.02)
        self.q, self.k, self.v = (
            nn.ModuleList(nn.Linear(width, width) for _ in range(1 if share else scales))
            for _ in range(3)
        )

    def forward(self, semantics: Sequence[Tensor]) -> list[Tensor]:
        states: list[Tensor] = [self.x0]
        for scale, s in enumerate(semantics):
            states.append(self.propagate(states[-1].expand_as(s), s, scale))
        return states

    def propagate(self, x: Tensor, s: Tensor, scale: int) -> Tensor:
        """X_{l-1}, S_l (N, Z, D) → X_l (N, Z, D); `scale` is l - 1."""
        scale = scale if len(self.q) > 1 else 0
        q, k, v = self.q[scale](x), self.k[scale](s), self.v[scale](s)
        scores = q @ k.transpose(-1, -2) / x.shape[-1] ** 0.5  # (N, Z, Z)
        return self._mask(scores) @ v + x

    def _mask(self, scores: Tensor) -> Tensor:
        if self.intra_mask == "none":
            return scores.softmax(-1)
        if self.intra_mask == "pre":
            hidden = self.m_intra == 0
            attention = scores.masked_fill(hidden, -torch.inf).softmax(-1)
            return attention.nan_to_num(0.0)  # a row without neighbours attends to nothing
        attention = scores.softmax(-1) * self.m_intra
        if self.intra_mask == "post_renorm":
            attention = attention / attention.sum(-1, keepdim=True).clamp(min=1e-8)
        return attention
