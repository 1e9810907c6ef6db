"""Neighbouring 1×1 convolutions of the decoder as one, in the copy that is exported.

    coarse ─ 1×1 ─ up ─┐                          coarse ─ 1×1 ─ up ─┐
                       + ─►         becomes                          + ─►
    C4 ─ 1×1 ─── 1×1 ──┘                          C4 ────── 1×1 ─────┘

A stage of SST's decoder mixes by one convolution with weights for both of its maps. They become two
tensors of the file; and where the finer map comes from nothing but another 1×1 convolution (the
lateral of a stride that the encoder does not reach), the two in a row become their product.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_trainer.models.decoder import Decoder, DecoderStage, UpAndMix


class PartedMix(nn.Module):
    """`UpAndMix` with a 1×1 kernel as two convolutions; `fine` is the identity where it moved."""

    def __init__(self, mix: UpAndMix) -> None:
        super().__init__()
        coarse, fine = mix.weight.detach().split(mix.in_channels // 2, 1)
        self.coarse = _convolution(coarse, None)
        self.fine: nn.Module = _convolution(fine, mix.bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """(N, D, h, w), (N, D, 2h, 2w) → (N, D, 2h, 2w)."""
        size = (int(fine.shape[2]), int(fine.shape[3]))
        mixed = self.coarse(coarse)
        up = functional.interpolate(mixed, size=size, mode="bilinear", align_corners=False)
        return up + self.fine(fine)


def merge_mixes(network: nn.Module) -> nn.Module:
    """A copy of `network`, whose batch norms are folded, with the 1×1 mixes of its decoder merged.

    Without such mixes it is `network` itself.
    """
    if not any(_is_pointwise(module) for module in network.modules()):
        return network
    merged = copy.deepcopy(network)
    for decoder in merged.modules():
        if isinstance(decoder, Decoder):
            for stride, stage in zip((16, 8, 4), decoder.stages, strict=True):
                _merge(cast("DecoderStage", stage), decoder.lateral, str(stride))
    return merged


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, UpAndMix) and module.kernel_size == (1, 1)


def _merge(stage: DecoderStage, laterals: nn.ModuleDict, stride: str) -> None:
    mix = stage.fuse[0]
    if not _is_pointwise(mix):
        return
    stage.fuse[0] = parted = PartedMix(cast("UpAndMix", mix))
    if stride in laterals:
        lateral = cast("nn.Sequential", laterals[stride])
        if isinstance(lateral[1], nn.Identity):  # its norm is folded
            first, second = cast("nn.Conv2d", lateral[0]), cast("nn.Conv2d", parted.fine)
            lateral[0], parted.fine = _product(first, second), nn.Identity()


def _product(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One 1×1 convolution that does what `first` and then `second` do."""
    turn = second.weight.detach().double().flatten(1)  # (Z, D)
    weight = turn @ first.weight.detach().double().flatten(1)
    bias = torch.zeros(len(turn), dtype=torch.float64)
    if first.bias is not None:
        bias += turn @ first.bias.detach().double()
    if second.bias is not None:
        bias += second.bias.detach().double()
    return _convolution(weight[:, :, None, None].float(), bias.float())


def _convolution(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1×1 convolution with these weights (Z, D, 1, 1)."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight.clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
