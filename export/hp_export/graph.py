"""The graph that is exported: a new module around the network, which itself is never touched.

    image (N, h, w, 3) uint8 RGB ─ cast ─ (x - mean) / std ─ NCHW ─ network ─► logits of each head

Batch norms are folded into their convolutions on a copy.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hp_trainer.models.backbone import FrozenBatchNorm2d

Norm = nn.BatchNorm2d | FrozenBatchNorm2d
Answer = TypeVar("Answer")


class HeadGraph(nn.Module):
    """Pixels (N, h, w, 3) uint8 RGB → one (N, Z, h/4, w/4) float32 per head, in `heads`' order.

    Normalisation lies inside, so no user of the artifact can get it wrong; uint8 is cast first.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[str],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        self.heads = tuple(heads)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Normalise, run, keep the heads asked for."""
        x = (image.to(torch.float32) - self.mean) / self.std  # (N, h, w, 3)
        logits = self.network(x.permute(0, 3, 1, 2), self.heads)
        return tuple(logits[name].float() for name in self.heads)


def output_name(head: str) -> str:
    """Name of a head's output tensor."""
    return f"logits.{head}"


def count_macs(network: nn.Module, heads: Sequence[str], size_hw: tuple[int, int]) -> int:
    """Multiply-accumulates for one image with all `heads`."""
    with torch.no_grad():
        return macs_of(lambda: network(torch.zeros(1, 3, *size_hw), tuple(heads)))[1]


def macs_of(work: Callable[[], Answer]) -> tuple[Answer, int]:
    """What `work` answers, and its multiply-accumulates; one of those is two FLOPs."""
    with FlopCounterMode(display=False) as counter:
        answer = work()
    return answer, counter.get_total_flops() // 2


def fold_batch_norm(network: nn.Module, image: Tensor) -> nn.Module:
    """A copy of `network` whose batch norms have moved into the convolutions before them.

    Which norm follows which convolution is seen in one run on `image` (1, 3, h, w), not guessed
    from names. Norms that follow anything else stay. Without norms it is `network` itself.
    """
    if not any(isinstance(module, Norm) for module in network.modules()):
        return network
    folded = copy.deepcopy(network).eval()
    for conv_name, norm_name in _followers(folded, image).items():
        conv = cast("nn.Conv2d", folded.get_submodule(conv_name))
        _fold(conv, cast("Norm", folded.get_submodule(norm_name)))
        parent, _, leaf = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    return folded


def _followers(network: nn.Module, image: Tensor) -> dict[str, str]:
    """Convolution → the batch norm that takes its output, where both run exactly once."""
    outputs: list[tuple[str, Tensor]] = []
    inputs: list[tuple[str, Tensor]] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(_note_output(name, outputs)))
        elif isinstance(module, Norm):
            handles.append(module.register_forward_pre_hook(_note_input(name, inputs)))
    try:
        with torch.inference_mode():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    runs = Counter(name for name, _ in outputs + inputs)
    pairs = ((conv, norm) for conv, y in outputs for norm, x in inputs if x is y)
    return {conv: norm for conv, norm in pairs if runs[conv] == runs[norm] == 1}


def _note_output(name: str, seen: list[tuple[str, Tensor]]) -> Callable[..., None]:
    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append((name, output))

    return note


def _note_input(name: str, seen: list[tuple[str, Tensor]]) -> Callable[..., None]:
    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append((name, inputs[0]))

    return note


def _fold(conv: nn.Conv2d, norm: Norm) -> None:
    """From y = s (W x + b - m) + t to y = (s W) x + (s (b - m) + t), in float64."""
    weight, bias, mean, variance = (
        torch.zeros(1, dtype=torch.float64) if tensor is None else tensor.detach().double()
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    own = 0.0 if conv.bias is None else conv.bias.detach().double()
    scale = weight / (variance + norm.eps).sqrt()
    folded = conv.weight.detach().double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(folded.float())
    conv.bias = nn.Parameter(((own - mean) * scale + bias).float())
