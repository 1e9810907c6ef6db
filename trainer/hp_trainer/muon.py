"""Muon: momentum of hidden weight matrices, turned into the nearest semi-orthogonal matrix.

    gradient ─ Nesterov momentum ─ Newton-Schulz ─► U Vᵀ · 0.2 √(longer side) · lr

Every direction of a matrix so learns at one speed, where AdamW follows the few that dominate the
gradient. Vectors, embeddings, the first convolution and the heads stay with AdamW, at the same
learning rate: the factor gives both steps the same root mean square.

Source: Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon); the factor and the weight
decay from Muon is Scalable for LLM Training, arXiv:2502.16982, Section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of a quintic that takes singular values of (0, 1] to about 1 in `STEPS` applications."""
STEP_RMS = 0.2
"""Root mean square of an update, which is also AdamW's usual one."""


class Muon(torch.optim.AdamW):
    """Muon for groups with `orthogonal` set, AdamW for the others."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. The gradients of Muon's tensors are used up (None afterwards)."""
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    if (gradient := parameter.grad) is not None:
                        self._update(parameter, gradient, group["lr"], group["weight_decay"])
                        parameter.grad = None  # AdamW passes over it
        return super().step(closure)

    def _update(self, parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[parameter]
        if not state:
            # AdamW looks for the number of steps in the state of every tensor
            state |= {"step": torch.zeros(()), "momentum_buffer": torch.zeros_like(parameter)}
        state["step"] += 1
        momentum: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(momentum, MOMENTUM).flatten(1)
        turned = orthogonalised(matrix).reshape(parameter.shape)
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(turned, alpha=-lr * STEP_RMS * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U Vᵀ of `matrix` (m, n) = U S Vᵀ: its singular values become 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)
