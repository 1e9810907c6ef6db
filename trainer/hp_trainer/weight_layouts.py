"""Whose weights are these? Published layouts recognised by the names of their tensors.

SST takes ResNets in torchvision's names (timm uses the same) or detectron2's, and the pixel
decoder of Mask2Former. Weights of other networks are refused by name rather than half loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hp_sdk.errors import ConfigError, ModelError
from hp_trainer.models.backbone import BACKBONES

Weights = Mapping[str, Tensor]

ACCEPTED = (
    "SST takes ResNet-50 and ResNet-101 weights named as in torchvision, timm or detectron2, and "
    "Mask2Former checkpoints with such a backbone"
)


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of a ResNet's tensors in one library."""

    signature: str
    """A tensor that only this layout has."""
    renames: tuple[tuple[str, str], ...] = ()
    """Patterns, applied in turn, that lead to torchvision's names."""

    def rename(self, name: str) -> str:
        """The name in torchvision's layout."""
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


LAYOUTS: dict[str, Layout] = {
    "torchvision": Layout("layer4.0.conv1.weight"),
    "detectron2": Layout(
        "res5.0.conv1.weight",
        (
            (r"^stem\.", ""),
            (r"^res2\.", "layer1."),
            (r"^res3\.", "layer2."),
            (r"^res4\.", "layer3."),
            (r"^res5\.", "layer4."),
            (r"\bconv(\d)\.norm\.", r"bn\1."),
            (r"\bshortcut\.norm\.", "downsample.1."),
            (r"\bshortcut\.", "downsample.0."),
        ),
    ),
}

BACKBONE_PREFIXES = ("backbone.bottom_up.", "backbone.body.", "backbone.")
"""Where whole models keep their backbone; the longest that occurs counts."""


@dataclass(frozen=True, slots=True)
class OtherNetwork:
    """Weights that look at home here and are not."""

    name: str
    signatures: tuple[str, ...]
    """Any of these tensors gives the network away."""
    purpose: str


OTHER_NETWORKS = (
    OtherNetwork(
        "a checkpoint of this project",
        ("encoder.level_embed",),
        "a whole SST network; start from it with train.init",
    ),
    OtherNetwork(
        "Segment Anything (SAM)",
        ("image_encoder.pos_embed", "vision_encoder.pos_embed"),
        "the image encoder of SCHNet, not of SST",
    ),
    OtherNetwork(
        "CLIP",
        ("visual.proj", "visual.attnpool.positional_embedding", "visual_projection.weight"),
        "the image and text branch of SCHNet, not of SST",
    ),
    OtherNetwork(
        "SCHP (Self-Correction for Human Parsing) or CE2P",
        ("context_encoding.bottleneck.0.weight",),
        "a whole parsing network whose ResNet-101 has a 3-convolution stem",
    ),
    OtherNetwork(
        "CDGNet",
        ("hwAttention.gamma",),
        "a whole parsing network whose ResNet-101 has a 3-convolution stem",
    ),
    OtherNetwork(
        "Graphonomy or Grapy-ML",
        ("xception_features.conv1.weight",),
        "a whole parsing network on an Xception backbone",
    ),
    OtherNetwork(
        "an MSRA ResNet of Caffe2 (STRIDE_IN_1X1)",
        ("res2_0_branch2a_w",),
        "its bottlenecks have their stride in the first 1×1 convolution, here it is in the 3×3; "
        "take the torchvision/R-50.pkl of detectron2 instead",
    ),
    OtherNetwork(
        "a Swin Transformer",
        ("patch_embed.proj.weight", "backbone.patch_embed.proj.weight"),
        "the backbone of SST is a ResNet",
    ),
)

DEEP_STEMS = ("conv2.weight", "conv1.0.weight", "stem.conv2.weight")
"""Tensors of stems with several convolutions (CE2P, timm's resnet50d, detectron2's DeepLab)."""


def refuse_other_networks(tensors: Weights) -> None:
    """Raise `ModelError` that names the network if the weights are of a known other one."""
    for other in OTHER_NETWORKS:
        if any(signature in tensors for signature in other.signatures):
            raise ModelError(f"these weights are {other.name}: {other.purpose}. {ACCEPTED}")


def refuse_deep_stem(tensors: Weights) -> None:
    """Raise `ModelError` for a ResNet that begins with three 3×3 convolutions."""
    if found := next((name for name in DEEP_STEMS if name in tensors), None):
        raise ModelError(
            f"this ResNet has a 3-convolution stem ({found}), as the ImageNet weights "
            "resnet101-imagenet.pth of CE2P, SCHP and CDGNet; SST's ResNet begins with one 7×7 "
            f"convolution. {ACCEPTED}"
        )


def refuse_folded_statistics(tensors: Weights) -> None:
    """Raise `ModelError` for weights whose batch statistics are the constants 0 and 1.

    `tensors` in torchvision's names. Conversions from Caffe look like this, and those networks
    have the stride in the 1×1 convolution: nothing else in the tensors tells.
    """
    mean, variance = tensors.get("bn1.running_mean"), tensors.get("bn1.running_var")
    if mean is None or variance is None or bool(mean.any()):
        return
    if torch.allclose(variance, torch.ones_like(variance), atol=1e-3):
        raise ModelError(
            "the batch statistics of this ResNet are constant 0 and 1: it was never trained, or "
            "it is an MSRA network converted from Caffe, with the stride in the first 1×1 "
            "convolution of its bottlenecks (STRIDE_IN_1X1), here it is in the 3×3. Take weights "
            "that come from torchvision"
        )


def detect_layout(tensors: Weights) -> str | None:
    """Name in `LAYOUTS` of a ResNet's tensors; None if they are not of a ResNet."""
    return next((name for name, item in LAYOUTS.items() if item.signature in tensors), None)


def choose_layout(tensors: Weights, kind: str) -> str:
    """`kind`, or what the tensors show if it is `auto`.

    Raises:
        ConfigError: no such layout.
        ModelError: the tensors are of no known layout.
    """
    if kind not in ("auto", *LAYOUTS):
        raise ConfigError(f"kind is {kind!r}; choose one of auto, {', '.join(LAYOUTS)}")
    found = detect_layout(tensors) if kind == "auto" else kind
    if found is None:
        first = ", ".join(list(tensors)[:3])
        raise ModelError(f"these tensors ({first}, …) are of no known layout. {ACCEPTED}")
    return found


def part_of(tensors: Weights, prefixes: Iterable[str]) -> dict[str, Tensor]:
    """Tensors under the first prefix that occurs, without it; all if none occurs."""
    for prefix in prefixes:
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if part:
            return part
    return dict(tensors)


def architecture(names: Iterable[str]) -> str:
    """`resnet50`, … or the blocks per stage, from torchvision's names."""
    block, depths = "basic", [0, 0, 0, 0]
    for name in names:
        if found := re.match(r"layer([1-4])\.(\d+)\.(conv3)?", name):
            stage, index, third = found.groups()
            depths[int(stage) - 1] = max(depths[int(stage) - 1], int(index) + 1)
            block = "bottleneck" if third else block
    known: dict[tuple[str, tuple[int, ...]], str]
    known = {(spec.block, spec.depths): name for name, spec in BACKBONES.items()}
    fallback = f"a ResNet of {'-'.join(map(str, depths))} {block} blocks"
    return known.get((block, tuple(depths)), fallback)
