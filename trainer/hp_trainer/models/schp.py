"""SCHP's network, CE2P on a ResNet with a stem of three convolutions; for inference only.

    image ─ stem ─ layer1 ─ layer2 ─ layer3 ─ layer4 ─ context
                     │ 1/4     │ 1/8     │ 1/16            │ 1/16
                     ├─────────┴─────────┴─ edges ───┐     │
                     └─ decoder ◄────────────────────│─────┘
                           └─────────────────────────┴─ fusion ─ heads.<d> ─► logits at 1/4

In training, the published network also predicts edges and a first parsing. Those two classifiers
are not here; the features of the edge branch are, because the fusion reads them.

It was trained with corners aligned in every resize, the last one to the picture's size included.
Here logits leave on the half-pixel grid that everything else uses: see `_register`.

Source: SCHP, arXiv:1910.09777; CE2P, arXiv:1809.05996.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.domains import Domain
from hp_trainer.models.backbone import Bottleneck, FrozenBatchNorm2d
from hp_trainer.models.schnet.upernet import average_pool
from hp_trainer.models.sizes import check_size

SLOPE = 0.01
"""Of the leaky rectifiers behind the backbone."""
STRIDE = 4
STEP = 8
"""Sides of inputs are multiples of this."""


@dataclass(frozen=True, slots=True)
class SCHPConfig:
    """Shape of the network; the defaults are the published one."""

    depths: tuple[int, int, int, int] = (3, 4, 23, 3)
    stem: int = 64
    width: int = 64
    """Width of layer1's bottlenecks; it doubles from layer to layer."""
    context: int = 512
    edge: int = 256
    decoder: int = 256
    skip: int = 48
    fusion: int = 256
    pad: int = 0
    """Rows and columns added below and to the right: networks trained on odd sides need one."""


class Stem(nn.Module):
    """Image (N, 3, H, W) → (N, 2·width, H/4, W/4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(2 * width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.maxpool(torch.relu(self.bn3(self.conv3(x))))


class Context(nn.Module):
    """Pyramid pooling (N, inputs, h, w) → (N, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int, *, cells: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        self.cells = tuple(cells)
        self.stages = nn.ModuleList(_conv(inputs, outputs) for _ in self.cells)
        self.bottleneck = _conv(inputs + len(self.cells) * outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            _stretch(stage(average_pool(x, cells)), x)
            for stage, cells in zip(self.stages, self.cells, strict=True)
        ]
        return self.bottleneck(torch.cat([*pooled, x], 1))


class Decoder(nn.Module):
    """Context (N, C, h, w) and the finest map (N, F, H/4, W/4) → (N, outputs, H/4, W/4)."""

    def __init__(self, context: int, fine: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.coarse = _conv(context, outputs)
        self.skip = _conv(fine, skip)
        self.mix = nn.Sequential(_conv(outputs + skip, outputs), _conv(outputs, outputs))

    def forward(self, context: Tensor, fine: Tensor) -> Tensor:
        return self.mix(torch.cat([_stretch(self.coarse(context), fine), self.skip(fine)], 1))


class SCHP(nn.Module):
    """Normalised image (N, 3, H, W) RGB → {domain: logits (N, Z, H/4, W/4)}.

    H and W must be multiples of 8; others raise `ConfigError`.
    """

    def __init__(self, config: SCHPConfig, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.config = config
        self.domains = tuple(domains)
        widths = [config.width * 2**i for i in range(4)]
        outputs = [width * Bottleneck.expansion for width in widths]
        inputs = [2 * config.stem, *outputs]
        self.stem = Stem(config.stem)
        for i, (depth, width) in enumerate(zip(config.depths, widths, strict=True)):
            self.add_module(f"layer{i + 1}", _layer(i, inputs[i], width, depth))
        self.context = Context(outputs[3], config.context)
        self.edges = nn.ModuleList(_conv(width, config.edge) for width in outputs[:3])
        self.decoder = Decoder(config.context, outputs[0], config.skip, config.decoder)
        self.fusion = _conv(config.decoder + 3 * config.edge, config.fusion)
        self.heads = nn.ModuleDict(
            {d.name: nn.Conv2d(config.fusion, d.num_classes, 1) for d in domains}
        )

    def forward(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        check_size(int(image.shape[2]), int(image.shape[3]), STEP)
        sides = (int(image.shape[2]), int(image.shape[3]))
        logits = self.native(image, heads)
        return {name: _register(x, sides, self.config.pad) for name, x in logits.items()}

    def native(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Logits on the grid of the published network: cell i at pixel i·(H - 1)/(h - 1)."""
        pad = self.config.pad
        x = self.stem(functional.pad(image, (0, pad, 0, pad)) if pad else image)
        maps = []
        for i in range(1, 5):
            x = self.get_submodule(f"layer{i}")(x)
            maps.append(x)
        parsing = self.decoder(self.context(x), maps[0])
        edges = [_stretch(f(x), maps[0]) for f, x in zip(self.edges, maps[:3], strict=True)]
        fused = self.fusion(torch.cat([parsing, *edges], 1))
        return {name: self.heads[name](fused) for name in heads or self.heads}


def _conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        FrozenBatchNorm2d(outputs),
        nn.LeakyReLU(SLOPE),
    )


def _layer(index: int, inputs: int, width: int, depth: int) -> nn.Sequential:
    """layer2 and layer3 halve the map; layer4 spreads its 3×3 convolutions instead."""
    stride, spread = (2, 1) if index in (1, 2) else (1, 2 if index == 3 else 1)
    outputs = width * Bottleneck.expansion
    blocks = [Bottleneck(inputs, width, stride, FrozenBatchNorm2d)]
    blocks += [Bottleneck(outputs, width, 1, FrozenBatchNorm2d) for _ in range(depth - 1)]
    for block in blocks:
        block.conv2.dilation = block.conv2.padding = (spread, spread)
    return nn.Sequential(*blocks)


def _stretch(x: Tensor, like: Tensor) -> Tensor:
    """Resize (N, C, h, w) to the size of `like` with corners on corners."""
    size = (int(like.shape[2]), int(like.shape[3]))
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)


def _register(logits: Tensor, sides: tuple[int, int], pad: int) -> Tensor:
    """From the published grid (N, Z, h', w') to the half-pixel grid (N, Z, H/4, W/4).

    Two constant products. Without them labels would lie up to two pixels off at the borders.
    """
    rows, columns = (
        torch.as_tensor(registration_matrix(side, int(cells), side + pad), device=logits.device)
        for side, cells in zip(sides, logits.shape[2:], strict=True)
    )
    return rows.to(logits.dtype) @ logits @ columns.to(logits.dtype).T


@cache
def registration_matrix(side: int, cells: int, seen: int) -> np.ndarray:
    """(side/4, cells): row i interpolates at pixel 4i + 1.5.

    Cell k of the published grid lies at pixel k·(seen - 1)/(cells - 1); `seen` is the side that
    the network saw.
    """
    pixels = (np.arange(side // STRIDE) + 0.5) * STRIDE - 0.5
    places = np.clip(pixels * (cells - 1) / (seen - 1), 0, cells - 1)
    distance = np.abs(places[:, None] - np.arange(cells))
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)
