"""Spatial prior: a small convolutional pyramid that gives the trunk what patches lose, detail.

image ─ stem ─► 1/4 ─ conv ─► 1/8 ─ conv ─► 1/16 ─ conv ─► 1/32, each through a 1×1 to width C
"""

from __future__ import annotations

from torch import Tensor, nn

from hp_trainer.models.schnet.conv_norm import conv_norm_relu


class SpatialPrior(nn.Module):
    """Image (N, 3, H, W) → [c1, c2, c3, c4] at 1/4, 1/8, 1/16, 1/32, each (N, C, h, w).

    Source: ViT-Adapter, arXiv:2205.08534, Section 3.2.
    """

    def __init__(self, stem: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm_relu(3, stem, 3, 2),
            conv_norm_relu(stem, stem, 3),
            conv_norm_relu(stem, stem, 3),
            nn.MaxPool2d(3, 2, 1),
        )
        channels = (stem, 2 * stem, 4 * stem, 4 * stem)
        self.stages = nn.ModuleList(
            conv_norm_relu(channels[i], channels[i + 1], 3, 2) for i in range(3)
        )
        self.project = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = [self.stem(image)]  # (N, stem, H/4, W/4)
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [project(x) for project, x in zip(self.project, maps, strict=True)]
