"""The adapter around the trunk: detail goes in before each stage, four maps come out at the end.

    image ─ spatial prior ─► c1 ; tokens c of 1/8, 1/16, 1/32
    stage s:  x ◄─ Injector_s(x, c) ; x ─ layers of the trunk ─► x ; c ◄─ Extractor_s(c, x)
    end:      c1 + up(c2), c2, c3, c4, each plus the stage's x resized, batch norm ─► 1/4 … 1/32

Source: ViT-Adapter, arXiv:2205.08534.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_trainer.models.decoder import DropPath
from hp_trainer.models.encoder import pixel_centres
from hp_trainer.models.schnet.cross_attention import DeformableCrossAttention
from hp_trainer.models.schnet.spatial_prior import SpatialPrior

EPS = 1e-6

Grid = tuple[int, int]
"""Rows and columns of the trunk's tokens."""


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """Sizes of the adapter; the defaults are those for ViT-L."""

    width: int = 1024
    stages: int = 4
    heads: int = 16
    points: int = 4
    value_ratio: float = 0.5
    ffn_ratio: float = 0.25
    stem: int = 64
    drop_path: float = 0.4
    extra_extractors: int = 2
    core: str = "grid_sample"


def pyramid(grid_hw: Grid) -> list[Grid]:
    """Sizes of the maps at 1/8, 1/16, 1/32 around the trunk's 1/16."""
    h, w = grid_hw
    return [(2 * h, 2 * w), (h, w), (h // 2, w // 2)]


class CrossBranch(nn.Module):
    """Norms and attention that injector and extractor share."""

    def __init__(self, shape: AdapterShape, levels: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(shape.width, eps=EPS)
        self.feat_norm = nn.LayerNorm(shape.width, eps=EPS)
        self.attn = DeformableCrossAttention(
            shape.width,
            shape.heads,
            levels,
            points=shape.points,
            ratio=shape.value_ratio,
            core=shape.core,
        )

    def look(self, query: Tensor, feat: Tensor, of: Sequence[Grid], at: Sequence[Grid]) -> Tensor:
        """Queries on the maps `of`, looking at the maps `at`."""
        reference = torch.cat([pixel_centres(h, w) for h, w in of]).to(query.device)
        return self.attn(self.query_norm(query), self.feat_norm(feat), reference, at)


class Injector(CrossBranch):
    """x + γ · attention(LN x → LN c): tokens of the trunk look at the pyramid. γ starts at 0.

    `gamma` is None once it has moved into the attention's last layer.

    Source: ViT-Adapter, arXiv:2205.08534, Eq. (1).
    """

    gamma: nn.Parameter | None

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__(shape, levels=3)
        self.gamma = nn.Parameter(torch.zeros(shape.width))

    def forward(self, x: Tensor, c: Tensor, grid_hw: Grid) -> Tensor:
        update = self.look(x, c, of=[grid_hw], at=pyramid(grid_hw))
        return x + (update if self.gamma is None else self.gamma * update)


class Extractor(CrossBranch):
    """c + attention(LN c → LN x), then c + ConvFFN(LN c): the pyramid looks at the trunk.

    Source: ViT-Adapter, arXiv:2205.08534, Eqs. (2), (3).
    """

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__(shape, levels=1)
        self.ffn_norm = nn.LayerNorm(shape.width, eps=EPS)
        self.ffn = ConvFFN(shape.width, int(shape.width * shape.ffn_ratio))
        self.drop_path = DropPath(shape.drop_path)

    def forward(self, c: Tensor, x: Tensor, grid_hw: Grid) -> Tensor:
        levels = pyramid(grid_hw)
        c = c + self.look(c, x, of=levels, at=[grid_hw])
        return c + self.drop_path(self.ffn(self.ffn_norm(c), levels))


class ConvFFN(nn.Module):
    """Feed-forward network with one depth-wise 3×3 convolution that every level shares."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, levels: Sequence[Grid]) -> Tensor:
        maps = [self.dwconv(level) for level in to_maps(self.fc1(x), levels)]
        return self.fc2(functional.gelu(to_tokens(maps)))


class Adapter(nn.Module):
    """Everything of SCHNet that is neither trunk, CLIP nor decoder.

    Tokens `c` (N, 21/4·h·w, C) are the maps at 1/8, 1/16, 1/32 one after the other; x (N, h·w, C).
    """

    def __init__(self, shape: AdapterShape) -> None:
        super().__init__()
        width, self.stages = shape.width, shape.stages
        self.spatial_prior = SpatialPrior(shape.stem, width)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.injectors = nn.ModuleList(Injector(shape) for _ in range(shape.stages))
        count = shape.stages + shape.extra_extractors
        self.extractors = nn.ModuleList(Extractor(shape) for _ in range(count))
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(4))

    def prior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The map at 1/4 and the tokens c."""
        fine, *coarse = self.spatial_prior(image)
        marked = [x + e[:, None, None] for x, e in zip(coarse, self.level_embed, strict=True)]
        return fine, to_tokens(marked)

    def inject(self, stage: int, x: Tensor, c: Tensor, grid_hw: Grid) -> Tensor:
        """Tokens x as they enter the layers of a stage."""
        return self.injectors[stage](x, c, grid_hw)

    def extract(self, stage: int, c: Tensor, x: Tensor, grid_hw: Grid) -> Tensor:
        """Tokens c after a stage; the last stage has the further extractors as well."""
        end = len(self.extractors) if stage == self.stages - 1 else stage + 1
        for i in range(stage, end):
            c = self.extractors[i](c, x, grid_hw)
        return c

    def fuse(
        self, fine: Tensor, c: Tensor, outputs: Sequence[Tensor], grid_hw: Grid
    ) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16, 1/32, each with the output of one stage added."""
        coarse = to_maps(c, pyramid(grid_hw))
        maps = [fine + self.up(coarse[0]), *coarse]
        trunk = [x.transpose(1, 2).unflatten(2, grid_hw) for x in outputs]
        return [
            norm(x + _resize(y, (int(x.shape[2]), int(x.shape[3]))))
            for norm, x, y in zip(self.norms, maps, trunk, strict=True)
        ]


def to_tokens(maps: Sequence[Tensor]) -> Tensor:
    """[(N, C, h, w)] → (N, sum of h·w, C)."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)


def to_maps(tokens: Tensor, shapes: Sequence[Grid]) -> list[Tensor]:
    """Inverse of `to_tokens`."""
    parts = tokens.split([h * w for h, w in shapes], 1)
    pairs = zip(parts, shapes, strict=True)
    return [part.transpose(1, 2).unflatten(2, shape) for part, shape in pairs]


def _resize(x: Tensor, size_hw: Grid) -> Tensor:
    if x.shape[2:] == size_hw:
        return x
    return functional.interpolate(x, size=size_hw, mode="bilinear", align_corners=False)
