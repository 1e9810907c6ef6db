"""MST, multi-scale semantic transfer: categories of domain a mapped onto those of domain b.

    dataset level   X_0^{a→b} = (P_0 ⊙ M_static) V̂_0^{(a)}                       (Eq. 8)
    image level     X_l^{a→b} = (P_l ⊙ M_dyn,l)  V̂_l^{(a)},  l = 1..3            (Eq. 9)
                    P_l = softmax(Q̂_l^{(b)} K̂_l^{(a)ᵀ} / √D),
                    M_dyn,l = (S_l^{(b)} W_l^{(b)}) (S_l^{(a)} W_l^{(a)})ᵀ
    aligned by      scr(X, Y) = mean_z (1 - cos(x_z, y_z))                        (Eqs. 10, 11)

Source: SST, arXiv:2304.04140, Eqs. (8)–(11).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

SIDES = ("a", "b")

STOPS = ("none", "state", "mapped")
"""Side of the consistency loss that gets no gradient (register A9)."""

ImagePairs = tuple[Tensor, Tensor]
"""Positions (P,) of images of a and of b that meet, pair by pair."""


def scr(x: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
    """Semantic consistency regularisation: mean of 1 - cosine over categories and leading axes.

    `x`, `y` (..., Z, D), broadcastable. Norms are clamped to 1e-8, so a zero row counts 1.
    `rows` (..., Z) bool chooses the categories that count (register A8, `scr_skip_absent`); if
    none does, the loss is 0.

    Source: SST, arXiv:2304.04140, Eqs. (10), (11).
    """
    distance = 1 - functional.cosine_similarity(x.float(), y.float(), dim=-1, eps=1e-8)
    if rows is None:
        return distance.mean()
    rows = rows.expand_as(distance)
    return (distance * rows).sum() / rows.sum().clamp(min=1)


def meet(a: Tensor, b: Tensor, pairs: ImagePairs | None) -> tuple[Tensor, Tensor]:
    """Images of both domains side by side: (N, ...), (M, ...) → broadcastable to the pairs.

    Without `pairs` every image meets every other: (N, 1, ...), (1, M, ...).
    """
    return (a[:, None], b[None]) if pairs is None else (a[pairs[0]], b[pairs[1]])


class MST(nn.Module):
    """Transfer between the two domains of one pair.

    `m_static` (Z_b, Z_a): prior similarity of the categories. `dynamic_scale`: `sqrtd` divides
    M_dyn by √D, which leaves the loss unchanged and fits fp16; `none` is literal (register A6).
    Nor would renormalising the masked rows of Eq. (8) change it (register A1): the rows are only
    compared by their angle.

    Source: SST, arXiv:2304.04140, Eqs. (8), (9).
    """

    m_static: Tensor

    def __init__(
        self, width: int, m_static: Tensor, scales: int = 3, *, dynamic_scale: str = "sqrtd"
    ) -> None:
        super().__init__()
        self.dynamic_scale = dynamic_scale
        self.register_buffer("m_static", m_static.float(), persistent=False)
        self.q, self.k, self.v = (
            nn.ModuleList(_pair(width, bias=True) for _ in range(scales + 1)) for _ in range(3)
        )
        self.w = nn.ModuleList(_pair(width, bias=False) for _ in range(scales))

    def map_dataset(self, x0_a: Tensor, x0_b: Tensor) -> tuple[Tensor, Tensor]:
        """X_0 of both domains (Z, D) → X_0^{a→b} (Z_b, D), X_0^{b→a} (Z_a, D). Eq. (8)."""
        a_to_b = self._attend(0, x0_a, x0_b, "a") * self.m_static
        b_to_a = self._attend(0, x0_b, x0_a, "b") * self.m_static.T
        return a_to_b @ self._project("v", 0, "a", x0_a), b_to_a @ self._project("v", 0, "b", x0_b)

    def map_image(
        self,
        scale: int,
        states: tuple[Tensor, Tensor],
        semantics: tuple[Tensor, Tensor],
        pairs: ImagePairs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map images of a onto images of b and back, at scale l = 1..L. Eq. (9).

        `states` X_l and `semantics` S_l of a (N, Z_a, D) and b (M, Z_b, D).
        Returns X^{a→b} (N, M, Z_b, D) and X^{b→a} (N, M, Z_a, D), or (P, Z, D) with `pairs`.
        """
        x_a, x_b = meet(*states, pairs)
        s_a, s_b = meet(*semantics, pairs)
        m_dyn = self._dynamic(scale, s_a, s_b)  # (..., Z_b, Z_a)
        a_to_b = self._attend(scale, x_a, x_b, "a") * m_dyn
        b_to_a = self._attend(scale, x_b, x_a, "b") * m_dyn.transpose(-1, -2)
        return (
            a_to_b @ self._project("v", scale, "a", x_a),
            b_to_a @ self._project("v", scale, "b", x_b),
        )

    def _attend(self, scale: int, source: Tensor, target: Tensor, side: str) -> Tensor:
        """P_l: rows are the target's categories, columns those of the source `side`."""
        q = self._project("q", scale, "b" if side == "a" else "a", target)
        k = self._project("k", scale, side, source)
        return (q @ k.transpose(-1, -2) / source.shape[-1] ** 0.5).softmax(-1)

    def _dynamic(self, scale: int, s_a: Tensor, s_b: Tensor) -> Tensor:
        m_dyn = self._project("w", scale - 1, "b", s_b) @ self._project(
            "w", scale - 1, "a", s_a
        ).transpose(-1, -2)
        return m_dyn / s_a.shape[-1] ** 0.5 if self.dynamic_scale == "sqrtd" else m_dyn

    def _project(self, kind: str, scale: int, side: str, x: Tensor) -> Tensor:
        return self.get_submodule(f"{kind}.{scale}.{side}")(x)


def _pair(width: int, *, bias: bool) -> nn.ModuleDict:
    return nn.ModuleDict({side: nn.Linear(width, width, bias=bias) for side in SIDES})


def symmetric_scr(
    states: tuple[Tensor, Tensor],
    mapped: tuple[Tensor, Tensor],
    rows: tuple[Tensor | None, Tensor | None] = (None, None),
    *,
    stop: str = "none",
) -> Tensor:
    """Both directions of Eqs. (10), (11): scr(X^b, X^{a→b}) + scr(X^a, X^{b→a}).

    `states` X^a (..., Z_a, D), X^b (..., Z_b, D) and `rows` (..., Z), broadcastable to what is
    mapped: X^{a→b} (..., Z_b, D), X^{b→a} (..., Z_a, D). `stop` is one of `STOPS`.
    """
    if stop == "state":
        states = (states[0].detach(), states[1].detach())
    if stop == "mapped":
        mapped = (mapped[0].detach(), mapped[1].detach())
    (x_a, x_b), (a_to_b, b_to_a), (rows_a, rows_b) = states, mapped, rows
    return scr(x_b.expand_as(a_to_b), a_to_b, rows_b) + scr(x_a.expand_as(b_to_a), b_to_a, rows_a)
