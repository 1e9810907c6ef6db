"""T-50, T-51, T-53: published weights reach the right tensors of SST, every one accounted for.

The layouts are spelled out here from the published names and shapes; no file is downloaded.
"""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hp_sdk.domains import load_domain
from hp_sdk.errors import ModelError
from hp_trainer.models.backbone import ResNet, build_backbone
from hp_trainer.models.encoder import Encoder, EncoderShape
from hp_trainer.models.sst import NORMS, PRESETS, SST
from hp_trainer.weights import import_backbone, import_pixel_decoder, load_pretrained

DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
STATISTICS = ("weight", "bias", "running_mean", "running_var")

Names = Iterator[tuple[str, str, tuple[int, ...]]]


def resnet_layout(depths: tuple[int, ...]) -> Names:
    """(torchvision's name, detectron2's name, shape) of every convolution and norm tensor."""
    yield from conv_and_norm("conv1", "bn1", "stem.conv1", (64, 3, 7, 7))
    inputs = 64
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for i in range(depth):
            tv, d2 = f"layer{stage + 1}.{i}", f"res{stage + 2}.{i}"
            shapes = ((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1))
            for k, shape in enumerate(shapes, 1):
                yield from conv_and_norm(f"{tv}.conv{k}", f"{tv}.bn{k}", f"{d2}.conv{k}", shape)
            if i == 0:
                shortcut = (4 * width, inputs, 1, 1)
                names = (f"{tv}.downsample.0", f"{tv}.downsample.1", f"{d2}.shortcut")
                yield from conv_and_norm(*names, shortcut)
            inputs = 4 * width


def conv_and_norm(conv: str, norm: str, d2: str, shape: tuple[int, ...]) -> Names:
    yield f"{conv}.weight", f"{d2}.weight", shape
    for name in STATISTICS:
        yield f"{norm}.{name}", f"{d2}.norm.{name}", shape[:1]


def numbered(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A tensor of one value per name, each another: cheap, and no mix-up goes unseen."""
    return {k: torch.tensor(float(i)).expand(s) for i, (k, s) in enumerate(shapes.items(), 1)}


def torchvision_weights(name: str) -> dict[str, Tensor]:
    tensors = numbered({tv: shape for tv, _, shape in resnet_layout(DEPTHS[name])})
    for norm in [key.removesuffix(".running_var") for key in tensors if "running_var" in key]:
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(len(tensors))
    return tensors | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


def detectron2_weights(name: str, prefix: str = "") -> dict[str, Tensor]:
    return numbered({prefix + d2: shape for _, d2, shape in resnet_layout(DEPTHS[name])})


def pixel_decoder_weights() -> dict[str, Tensor]:
    """Mask2Former's pixel decoder, with the level at stride 4 that SST leaves out."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.level_embed": (3, 256)}
    for i, channels in enumerate((2048, 1024, 512)):
        shapes[f"input_proj.{i}.0.weight"] = (256, channels, 1, 1)
        shapes |= {f"input_proj.{i}.{name}": (256,) for name in ("0.bias", "1.weight", "1.bias")}
    for i in range(6):
        layer = f"transformer.encoder.layers.{i}"
        linear = {
            "self_attn.sampling_offsets": (192, 256),
            "self_attn.attention_weights": (96, 256),
            "self_attn.value_proj": (256, 256),
            "self_attn.output_proj": (256, 256),
            "linear1": (1024, 256),
            "linear2": (256, 1024),
        }
        for name, shape in linear.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
        norms = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
        shapes |= {f"{layer}.{name}": (256,) for name in norms}
    for name in ("mask_features", "adapter_1", "layer_1"):
        shapes[f"{name}.weight"] = (256, 256, 1, 1)
    return {f"sem_seg_head.pixel_decoder.{k}": v for k, v in numbered(shapes).items()}


def empty(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.zero_()


def empty_backbone(name: str, norm: str = "frozen") -> ResNet:
    backbone = build_backbone(name, norm=norm)
    empty(backbone)
    return backbone


def empty_encoder(*, levels: int = 3, norm: str = "group") -> Encoder:
    encoder = Encoder([2048, 1024, 512][:levels], EncoderShape(), NORMS[norm])
    empty(encoder)
    return encoder


@pytest.fixture(scope="module")
def sst_r50() -> SST:
    return SST(PRESETS["sst-r50"], [load_domain("cihp")])


@pytest.fixture
def net(sst_r50: SST) -> SST:
    empty(sst_r50)
    return sst_r50


@pytest.mark.parametrize(("name", "count"), [("resnet50", 320), ("resnet101", 626)])
def test_the_layouts_of_these_tests_have_the_published_counts(name: str, count: int):
    assert len(torchvision_weights(name)) == count


@pytest.mark.parametrize(
    ("name", "norm", "matched", "dropped"),
    [
        ("resnet50", "frozen", 265, 55),
        ("resnet50", "train", 318, 2),
        ("resnet101", "frozen", 520, 106),
    ],
)
def test_torchvision_weights_reach_every_tensor_of_the_backbone(
    name: str, norm: str, matched: int, dropped: int
):
    weights, backbone = torchvision_weights(name), empty_backbone(name, norm)
    report = import_backbone(backbone, weights)
    own = backbone.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own)
    assert set(report.matched) == set(own)
    assert (len(report.matched), len(report.dropped)) == (matched, dropped)
    assert report.layout == "torchvision"
    assert report.transformed == report.missing == report.unexpected == report.mismatched == ()


@pytest.mark.parametrize("norm", ["frozen", "train"])
def test_detectron2_weights_reach_every_tensor_of_the_backbone(norm: str):
    weights, backbone = detectron2_weights("resnet50"), empty_backbone("resnet50", norm)
    classifier = {"stem.fc.weight": torch.zeros(1000, 2048), "stem.fc.bias": torch.zeros(1000)}
    report = import_backbone(backbone, weights | classifier)
    own = backbone.state_dict()
    for tv, d2, _ in resnet_layout(DEPTHS["resnet50"]):
        assert torch.equal(own[tv], weights[d2]), tv
    assert report.layout == "detectron2"
    assert len(report.matched) == len(report.transformed) == 265
    assert report.dropped == tuple(classifier)
    counters = tuple(sorted(key for key in own if key.endswith("num_batches_tracked")))
    assert report.missing == counters  # detectron2 keeps none; they do not enter the result
    assert len(counters) == (0 if norm == "frozen" else 53)


def reference_features(weights: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """ResNet-50 in functions: the stride of a stage is in the 3×3 of its first block."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        scale, shift, mean, variance = (weights[f"{name}.{part}"] for part in STATISTICS)
        return functional.batch_norm(x, mean, variance, scale, shift)

    x = functional.relu(norm(conv(image, "conv1", 2), "bn1"))
    x, features = functional.max_pool2d(x, 3, 2, 1), []
    for stage, depth in enumerate(DEPTHS["resnet50"], 1):
        for i in range(depth):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = functional.relu(norm(conv(x, f"{block}.conv1"), f"{block}.bn1"))
            y = functional.relu(norm(conv(y, f"{block}.conv2", stride), f"{block}.bn2"))
            y = norm(conv(y, f"{block}.conv3"), f"{block}.bn3")
            if i == 0:
                x = norm(conv(x, f"{block}.downsample.0", stride), f"{block}.downsample.1")
            x = functional.relu(x + y)
        features.append(x)
    return features


def random_weights(name: str) -> dict[str, Tensor]:
    """Weights under which activations neither vanish nor explode."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for tv, _, shape in resnet_layout(DEPTHS[name]):
        noise = torch.rand(shape) * 2 - 1
        if len(shape) == 4:
            tensors[tv] = noise * (6 / noise[0].numel()) ** 0.5
        elif tv.endswith(("running_var", "weight")):
            tensors[tv] = 1 + 0.5 * noise
        else:
            tensors[tv] = 0.1 * noise
    return tensors


def test_the_imported_backbone_computes_what_the_published_network_does():
    weights, backbone = random_weights("resnet50"), empty_backbone("resnet50")
    import_backbone(backbone.eval(), weights)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, reference = backbone(image), reference_features(weights, image)
    assert [tuple(x.shape[1:]) for x in ours] == [
        (256, 16, 16),
        (512, 8, 8),
        (1024, 4, 4),
        (2048, 2, 2),
    ]
    for mine, theirs in zip(ours, reference, strict=True):
        assert theirs.std() > 0.01
        assert (mine - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_the_pixel_decoder_of_mask2former_reaches_every_tensor_of_the_encoder():
    weights, encoder = pixel_decoder_weights(), empty_encoder()
    report = import_pixel_decoder(encoder, weights)
    prefix, own = "sem_seg_head.pixel_decoder.", encoder.state_dict()
    for name, tensor in own.items():
        inner = name if name.startswith("input_proj") else f"transformer.encoder.{name}"
        source = "transformer.level_embed" if name == "level_embed" else inner
        assert torch.equal(tensor, weights[prefix + source]), name
    assert len(report.matched) == len(own) == 109
    assert report.missing == report.unexpected == report.mismatched == ()
    assert report.dropped == ("mask_features.weight", "adapter_1.weight", "layer_1.weight")


def test_an_encoder_of_other_shape_refuses_the_pixel_decoder():
    with pytest.raises(ModelError, match=r"level_embed \(here 2x256, in the file 3x256\)"):
        import_pixel_decoder(empty_encoder(levels=2), pixel_decoder_weights())
    with pytest.raises(ModelError, match=r"6 missing: input_proj\.0\.1\.running_mean"):
        import_pixel_decoder(empty_encoder(norm="batch"), pixel_decoder_weights())
    with pytest.raises(ModelError, match="no pixel decoder of Mask2Former"):
        import_pixel_decoder(empty_encoder(), torchvision_weights("resnet50"))


def test_a_torchvision_file_fills_the_backbone_and_says_so(net: SST, tmp_path: Path):
    weights = torchvision_weights("resnet50")
    wrapped = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "resnet50.pth")
    report = load_pretrained(net, tmp_path / "resnet50.pth")
    own = net.backbone.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in own)
    assert report.splitlines() == [
        "pretrained    resnet50.pth (torch; tensors under 'state_dict'; prefix 'module.' dropped)",
        "backbone      torchvision layout",
        "  matched        265",
        "  transformed      0",
        "  missing          0",
        "  unexpected       0",
        "  mismatched       0",
        "  dropped         55  bn1.num_batches_tracked, layer1.0.bn1.num_batches_tracked, "
        "layer1.0.bn2.num_batches_tracked, …",
        "unchanged     encoder, decoder, heads (not in the file)",
    ]


def test_one_mask2former_file_fills_backbone_and_encoder(net: SST, tmp_path: Path):
    backbone, decoder = detectron2_weights("resnet50", "backbone."), pixel_decoder_weights()
    other = {"sem_seg_head.predictor.class_embed.weight": torch.zeros(2, 2)}
    torch.save({"model": backbone | decoder | other, "iteration": 9}, tmp_path / "m2f.pth")
    report = load_pretrained(net, tmp_path / "m2f.pth")
    own = net.state_dict()
    for tv, d2, _ in resnet_layout(DEPTHS["resnet50"]):
        assert torch.equal(own[f"backbone.{tv}"], backbone[f"backbone.{d2}"]), tv
    last = "layers.5.self_attn.sampling_offsets.weight"
    source = decoder[f"sem_seg_head.pixel_decoder.transformer.encoder.{last}"]
    assert torch.equal(own[f"encoder.{last}"], source)
    assert not any(own[key].any() for key in own if key.startswith(("decoder.", "heads.")))
    assert "backbone      detectron2 layout\n  matched        265\n  transformed    265" in report
    assert "encoder       mask2former layout\n  matched        109\n" in report
    assert report.endswith("unused        1 tensors of the file belong to no part of SST")


def test_a_detectron2_pickle_needs_trust(net: SST, tmp_path: Path):
    arrays = {name: tensor.numpy() for name, tensor in detectron2_weights("resnet50").items()}
    path = tmp_path / "R-50.pkl"
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(ModelError, match="trust=True"):
        load_pretrained(net, path)
    load_pretrained(net, path, trust=True)
    path.unlink()  # 94 MB
    assert net.backbone.state_dict()["layer4.2.bn3.bias"][0] == arrays["res5.2.conv3.norm.bias"][0]


def test_a_part_that_does_not_fit_leaves_the_whole_network_unchanged(net: SST, tmp_path: Path):
    weights = detectron2_weights("resnet50", "backbone.") | pixel_decoder_weights()
    del weights["sem_seg_head.pixel_decoder.transformer.encoder.layers.3.norm1.weight"]
    torch.save(weights, tmp_path / "m2f.pth")
    with pytest.raises(ModelError, match=r"encoder .* 1 missing: layers\.3\.norm1\.weight"):
        load_pretrained(net, tmp_path / "m2f.pth")
    assert not any(tensor.any() for tensor in net.state_dict().values())


def without(name: str) -> dict[str, Tensor]:
    return {k: v for k, v in torchvision_weights("resnet50").items() if k != name}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, r"1 missing: layer2\.1\.bn2\.bias;"),
        ({"layer2.1.bn2.bias": torch.ones(64)}, r"bias \(here 128, in the file 64\)"),
        (
            {"layer2.1.bn2.bias": torch.ones(128), "layer2.1.se.weight": torch.ones(1)},
            "layer2.1.se",
        ),
    ],
)
def test_any_tensor_missing_misshapen_or_left_over_is_an_error(
    change: dict[str, Tensor], told: str
):
    backbone = empty_backbone("resnet50")
    with pytest.raises(ModelError, match=told):
        import_backbone(backbone, without("layer2.1.bn2.bias") | change)
    assert not any(tensor.any() for tensor in backbone.state_dict().values())


def test_a_network_of_other_depth_is_named():
    with pytest.raises(ModelError, match="are of resnet101, the network's backbone is resnet50"):
        import_backbone(empty_backbone("resnet50"), torchvision_weights("resnet101"))
    with pytest.raises(ModelError, match="of resnet50, the network's backbone is compact"):
        import_backbone(build_backbone("compact"), torchvision_weights("resnet50"))
    resnet152 = {
        f"layer{stage}.{i}.conv{k}.weight": torch.ones(1)
        for stage, depth in enumerate((3, 8, 36, 3), 1)
        for i in range(depth)
        for k in (1, 2, 3)
    }
    with pytest.raises(ModelError, match="a ResNet of 3-8-36-3 bottleneck blocks"):
        import_backbone(empty_backbone("resnet50"), resnet152)


@pytest.mark.parametrize("layout", ["torchvision", "detectron2"])
def test_a_resnet_converted_from_caffe_is_refused_for_its_stride(layout: str):
    """Its statistics are folded into weight and bias; mean 0 and variance 1 - eps are left."""
    make = {"torchvision": torchvision_weights, "detectron2": detectron2_weights}[layout]
    constants = {"running_mean": 0.0, "running_var": 1 - 1e-5}
    msra = make("resnet50")
    for name, tensor in msra.items():
        if (statistic := name.rpartition(".")[2]) in constants:
            msra[name] = torch.full_like(tensor, constants[statistic])
    with pytest.raises(ModelError, match=r"MSRA .*STRIDE_IN_1X1"):
        import_backbone(empty_backbone("resnet50"), msra)
