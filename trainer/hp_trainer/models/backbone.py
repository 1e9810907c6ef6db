"""ResNets in torchvision's layout: C2..C5 at strides 4, 8, 16, 32.

image (N, 3, H, W) ─ conv1 ─ bn1 ─ relu ─ maxpool ─ layer1 ─ layer2 ─ layer3 ─ layer4
                                                      C2        C3       C4       C5
resnet50 / resnet101: bottlenecks with the stride in their 3×3 convolution.
compact, compact-deep, tiny: basic blocks, small enough to be trained from scratch on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ResNetSpec:
    """Shape of one backbone."""

    block: str
    """`bottleneck` (output is 4 × width) or `basic`."""
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    stem_kernel: int = 7
    stem_width: int = 64


BACKBONES: dict[str, ResNetSpec] = {
    "resnet50": ResNetSpec("bottleneck", (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet101": ResNetSpec("bottleneck", (3, 4, 23, 3), (64, 128, 256, 512)),
    "compact": ResNetSpec("basic", (1, 2, 2, 2), (32, 64, 128, 256), 3, 32),
    "compact-deep": ResNetSpec("basic", (1, 2, 4, 2), (32, 64, 128, 256), 3, 32),
    "tiny": ResNetSpec("basic", (1, 1, 1, 1), (8, 16, 24, 32), 3, 8),
}


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose four tensors are constants (loaded, never trained)."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[None, :, None, None] + shift[None, :, None, None]


NORMS: dict[str, type[nn.Module]] = {"frozen": FrozenBatchNorm2d, "train": nn.BatchNorm2d}


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the stride is in the first."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = norm(width)
        self.downsample = _shortcut(inputs, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut; the stride is in the 3×3."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def start_as_identity(block: BasicBlock | Bottleneck) -> None:
    """Silence the branch of a block, so that it passes on what it gets until it has learned.

    The scale of the last norm becomes 0; what comes in is positive, so the ReLU keeps it.
    """
    last = block.bn2 if isinstance(block, BasicBlock) else block.bn3
    nn.init.zeros_(cast("Tensor", last.weight))


def _shortcut(inputs: int, outputs: int, stride: int, norm: type[nn.Module]) -> nn.Module | None:
    if inputs == outputs and stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(nn.Module):
    """Image (N, 3, H, W) → [C2, C3, C4, C5] at strides 4, 8, 16, 32.

    `out_channels` publishes their widths. Keys equal torchvision's without `fc`.
    """

    def __init__(self, spec: ResNetSpec, *, norm: str = "frozen") -> None:
        super().__init__()
        norm_type = NORMS[norm]
        self.conv1 = nn.Conv2d(
            3, spec.stem_width, spec.stem_kernel, 2, spec.stem_kernel // 2, bias=False
        )
        self.bn1 = norm_type(spec.stem_width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.out_channels: list[int] = []
        channels = spec.stem_width
        for i, (depth, width) in enumerate(zip(spec.depths, spec.widths, strict=True)):
            stage, channels = _stage(spec, channels, width, depth, 1 if i == 0 else 2, norm_type)
            self.add_module(f"layer{i + 1}", stage)
            self.out_channels.append(channels)
        _initialise(self)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(image))))  # (N, C, H/4, W/4)
        features = []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            features.append(x)
        return features


def _stage(
    spec: ResNetSpec, inputs: int, width: int, depth: int, stride: int, norm: type[nn.Module]
) -> tuple[nn.Sequential, int]:
    block = BLOCKS[spec.block]
    blocks = [block(inputs, width, stride, norm)]
    outputs = width * block.expansion
    blocks += [block(outputs, width, 1, norm) for _ in range(depth - 1)]
    return nn.Sequential(*blocks), outputs


def _initialise(module: nn.Module) -> None:
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")


def build_backbone(name: str, *, norm: str = "frozen") -> ResNet:
    """Build one of `BACKBONES` with random weights."""
    return ResNet(BACKBONES[name], norm=norm)
