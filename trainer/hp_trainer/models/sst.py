"""SST's network: the part that ships.

    image (N, 3, H, W) ─ backbone ─ C2..C5 ─ encoder ─ E5 E4 E3 ─ decoder ─ H_1 H_2 H_3
                                       └─────── 1×1 lateral ────────┘              │
                                            A_d (N, Z_d, H/4, W/4) ◄─ heads.<d> 1×1 ┘

The auxiliary modules MSA, MSE and MST live beside it in `models.auxiliary` and never in it.
Logits stay at 1/4: a 1×1 convolution commutes with bilinear up-sampling (spec §2.4).

Source: SST, arXiv:2304.04140, Section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, UnknownHead
from hp_trainer.models.backbone import BACKBONES, build_backbone
from hp_trainer.models.backbone import NORMS as BACKBONE_NORMS
from hp_trainer.models.decoder import Decoder, DecoderStage, SwinStage
from hp_trainer.models.encoder import CORES, Encoder, EncoderShape
from hp_trainer.models.sizes import check_size

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
"""Pixel statistics, RGB, of values in 0..255."""

STRIDES: tuple[int, ...] = (4, 8, 16, 32)
"""Input pixels per cell of C2..C5."""

STRIDE = 4
"""Input pixels per logit."""


NORMS = {"group": partial(nn.GroupNorm, 32), "batch": nn.BatchNorm2d}
"""Norm of the 1×1 projections by name."""


@dataclass(frozen=True, slots=True)
class SSTConfig:
    """Shape of the network; the defaults are `sst-r50` (spec §2.2 to §2.4)."""

    backbone: str = "resnet50"
    """resnet50, resnet101, compact, compact-deep or tiny."""
    backbone_norm: str = "frozen"
    """`frozen` batch statistics (needs pretrained weights) or `train`."""
    width: int = 256
    """D, the width of every map after the backbone (register A13)."""
    norm: str = "group"
    """Norm of the 1×1 projections: `group` (32 groups) or `batch` (folds away at export)."""
    encoder_strides: tuple[int, ...] = (32, 16, 8)
    """Levels that attend to each other; the others get a plain 1×1 lateral."""
    encoder_layers: int = 6
    encoder_heads: int = 8
    encoder_points: int = 4
    encoder_ffn: int = 1024
    decoder_depths: tuple[int, ...] = (2, 2, 2)
    decoder_heads: int = 8
    decoder_window: int = 8
    decoder_mlp: float = 4.0
    decoder_kernels: tuple[int, ...] = (1, 1, 1)
    """Kernel of the convolution that mixes up-sampled map and skip; 3 helps small networks."""
    drop_path: float = 0.1
    deform: str = "grid_sample"
    """Core of the deformable attention: grid_sample, gather, plugin (no gradient) or loop."""

    def __post_init__(self) -> None:
        choices = {
            "backbone": BACKBONES,
            "backbone_norm": BACKBONE_NORMS,
            "norm": NORMS,
            "deform": CORES,
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                given = getattr(self, key)
                raise ConfigError(f"model.{key} is {given!r}; choose one of {', '.join(allowed)}")
        if self.encoder_strides not in ((32,), (32, 16), (32, 16, 8)):
            raise ConfigError(
                f"model.encoder_strides is {list(self.encoder_strides)}; allowed are [32], [32, 16]"
                " and [32, 16, 8]"
            )
        for key in ("encoder_heads", "decoder_heads"):
            if self.width % getattr(self, key):
                raise ConfigError(f"model.width {self.width} is not a multiple of model.{key}")


PRESETS: dict[str, SSTConfig] = {
    "sst-r50": SSTConfig(),
    "sst-r101": SSTConfig(backbone="resnet101"),
    "sst-compact": SSTConfig(
        backbone="compact",
        backbone_norm="train",
        width=64,
        norm="batch",
        encoder_strides=(32,),
        encoder_layers=1,
        encoder_heads=4,
        encoder_ffn=128,
        decoder_depths=(1, 0, 0),
        decoder_heads=2,
        decoder_window=4,
        decoder_mlp=2.0,
        decoder_kernels=(3, 3, 1),
        drop_path=0.0,
    ),
    "sst-tiny": SSTConfig(
        backbone="tiny",
        backbone_norm="train",
        width=32,
        norm="batch",
        encoder_layers=1,
        encoder_heads=4,
        encoder_ffn=64,
        decoder_depths=(1, 1, 1),
        decoder_heads=4,
        decoder_window=4,
        decoder_mlp=2.0,
        drop_path=0.0,
    ),
}


class SST(nn.Module):
    """Normalised image (N, 3, H, W) → {domain: logits (N, Z, H/4, W/4)}.

    H and W must be multiples of 32; others raise `ConfigError`.
    """

    def __init__(self, config: SSTConfig, domains: Sequence[Domain]) -> None:
        super().__init__()
        self.config = config
        self.domains = tuple(domains)
        norm, width = NORMS[config.norm], config.width
        self.backbone = build_backbone(config.backbone, norm=config.backbone_norm)
        channels = dict(zip(STRIDES, self.backbone.out_channels, strict=True))
        self.encoder = Encoder(
            [channels[stride] for stride in config.encoder_strides],
            EncoderShape(
                width,
                config.encoder_layers,
                config.encoder_heads,
                config.encoder_points,
                config.encoder_ffn,
                config.deform,
            ),
            norm,
        )
        self.decoder = Decoder(
            [
                DecoderStage(width, _swin(config, depth), norm, kernel)
                for depth, kernel in zip(config.decoder_depths, config.decoder_kernels, strict=True)
            ],
            {
                stride: nn.Sequential(
                    nn.Conv2d(channels[stride], width, 1, bias=False), norm(width)
                )
                for stride in (16, 8, 4)
                if stride not in config.encoder_strides
            },
        )
        self.heads = nn.ModuleDict({d.name: nn.Conv2d(width, d.num_classes, 1) for d in domains})
        self._fixed = False

    def fix_parts(self) -> None:
        """Let nothing but the heads learn; batch statistics stay as they are too.

        Not in the paper.
        """
        self._fixed = True
        for part in self.parts().values():
            part.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SST:  # noqa: FBT001, FBT002 — nn.Module's signature
        super().train(mode)
        if self._fixed:
            for part in self.parts().values():
                part.eval()
        return self

    def features(self, image: Tensor) -> list[Tensor]:
        """[H_1, H_2, H_3] at strides 16, 8, 4, each (N, D, h, w)."""
        check_size(int(image.shape[2]), int(image.shape[3]))
        maps = dict(zip(STRIDES, self.backbone(image), strict=True))
        strides = self.config.encoder_strides
        encoded = dict(zip(strides, self.encoder([maps[s] for s in strides]), strict=True))
        return self.decoder(encoded, maps)

    def forward(self, image: Tensor, heads: Sequence[str] | None = None) -> dict[str, Tensor]:
        finest = self.features(image)[-1]  # (N, D, H/4, W/4)
        return {name: self.head(name)(finest) for name in heads or self.heads}

    def parts(self) -> dict[str, nn.Module]:
        """What the network consists of besides its heads, by name."""
        return {"backbone": self.backbone, "encoder": self.encoder, "decoder": self.decoder}

    def compilable(self) -> list[nn.Module]:
        """Modules that are called as such and worth compiling."""
        return list(self.parts().values())

    def head(self, name: str) -> nn.Module:
        """The 1×1 convolution of one domain.

        Raises:
            UnknownHead: the network has no such head.
        """
        if name not in self.heads:
            raise UnknownHead(f"the network has no head {name!r}; it has {', '.join(self.heads)}")
        return self.heads[name]


def _swin(config: SSTConfig, depth: int) -> SwinStage:
    return SwinStage(
        config.width,
        depth,
        config.decoder_heads,
        config.decoder_window,
        config.decoder_mlp,
        config.drop_path,
    )


def normalise(images: Tensor) -> Tensor:
    """Pixels (N, H, W, 3) uint8 RGB → network input (N, 3, H, W) float32 with MEAN and STD."""
    mean, std = images.new_tensor(MEAN, dtype=torch.float32), torch.tensor(STD).to(images.device)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)
