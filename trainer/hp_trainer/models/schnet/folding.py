"""Constants of a trained SCHNet computed once: the same logits from fewer operations.

Everything here is exact. The result takes one input size and is for inference: its maps before
the decoder lack the norms that moved into the decoder. Means are never folded into convolutions
that pad with zeros, where they would change the border.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hp_sdk.errors import ConfigError
from hp_trainer.models.schnet.adapter import Injector
from hp_trainer.models.schnet.clip_vision import CLIPVision, Renormalise
from hp_trainer.models.schnet.ftm import FTM
from hp_trainer.models.schnet.positions import gather_relative, resize_positions
from hp_trainer.models.schnet.sam import PATCH, SAMAttention, SAMBlock
from hp_trainer.models.schnet.schnet import SCHNet
from hp_trainer.models.sizes import check_size


def fold(
    network: SCHNet, size_hw: tuple[int, int], *, steps: Sequence[str] | None = None
) -> SCHNet:
    """A copy of `network` for inputs of `size_hw`, in eval mode; `network` itself is untouched.

    `steps` says which of `FOLDS` to take; all of them by default. Weights that no step changes
    are shared with `network`: most of `schnet-l`'s 1.8 GB.

    Raises:
        ConfigError: an illegal size, or a network that is folded already.
    """
    check_size(*size_hw)
    if network.fixed_hw:
        raise ConfigError(
            f"the network is folded for {network.fixed_hw[0]}x{network.fixed_hw[1]} already; fold "
            "the trained one"
        )
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in network.parameters()}
    folded = copy.deepcopy(network, shared).eval()
    for step in FOLDS if steps is None else steps:
        FOLDS[step](folded, size_hw)
    folded.fixed_hw = size_hw
    return folded


class FoldedFTM(FTM):
    """FTM whose tokens are constants: Eq. (5) becomes two products with m columns.

    The rows of the softmax sum to 1, so MLP_f(A V) = A (V W + b), and ρ MLP_f(MLP_t(T_i)) is a
    constant M_i: f'_i = f_i + softmax(f_i K_i) M_i. Where a token is left out of the sum the rows
    no longer sum to 1, and ρ b stays beside it.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor
    inner: Tensor | None

    def __init__(self, ftm: FTM) -> None:
        nn.Module.__init__(self)
        shape = self.shape = ftm.shape
        self.down, self.mix, self.up = ftm.down, ftm.mix, ftm.up
        tokens, rho = ftm.tokens.double(), ftm.rho.double().reshape(-1, 1, 1)  # (L, m, C)
        weight, bias = ftm.mlp_f.weight.double(), ftm.mlp_f.bias.double()
        values = functional.linear(tokens, ftm.mlp_t.weight.double(), ftm.mlp_t.bias.double())
        values = rho * (values @ weight.T)
        beside = (rho * bias).expand(len(tokens), 1, -1)
        if shape.drop_first:
            values[:, 0] = 0
        else:
            values, beside = values + beside, torch.zeros_like(beside)
        keys = (tokens * ftm.score_scale).transpose(1, 2)
        self.register_buffer("keys", keys.float().contiguous())  # (L, C, m)
        self.register_buffer("values", values.float())  # (L, m, C)
        self.register_buffer("bias", beside.float())  # (L, 1, C)
        inner = (rho * weight).float() if shape.inner_residual else None
        self.register_buffer("inner", inner)  # (1 or L, C, C)

    def consult(self, f: Tensor, layer: int) -> Tensor:
        """f'_i of Eq. (5)."""
        update = (f @ self.keys[layer]).softmax(-1) @ self.values[layer]
        if self.shape.drop_first:
            update = update + self.bias[layer]
        if self.inner is not None:
            update = update + functional.linear(f, self.inner[min(layer, len(self.inner) - 1)])
        return f + update


@torch.no_grad()
def _fold_text(network: SCHNet, _size_hw: tuple[int, int]) -> None:
    if network.srm:
        for features in network.text.buffers():
            features.mul_(network.sim.scale)
        network.sim.scale = 1.0


@torch.no_grad()
def _fold_positions(network: SCHNet, size_hw: tuple[int, int]) -> None:
    if network.sam is not None:
        sam, grid_hw = network.sam, (size_hw[0] // PATCH, size_hw[1] // PATCH)
        table = resize_positions(sam.pos_embed, grid_hw, sam.pos_interp)
        sam.pos_embed = _constant(table)
        for block in sam.blocks:
            _gather_positions(cast("SAMBlock", block), grid_hw)
    if network.clip is not None:
        clip, patch = network.clip, network.clip.shape.patch
        grid_hw = (size_hw[0] // patch, size_hw[1] // patch)
        clip.positional_embedding = _constant(clip.positions(grid_hw))
        clip.grid_hw = grid_hw


def _gather_positions(block: SAMBlock, grid_hw: tuple[int, int]) -> None:
    attention: SAMAttention = block.attn
    h, w = (block.window, block.window) if block.window else grid_hw
    attention.rel_pos_h = _constant(gather_relative(attention.rel_pos_h, h))
    attention.rel_pos_w = _constant(gather_relative(attention.rel_pos_w, w))


@torch.no_grad()
def _fold_tokens(network: SCHNet, _size_hw: tuple[int, int]) -> None:
    if network.ftm is not None:
        network.ftm = FoldedFTM(cast("FTM", network.ftm)).eval()


@torch.no_grad()
def _fold_clip_input(network: SCHNet, _size_hw: tuple[int, int]) -> None:
    """Exact, because CLIP's patches are not padded: W (s x + t) = (W s) x + sum of W t."""
    clip: CLIPVision | None = network.clip
    if clip is None or not isinstance(clip.renormalise, Renormalise):
        return
    scale, shift = clip.renormalise.scale.double(), clip.renormalise.shift.double()  # (3, 1, 1)
    weight = clip.conv1.weight.double()
    clip.conv1.bias = _constant((weight * shift).sum((1, 2, 3)).float())
    clip.conv1.weight = _constant((weight * scale).float())
    clip.renormalise = nn.Identity()


@torch.no_grad()
def _fold_norms(network: SCHNet, _size_hw: tuple[int, int]) -> None:
    """Into the convolution before; the adapter's last norms into the lateral after them.

    A padded 3×3 convolution reads the coarsest map, so its norm stays, as a factor and a term.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and isinstance(module[0], nn.Conv2d):
            _absorb_after(cast("nn.Conv2d", module[0]), cast("_BatchNorm", module[1]))
            module[1] = nn.Identity()
    for i, lateral in enumerate(network.decoder.laterals):
        conv = cast("nn.Conv2d", cast("nn.Sequential", lateral)[0])
        _absorb_before(conv, cast("_BatchNorm", network.adapter.norms[i]))
        network.adapter.norms[i] = nn.Identity()
    network.adapter.norms[-1] = ScaleShift(cast("_BatchNorm", network.adapter.norms[-1]))


class ScaleShift(nn.Module):
    """A batch norm whose statistics are constants: x s + t on (N, C, h, w)."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        scale, shift = _affine(norm)
        self.register_buffer("scale", scale.float()[:, None, None])
        self.register_buffer("shift", shift.float()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def _absorb_after(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    """From s (W x + b) + t to (s W) x + (s b + t)."""
    scale, shift = _affine(norm)
    bias = 0.0 if conv.bias is None else conv.bias.double()
    conv.weight = _constant((conv.weight.double() * scale[:, None, None, None]).float())
    conv.bias = _constant((bias * scale + shift).float())


def _absorb_before(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    """From W (s x + t) + b to (W s) x + (W t + b), for a convolution without padding."""
    scale, shift = _affine(norm)
    weight = conv.weight.double()
    bias = 0.0 if conv.bias is None else conv.bias.double()
    conv.bias = _constant((bias + (weight * shift[:, None, None]).sum((1, 2, 3))).float())
    conv.weight = _constant((weight * scale[:, None, None]).float())


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode as scale and shift, in float64."""
    assert norm.running_mean is not None  # SCHNet's norms keep statistics
    assert norm.running_var is not None
    scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def _fold_gamma(network: SCHNet, _size_hw: tuple[int, int]) -> None:
    for injector in network.adapter.injectors:
        injector = cast("Injector", injector)
        if injector.gamma is None:
            continue
        last = injector.attn.output_proj
        last.weight = _constant(last.weight * injector.gamma[:, None])
        last.bias = _constant(last.bias * injector.gamma)
        injector.gamma = None


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=False)


FOLDS: dict[str, Callable[[SCHNet, tuple[int, int]], None]] = {
    "text": _fold_text,
    "positions": _fold_positions,
    "tokens": _fold_tokens,
    "clip_input": _fold_clip_input,
    "norms": _fold_norms,
    "gamma": _fold_gamma,
}
"""Step → what it does to a copy (spec §3.12)."""
