"""T-54, T-55, T-56: published SAM and CLIP weights reach the right tensors from every layout.

The layouts are spelled out here from the published names and shapes; no file is downloaded.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError
from hp_trainer.foundation import FoundationConfig, import_encoder, load_foundation, plan_encoder
from hp_trainer.foundation_layouts import take_part
from hp_trainer.models.schnet.schnet import PRESETS, SCHNet

Tensors = dict[str, Tensor]
Names = Iterator[tuple[str, str, tuple[int, ...]]]
"""Original name, name in Hugging Face's layout, shape."""

SAM_SIZES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "sam_vit_b": (768, 12, 12, (2, 5, 8, 11)),
    "sam_vit_l": (1024, 24, 16, (5, 11, 17, 23)),
    "sam_vit_h": (1280, 32, 16, (7, 15, 23, 31)),
}
"""Width, blocks, heads, blocks that attend over the whole map."""


def affine(ours: str, theirs: str, *shape: int) -> Names:
    yield f"{ours}.weight", f"{theirs}.weight", shape
    yield f"{ours}.bias", f"{theirs}.bias", shape[:1]


def sam_layout(
    width: int, depth: int, heads: int, whole: tuple[int, ...], *, grid: int = 64, window: int = 14
) -> Names:
    """Every tensor of the image encoder, its neck included, without the encoder's prefix."""
    yield "pos_embed", "pos_embed", (1, grid, grid, width)
    yield from affine("patch_embed.proj", "patch_embed.projection", width, 3, 16, 16)
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"layers.{i}"
        table = (2 * (grid if i in whole else window) - 1, width // heads)
        for n in (1, 2):
            yield from affine(f"{ours}.norm{n}", f"{theirs}.layer_norm{n}", width)
        for name in ("attn.rel_pos_h", "attn.rel_pos_w"):
            yield f"{ours}.{name}", f"{theirs}.{name}", table
        yield from affine(f"{ours}.attn.qkv", f"{theirs}.attn.qkv", 3 * width, width)
        yield from affine(f"{ours}.attn.proj", f"{theirs}.attn.proj", width, width)
        yield from affine(f"{ours}.mlp.lin1", f"{theirs}.mlp.lin1", 4 * width, width)
        yield from affine(f"{ours}.mlp.lin2", f"{theirs}.mlp.lin2", width, 4 * width)
    yield "neck.0.weight", "neck.conv1.weight", (256, width, 1, 1)
    yield from affine("neck.1", "neck.layer_norm1", 256)
    yield "neck.2.weight", "neck.conv2.weight", (256, 256, 3, 3)
    yield from affine("neck.3", "neck.layer_norm2", 256)


def clip_layout(width: int, depth: int, joint: int, *, grid: int = 14, patch: int = 16) -> Names:
    """Every tensor of the image encoder; of attentions the whole in_proj under `qkv`."""
    embeddings = "vision_model.embeddings"
    yield "class_embedding", f"{embeddings}.class_embedding", (width,)
    yield "positional_embedding", f"{embeddings}.position_embedding.weight", (1 + grid**2, width)
    yield "proj", "visual_projection.weight", (width, joint)
    yield "conv1.weight", f"{embeddings}.patch_embedding.weight", (width, 3, patch, patch)
    yield from affine("ln_pre", "vision_model.pre_layrnorm", width)
    yield from affine("ln_post", "vision_model.post_layernorm", width)
    for i in range(depth):
        ours, theirs = f"transformer.resblocks.{i}", f"vision_model.encoder.layers.{i}"
        yield f"{ours}.attn.in_proj_weight", f"{theirs}.self_attn.qkv.weight", (3 * width, width)
        yield f"{ours}.attn.in_proj_bias", f"{theirs}.self_attn.qkv.bias", (3 * width,)
        yield from affine(f"{ours}.attn.out_proj", f"{theirs}.self_attn.out_proj", width, width)
        yield from affine(f"{ours}.ln_1", f"{theirs}.layer_norm1", width)
        yield from affine(f"{ours}.ln_2", f"{theirs}.layer_norm2", width)
        yield from affine(f"{ours}.mlp.c_fc", f"{theirs}.mlp.fc1", 4 * width, width)
        yield from affine(f"{ours}.mlp.c_proj", f"{theirs}.mlp.fc2", width, 4 * width)


def tiny_sam() -> Names:
    return sam_layout(64, 4, 4, (1, 3), grid=8, window=4)


def tiny_clip() -> Names:
    return clip_layout(64, 4, 64, grid=4)


def random(names: Names) -> Tensors:
    """Tensors in the original names, halves of small whole numbers: exact in float16 too."""
    generator = torch.Generator().manual_seed(3)
    return {n: torch.randint(-64, 64, s, generator=generator) / 2 for n, _, s in names}


def meta(names: Names, prefix: str) -> Tensors:
    return {prefix + name: torch.empty(shape, device="meta") for name, _, shape in names}


def original_sam(tensors: Tensors) -> Tensors:
    others = {"prompt_encoder.no_mask_embed.weight": torch.zeros(1, 256)}
    return {f"image_encoder.{n}": t for n, t in tensors.items()} | others


def hugging_face_sam(tensors: Tensors) -> Tensors:
    names = {ours: theirs for ours, theirs, _ in tiny_sam()}
    others = {"shared_image_embedding.positional_embedding": torch.zeros(2, 128)}
    return others | {f"vision_encoder.{names[n]}": t for n, t in tensors.items()}


def timm_sam(tensors: Tensors) -> Tensors:
    return {n.replace("mlp.lin", "mlp.fc"): t for n, t in tensors.items()}


def openai_clip(tensors: Tensors) -> Tensors:
    others = {"logit_scale": torch.tensor(4.5), "ln_final.weight": torch.zeros(8)}
    return others | {f"visual.{n}": t for n, t in tensors.items()}


def hugging_face_clip(tensors: Tensors) -> Tensors:
    """Queries, keys and values apart, and the projection as a linear layer keeps it."""
    found = {"logit_scale": torch.tensor(4.5), "text_model.final_layer_norm.bias": torch.zeros(8)}
    found["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    for ours, theirs, _ in tiny_clip():
        if ".qkv." in theirs:
            for part, tensor in zip("qkv", tensors[ours].chunk(3), strict=True):
                found[theirs.replace(".qkv.", f".{part}_proj.")] = tensor.clone()
        else:
            found[theirs] = tensors[ours].T.contiguous() if ours == "proj" else tensors[ours]
    return found


CONVERT: dict[tuple[str, str], Callable[[Tensors], Tensors]] = {
    ("sam", "original"): original_sam,
    ("sam", "hugging-face"): hugging_face_sam,
    ("sam", "timm"): timm_sam,
    ("clip", "openai"): openai_clip,
    ("clip", "hugging-face"): hugging_face_clip,
}
LAYOUTS = {"sam": tiny_sam, "clip": tiny_clip}


@pytest.fixture
def net(tiny: Any) -> SCHNet:
    return tiny()


def full(**changes: Any) -> SCHNet:
    with torch.device("meta"):
        return SCHNet(replace(PRESETS["schnet-l"], **changes), [load_domain("pascal")])


def unchanged(net: nn.Module, before: Tensors) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_the_layouts_of_these_tests_have_the_published_counts():
    sam = meta(sam_layout(*SAM_SIZES["sam_vit_l"]), "")
    clip = meta(clip_layout(768, 12, 512), "")
    assert (len(sam), sum(t.numel() for t in sam.values())) == (345, 307_425_280 + 852_992)
    neck = [t.numel() for n, t in sam.items() if n.startswith("neck.")]
    assert sum(neck) == 852_992
    assert (len(clip), sum(t.numel() for t in clip.values())) == (152, 86_192_640)


@pytest.mark.parametrize(("key", "layout"), CONVERT)
def test_every_layout_fills_every_tensor_of_the_encoder(net: SCHNet, key: str, layout: str):
    """T-54 (SAM), T-55 (OpenAI's CLIP), T-56 (CLIP of Hugging Face)."""
    source = random(LAYOUTS[key]())
    report = import_encoder(net, key, CONVERT[key, layout](source))
    own = getattr(net, key).state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, source[name]), name
    assert set(report.matched) == set(own)
    assert report.layout == layout
    assert report.missing == report.unexpected == report.mismatched == ()


@pytest.mark.parametrize("name", SAM_SIZES)
def test_the_three_published_sizes_of_sam_fit(name: str):
    """T-54, by names and shapes alone."""
    width, depth, heads, whole = SAM_SIZES[name]
    net = full(sam_width=width, sam_depth=depth, sam_heads=heads, sam_global_blocks=whole)
    tensors = meta(sam_layout(*SAM_SIZES[name]), "image_encoder.")
    report = plan_encoder(net, "sam", take_part(tensors, "sam")).report
    assert len(report.matched) == len(report.transformed) == 3 + 14 * depth
    assert len(report.dropped) == 6  # the neck
    assert report.missing == report.unexpected == ()


def test_clip_vit_b_16_fits(schnet_l: SCHNet):
    """T-55, by names and shapes alone."""
    tensors = meta(clip_layout(768, 12, 512), "visual.")
    report = plan_encoder(schnet_l, "clip", take_part(tensors, "clip")).report
    assert (len(report.matched), report.missing, report.unexpected) == (152, (), ())


class Branch(nn.Module):
    """A node of the module tree that OpenAI's archive was scripted from."""


def module_of(tensors: Tensors) -> nn.Module:
    root = Branch()
    for name, tensor in tensors.items():
        node: nn.Module = root
        *path, leaf = name.split(".")
        for step in path:
            if not hasattr(node, step):
                node.add_module(step, Branch())
            node = node.get_submodule(step)
        node.register_parameter(leaf, nn.Parameter(tensor))
    return root


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_openais_archive_is_read_in_float32_without_running_it(net: SCHNet, tmp_path: Path):
    """T-55: TorchScript, its matrices in float16."""
    source = random(tiny_clip())
    halves = {n: t.half() if t.ndim > 1 else t for n, t in openai_clip(source).items()}
    module = module_of(halves)
    module.register_buffer("input_resolution", torch.tensor(64))
    torch.jit.script(module).save(str(tmp_path / "ViT-B-16.pt"))
    config = FoundationConfig(clip=str(tmp_path / "ViT-B-16.pt"))
    lines = load_foundation(net, config, partial=True)
    assert net.clip is not None
    for name, tensor in net.clip.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, source[name]), name
    assert any("torchscript; " in x and "cast from float16 to float32" in x for x in lines)
    assert "unused        3 tensors of the file belong to other parts" in lines


def write(folder: Path, key: str, layout: str, *, ending: str = "pth") -> str:
    path, tensors = folder / f"{key}.{ending}", CONVERT[key, layout](random(LAYOUTS[key]()))
    if ending == "safetensors":
        pytest.importorskip("safetensors").torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_both_files_fill_the_network_and_the_report_accounts_for_them(
    net: SCHNet, tmp_path: Path, ending: str
):
    pytest.importorskip("safetensors.torch")
    sam = write(tmp_path, "sam", "hugging-face", ending=ending)
    clip = write(tmp_path, "clip", "openai", ending=ending)
    lines = load_foundation(net, FoundationConfig(sam=sam, clip=clip), load_domain("pascal"))
    assert net.sam is not None
    assert net.clip is not None
    assert torch.equal(net.sam.pos_embed, random(tiny_sam())["pos_embed"])
    assert torch.equal(net.clip.proj, random(tiny_clip())["proj"])
    form = {"pth": "torch"}.get(ending, ending)
    assert lines[0] == f"foundation    sam.{ending} ({form})"
    assert lines[1:3] == ("SAM encoder   hugging-face layout", "  matched         59")
    assert lines[7].startswith("  dropped          6  neck.")
    assert lines[8:] == (
        "unused        1 tensors of the file belong to other parts",
        f"foundation    clip.{ending} ({form})",
        "CLIP encoder  openai layout",
        "  matched         56",
        "  transformed     56",
        "  missing          0",
        "  unexpected       0",
        "  mismatched       0",
        "  dropped          0",
        "unused        2 tensors of the file belong to other parts",
        "text          pascal: kept, the network has them",
    )


def test_positions_stay_as_published_and_fit_every_size(net: SCHNet, tmp_path: Path):
    source = {n: 0.02 * t for n, t in random(tiny_sam()).items()}
    import_encoder(net, "sam", original_sam(source))
    with torch.no_grad():
        for size in ((64, 96), (128, 128)):
            assert net(torch.randn(1, 3, *size))["pascal"].isfinite().all()
    assert net.sam is not None
    assert torch.equal(net.sam.pos_embed, source["pos_embed"])
    table = "attn.rel_pos_h"
    assert torch.equal(net.sam.blocks[1].get_parameter(table), source[f"blocks.1.{table}"])


def test_only_what_the_configuration_lets_learn_gets_gradients_afterwards(net: SCHNet):
    import_encoder(net, "sam", original_sam(random(tiny_sam())))
    learns = [n for n, p in net.named_parameters() if p.requires_grad and n.startswith("sam.")]
    assert learns == ["sam.patch_embed.proj.weight", "sam.patch_embed.proj.bias"]


def test_without_sam_its_file_is_reported_as_not_used(tiny: Any, tmp_path: Path):
    net = tiny(use_sam=False, use_srm=False, use_ftm=False)
    config = FoundationConfig(
        sam=write(tmp_path, "sam", "original"), clip=write(tmp_path, "clip", "hugging-face")
    )
    lines = load_foundation(net, config)
    assert lines[0] == "SAM encoder   not used, model.use_sam is false"
    assert net.clip is not None
    assert torch.equal(net.clip.proj, random(tiny_clip())["proj"])


# ---- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "other"), [("sam", "clip"), ("clip", "sam")])
def test_an_encoder_without_weights_is_an_error_unless_a_checkpoint_follows(
    net: SCHNet, tmp_path: Path, key: str, other: str
):
    layout, title = {"sam": ("openai", "SAM encoder "), "clip": ("original", "CLIP encoder")}[key]
    given: Any = {other: write(tmp_path, other, layout)}
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError, match=rf"foundation\.{key} is empty; give .*train\.init"):
        load_foundation(net, FoundationConfig(**given))
    assert unchanged(net, before)
    lines = load_foundation(net, FoundationConfig(**given), partial=True)
    assert f"{title}  unchanged, no file is named" in lines


def test_weights_of_another_size_are_named(schnet_l: SCHNet):
    sam_b = take_part(meta(sam_layout(*SAM_SIZES["sam_vit_b"]), "image_encoder."), "sam")
    with pytest.raises(ModelError, match=r"is sam_vit_b \(width 768, .* SAM .* is sam_vit_l \("):
        plan_encoder(schnet_l, "sam", sam_b)
    for name, layout in {
        "CLIP ViT-L/14": clip_layout(1024, 24, 768, grid=16, patch=14),
        "CLIP ViT-B/32": clip_layout(768, 12, 512, grid=7, patch=32),
        "a ViT": clip_layout(768, 12, 512, grid=20),
    }.items():
        weights = take_part(meta(layout, "visual."), "clip")
        with pytest.raises(ModelError, match=rf"is {name} \(.* CLIP .* is CLIP ViT-B/16 \("):
            plan_encoder(schnet_l, "clip", weights)


def test_the_wrong_number_of_heads_which_no_shape_shows_is_refused():
    net, tensors = full(clip_heads=8), meta(clip_layout(768, 12, 512), "visual.")
    with pytest.raises(ConfigError, match=r"model\.clip_heads is 8; CLIP ViT-B/16.* has 12"):
        plan_encoder(net, "clip", take_part(tensors, "clip"))


def test_other_global_blocks_are_refused_by_their_tables():
    net = full(sam_global_blocks=(6, 11, 17, 23))
    weights = take_part(meta(sam_layout(*SAM_SIZES["sam_vit_l"]), "image_encoder."), "sam")
    with pytest.raises(ModelError, match=r"4 of another shape: blocks\.5\.attn\.rel_pos_h"):
        plan_encoder(net, "sam", weights)


Q = "vision_model.encoder.layers.2.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("key", "layout", "change", "told"),
    [
        ("sam", "original", {"image_encoder.blocks.2.norm1.bias": None}, r"1 missing: blocks\.2"),
        ("sam", "original", {"image_encoder.blocks.2.gamma": torch.ones(1)}, "1 unexpected: blo"),
        (
            "sam",
            "hugging-face",
            {"vision_encoder.layers.0.mlp.lin1.bias": torch.ones(3)},
            r"lin1\.bias \(here 256, in the file 3\)",
        ),
        ("sam", "timm", {"pos_embed": None}, "1 missing: pos_embed"),
        ("clip", "openai", {"visual.conv1.weight": None}, r"1 missing: conv1\.weight"),
        ("clip", "hugging-face", {Q: None}, "attn.in_proj_weight; 2 unexpected"),
        ("clip", "hugging-face", {Q: torch.ones(2, 64)}, "attn.in_proj_weight; 3 unexpected"),
        (
            "clip",
            "hugging-face",
            {"visual_projection.weight": torch.ones(3)},
            r"proj \(here 64x64, in the file 3\)",
        ),
    ],
)
def test_any_tensor_missing_misshapen_or_left_over_is_an_error(
    net: SCHNet, key: str, layout: str, change: dict[str, Tensor | None], told: str
):
    tensors = {**CONVERT[key, layout](random(LAYOUTS[key]())), **change}
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ModelError, match=told):
        import_encoder(net, key, {n: t for n, t in tensors.items() if t is not None})
    assert unchanged(net, before)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_truncated_file_is_refused_and_leaves_the_whole_network_unchanged(
    net: SCHNet, tmp_path: Path, ending: str
):
    pytest.importorskip("safetensors.torch")
    sam, clip = write(tmp_path, "sam", "original"), write(tmp_path, "clip", "openai", ending=ending)
    content = Path(clip).read_bytes()
    Path(clip).write_bytes(content[: len(content) // 2])
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(CorruptArtifact, match=rf"clip\.{ending} cannot be read"):
        load_foundation(net, FoundationConfig(sam=sam, clip=clip))
    assert unchanged(net, before)
