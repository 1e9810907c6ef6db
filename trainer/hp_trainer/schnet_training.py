"""SCHNet in training: the network that ships (`net`) and the head that stays behind (`aux`).

    images ─ net ─┬─ 1/4 ── heads.<d> ───► logits_d ─► cross-entropy + mIoU loss
                  └─ 1/16 ─ aux.fcn.<d> ─► logits_d ─► 0.4 · cross-entropy

What is frozen of SAM and CLIP is frozen by the network itself.

Source: SCHNet, arXiv:2503.22237; what it leaves open is told with each setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_trainer.losses import at_loss_size, cross_entropy, lovasz_softmax, soft_iou
from hp_trainer.models.schnet.fcn_head import FCNHead
from hp_trainer.models.schnet.schnet import SCHNet

Labels = Mapping[str, tuple[Tensor, Tensor]]
"""Domain → (positions in the batch (n,), label maps (n, H, W) int64)."""

MIOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lovasz": lovasz_softmax,
    "soft-iou": soft_iou,
}
"""The paper's "mIoU loss" by name (register A30)."""


@dataclass(frozen=True, slots=True)
class SCHNetTrainConfig:
    """How SCHNet is trained; the defaults are the paper's."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy of the shipping heads."""
    miou: float = 1.0
    """Weight of the mIoU loss beside it (register A30)."""
    miou_loss: str = "lovasz"
    """lovasz (Lovász-softmax over the classes present) or soft-iou."""
    fcn: float = 0.4
    """Weight of the auxiliary FCN head on the map at 1/16; 0 builds none (register A31)."""
    fcn_width: int = 256
    loss_stride: int = 1
    """Compare logits and labels at 1/loss_stride of the crop (2 saves memory)."""
    random_foundation: bool = False
    """Allow a new run without published weights of SAM and CLIP."""

    def __post_init__(self) -> None:
        if self.miou_loss not in MIOU_LOSSES:
            raise ConfigError(
                f"schnet.miou_loss is {self.miou_loss!r}; choose one of {', '.join(MIOU_LOSSES)}"
            )


class SCHNetTraining(nn.Module):
    """`net` and one FCN head per domain; `losses` is one step of training.

    Source: SCHNet, arXiv:2503.22237: cross-entropy and mIoU loss.
    """

    def __init__(self, net: SCHNet, config: SCHNetTrainConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SCHNetTrainConfig()
        self.net = net
        helped = net.domains if config.fcn else ()
        width = net.config.width
        self.aux = nn.ModuleDict(
            {
                "fcn": nn.ModuleDict(
                    {d.name: FCNHead(width, d.num_classes, width=config.fcn_width) for d in helped}
                )
            }
        )

    @property
    def known_domains(self) -> tuple[Domain, ...]:
        """Domains whose labels a batch may hold."""
        return self.net.domains

    def forward(
        self, images: Tensor, labels: Labels, *, warm_up: bool = False
    ) -> dict[str, Tensor]:
        """`losses`, under the name that data-parallel wrappers call."""
        del warm_up  # SCHNet has no modules that look at labels
        return self.losses(images, labels)

    def losses(self, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) and labels → `total` and its parts, unweighted.

        Parts: `seg.<d>` and `miou.<d>` of the head that ships, `aux.<d>` of the one that does not.
        """
        coarse, finest = self.net.features(images)
        parts: dict[str, Tensor] = {}
        for name, (index, target) in labels.items():
            if not len(index) or name not in self.net.heads:
                continue
            logits = self.net.head(name)(finest.index_select(0, index))
            parts |= self._segmentation(name, logits, target)
            parts |= self._auxiliary(name, coarse.index_select(0, index), target)
        return {"total": self._total(parts), **parts}

    def _segmentation(self, name: str, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        logits, target = at_loss_size(logits, target, self.config.loss_stride)
        parts = {f"seg.{name}": cross_entropy(logits, target)}
        if self.config.miou:
            parts[f"miou.{name}"] = MIOU_LOSSES[self.config.miou_loss](logits, target)
        return parts

    def _auxiliary(self, name: str, coarse: Tensor, target: Tensor) -> dict[str, Tensor]:
        if not self.config.fcn:
            return {}
        logits = self.aux.get_submodule(f"fcn.{name}")(coarse)
        logits, target = at_loss_size(logits, target, self.config.loss_stride)
        return {f"aux.{name}": cross_entropy(logits, target)}

    def _total(self, parts: Mapping[str, Tensor]) -> Tensor:
        config = self.config
        weights = {"seg": config.cross_entropy, "miou": config.miou, "aux": config.fcn}
        return torch.stack([weights[k.partition(".")[0]] * v for k, v in parts.items()]).sum()
