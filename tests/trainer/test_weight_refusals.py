"""T-51, T-52: weights of other networks are refused by name, never half loaded."""

import copy
from pathlib import Path

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, ModelError
from hp_trainer.checkpoint import Checkpoint, describe_network, write_checkpoint
from hp_trainer.models.backbone import build_backbone
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.weights import import_backbone, load_pretrained


@pytest.fixture
def net() -> SST:
    return SST(PRESETS["sst-tiny"], [load_domain("pascal")])


DEEP_STEM: dict[str, tuple[int, ...]] = {
    "conv1.weight": (64, 3, 3, 3),
    "conv2.weight": (64, 64, 3, 3),
    "conv3.weight": (128, 64, 3, 3),
    "layer1.0.conv1.weight": (64, 128, 1, 1),
    "layer4.0.conv1.weight": (512, 1024, 1, 1),
}


@pytest.mark.parametrize(
    ("signature", "told"),
    [
        (DEEP_STEM, "3-convolution stem .* CE2P, SCHP and CDGNet"),  # T-52
        (DEEP_STEM | {"context_encoding.bottleneck.0.weight": (512, 4096, 3, 3)}, "SCHP .* whole"),
        (DEEP_STEM | {"hwAttention.gamma": (1,)}, "CDGNet: a whole parsing network"),
        ({"xception_features.conv1.weight": (32, 3, 3, 3)}, "Graphonomy .* Xception"),
        (
            {"image_encoder.pos_embed": (1, 64, 64, 1024)},
            r"\(SAM\): the image encoder of SCHNet",
        ),
        ({"vision_encoder.pos_embed": (1, 64, 64, 1024)}, r"\(SAM\)"),
        ({"visual.proj": (768, 512)}, "CLIP: the image and text branch of SCHNet"),
        ({"visual_projection.weight": (512, 768)}, "CLIP"),
        ({"res2_0_branch2a_w": (64, 64, 1, 1)}, r"MSRA .*STRIDE_IN_1X1.* 3×3"),
        ({"backbone.patch_embed.proj.weight": (96, 3, 4, 4), "x": (1,)}, "Swin"),
    ],
)
def test_weights_of_other_networks_are_refused_by_name(
    net: SST, tmp_path: Path, signature: dict[str, tuple[int, ...]], told: str
):
    weights = {f"module.{name}": torch.ones(shape) for name, shape in signature.items()}
    torch.save(weights, tmp_path / "a.pth")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match=told) as refusal:
        load_pretrained(net, tmp_path / "a.pth")
    assert "SST takes ResNet-50 and ResNet-101" in str(refusal.value)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


@pytest.mark.parametrize("kind", ["auto", "torchvision", "detectron2"])
def test_weights_of_which_nothing_fits_never_pass_for_pretrained(kind: str):
    """T-51: no silent random initialisation."""
    backbone = build_backbone("resnet50")
    before = copy.deepcopy(backbone.state_dict())
    strange = {"blocks.0.attn.qkv.weight": torch.ones(6, 2), "head.weight": torch.ones(2, 2)}
    for tensors in (strange, {}):
        with pytest.raises(ModelError, match=r"ResNet|resnet50"):
            import_backbone(backbone, tensors, kind=kind)
    assert all(torch.equal(before[k], v) for k, v in backbone.state_dict().items())


def test_unknown_weights_are_shown_by_their_first_names(net: SST, tmp_path: Path):
    torch.save({"blocks.0.attn.qkv.weight": torch.ones(6, 2)}, tmp_path / "vit.pth")
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.weight.*torchvision, timm or"):
        load_pretrained(net, tmp_path / "vit.pth")


def test_an_unknown_kind_is_refused_with_the_kinds_there_are():
    with pytest.raises(ConfigError, match="'caffe'; choose one of auto, torchvision, detectron2"):
        import_backbone(build_backbone("tiny"), {}, kind="caffe")


def test_a_checkpoint_of_this_project_is_sent_to_train_init(net: SST, tmp_path: Path):
    family, config = describe_network(net)
    checkpoint = Checkpoint(family, config, net.domains, net.state_dict())
    write_checkpoint(tmp_path / "last.pt", checkpoint)
    with pytest.raises(ModelError, match=r"start from it with train\.init"):
        load_pretrained(net, tmp_path / "last.pt")
