"""MSA, multi-scale semantic aggregation: one vector per category, scale and image.

    H_l (N, D, h, w), regions (N, h, w) ─┬─ mean over the region ─┐
                                         └─ max over the region ──┴─ W_s ─► S_l (N, Z, D)

Source: SST, arXiv:2304.04140, Eqs. (2)–(4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

IGNORED = 255
"""Region id of pixels that belong to no category."""


def region_average(features: Tensor, region: Tensor, num_classes: int) -> Tensor:
    """Mean feature of every region, 0 for an empty one: S^ave (N, Z, D).

    `features` (N, D, h, w); `region` (N, h, w) int64 in 0..Z-1 or 255.

    Source: SST, arXiv:2304.04140, Eq. (2).
    """
    n, width = features.shape[:2]
    # half precision would round away most pixels of a large region
    index, flat = _rows(features.float(), region, num_classes)
    total = flat.new_zeros(n * (num_classes + 1), width).index_add(0, index, flat)
    count = torch.bincount(index, minlength=n * (num_classes + 1)).clamp(min=1)
    mean = total / count[:, None].to(total.dtype)
    return mean.reshape(n, num_classes + 1, width)[:, :num_classes]


def region_maximum(
    features: Tensor, region: Tensor, num_classes: int, *, fill: str = "neg_inf"
) -> Tensor:
    """Largest feature of every region per channel, 0 for an empty one: S^max (N, Z, D).

    `fill="zero"` takes the maximum over `features · mask` as Grapy-ML does, which returns 0
    where all features of a region are negative.

    Source: SST, arXiv:2304.04140, Eq. (3).
    """
    n, width = features.shape[:2]
    index, flat = _rows(features, region, num_classes)
    start = flat.new_full((n * (num_classes + 1), width), 0.0 if fill == "zero" else -torch.inf)
    maximum = start.scatter_reduce(0, index[:, None].expand_as(flat), flat, "amax")
    maximum = torch.where(maximum.isinf(), torch.zeros_like(maximum), maximum)
    return maximum.reshape(n, num_classes + 1, width)[:, :num_classes]


def _rows(features: Tensor, region: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Row of (image, category) per pixel, ignored ones in a spare last category; pixels (P, D)."""
    n, width = features.shape[:2]
    category = torch.where(region == IGNORED, num_classes, region)
    image = torch.arange(n, device=region.device)[:, None, None]
    index = (image * (num_classes + 1) + category).reshape(-1)
    return index, features.permute(0, 2, 3, 1).reshape(-1, width)


def predicted_regions(
    logits: Tensor, features: Sequence[Tensor], valid: Tensor | None = None
) -> list[Tensor]:
    """The arg-max of the head's logits at the size of every H_l, without gradient.

    `logits` (N, Z, h4, w4); `features` the H_l, each (N, D, h, w); `valid` (N, H, W) bool, False
    where the crop was padded. Returns [(N, h, w) int64], 255 outside `valid`.

    Source: SST says "following Grapy-ML", whose masks are predictions (register A3).
    """
    category = logits.detach().argmax(1)
    return [_nearest_regions(category, valid, feature) for feature in features]


def labelled_regions(labels: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """Ground-truth labels (N, H, W) at the size of every H_l (register A3, `mask_source="gt"`)."""
    return [_nearest(labels, (int(f.shape[2]), int(f.shape[3]))) for f in features]


def _nearest_regions(category: Tensor, valid: Tensor | None, feature: Tensor) -> Tensor:
    size = (int(feature.shape[2]), int(feature.shape[3]))
    region = _nearest(category, size)
    if valid is None:
        return region
    return torch.where(_nearest(valid.to(torch.int64), size).bool(), region, IGNORED)


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    resized = functional.interpolate(labels[:, None].float(), size=size, mode="nearest")
    return resized[:, 0].long()


class MSA(nn.Module):
    """[H_1..H_L], regions → [S_1..S_L], each (N, Z, D).

    `w_s[l]` is W_s of Eq. (4): [S^ave ; S^max] (2D) → D without bias; one for all scales if
    `share_w` (register A5).

    Source: SST, arXiv:2304.04140, Eq. (4).
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        scales: int = 3,
        *,
        share_w: bool = False,
        max_fill: str = "neg_inf",
    ) -> None:
        super().__init__()
        self.num_classes, self.scales, self.max_fill = num_classes, scales, max_fill
        self.w_s = nn.ModuleList(
            nn.Linear(2 * width, width, bias=False) for _ in range(1 if share_w else scales)
        )

    def forward(self, features: Sequence[Tensor], regions: Sequence[Tensor]) -> list[Tensor]:
        semantics = []
        for scale, (h_l, region) in enumerate(zip(features, regions, strict=True)):
            s_ave = region_average(h_l, region, self.num_classes)
            s_max = region_maximum(h_l, region, self.num_classes, fill=self.max_fill).to(s_ave)
            w_s = self.w_s[scale if len(self.w_s) > 1 else 0]
            semantics.append(w_s(torch.cat([s_ave, s_max], -1)))  # (N, Z, D)
        return semantics
