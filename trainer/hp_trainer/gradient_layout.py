"""Gradients in the memory layout of the tensors they belong to.

A decoder stage joins two maps with `cat`, whose gradient is a view of every second block of
channels. torch 2.13 takes a slow path through batch normalisation for such a view on a CPU: 65 ms
instead of 2 ms for (16, 64, 72, 72) bfloat16 on two cores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def keep_gradient_layout(model: nn.Module) -> None:
    """Copy the gradient of every batch normalisation of `model` into the layout of its output."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(_watch)


def _watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
    if not output.requires_grad:
        return
    last = output.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    output.register_hook(lambda gradient: gradient.contiguous(memory_format=layout))
