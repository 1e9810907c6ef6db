"""T-30, T-31 and the rest of CLIP's image encoder, against torch's own attention module."""

import numpy as np
import pytest
import torch
from torch import nn

from hp_trainer.models.schnet.clip_vision import CLIPShape, CLIPVision
from hp_trainer.models.sst import normalise

SMALL = CLIPShape(width=16, depth=12, heads=4, patch=16, grid=3, joint=8)


def published_layout():
    """Names and shapes below `visual.` in CLIP ViT-B/16."""
    layout = {
        "class_embedding": (768,),
        "positional_embedding": (197, 768),
        "proj": (768, 512),
        "conv1.weight": (768, 3, 16, 16),
    }
    for norm in ("ln_pre", "ln_post"):
        layout |= {f"{norm}.weight": (768,), f"{norm}.bias": (768,)}
    block = {
        "attn.in_proj_weight": (2304, 768),
        "attn.in_proj_bias": (2304,),
        "attn.out_proj.weight": (768, 768),
        "attn.out_proj.bias": (768,),
        "ln_1.weight": (768,),
        "ln_1.bias": (768,),
        "mlp.c_fc.weight": (3072, 768),
        "mlp.c_fc.bias": (3072,),
        "mlp.c_proj.weight": (768, 3072),
        "mlp.c_proj.bias": (768,),
        "ln_2.weight": (768,),
        "ln_2.bias": (768,),
    }
    for i in range(12):
        layout |= {f"transformer.resblocks.{i}.{name}": shape for name, shape in block.items()}
    return layout


@pytest.fixture
def clip(perturb):
    torch.manual_seed(0)
    return perturb(CLIPVision(SMALL), 0.1).eval()


def reference(clip, image, *, class_tokens=1):
    """[input of block 0, outputs of the blocks], f_cls; `class_tokens` 2 adds it once too often."""
    x = clip.conv1(clip.renormalise(image)).flatten(2).transpose(1, 2)
    first = clip.class_embedding.expand(len(x), 1, -1) * class_tokens
    x = clip.ln_pre(torch.cat([first, x], 1) + clip.positional_embedding)
    outputs = [x]
    for block in clip.transformer.resblocks:
        attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
        attention.load_state_dict(block.attn.state_dict())
        normed = block.ln_1(x)
        x = x + attention(normed, normed, normed, need_weights=False)[0]
        hidden = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(hidden / (1 + torch.exp(-1.702 * hidden)))
        outputs.append(x)
    vector = clip.ln_post(x[:, 0]) @ clip.proj
    return outputs, vector / vector.norm(dim=-1, keepdim=True)


def test_clip_sees_pixels_with_its_own_statistics():
    pixels = torch.randint(0, 256, (1, 16, 16, 3), dtype=torch.uint8)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((pixels.numpy() / 255 - mean) / std).transpose(0, 3, 1, 2)
    seen = CLIPVision(SMALL).renormalise(normalise(pixels))
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-5)


def test_clip_can_be_given_the_statistics_of_the_network_input():
    shape = CLIPShape(width=16, depth=1, heads=4, joint=8, out_blocks=(0,), stats="sam")
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(CLIPVision(shape).renormalise(image), image)


@torch.no_grad()
def test_the_maps_are_the_patch_tokens_after_blocks_3_5_7_11_from_zero(clip):
    outputs = {}
    for i, block in enumerate(clip.transformer.resblocks):
        block.register_forward_hook(lambda _, __, y, i=i: outputs.__setitem__(i, y))
    maps = clip(torch.randn(2, 3, 48, 48)).maps
    assert len(maps) == 5
    for i, block in enumerate((3, 5, 7, 11)):
        assert torch.equal(maps[i], outputs[block][:, 1:])


@torch.no_grad()
def test_features_equal_the_published_encoders(clip):
    image = torch.randn(2, 3, 48, 48)
    outputs, vector = reference(clip, image)
    features = clip(image)
    assert features.grid_hw == (3, 3)
    for block, ours in zip((4, 6, 8, 12, 0), features.maps, strict=True):
        torch.testing.assert_close(ours, outputs[block][:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features.vector, vector, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_class_embedding_is_added_once(clip):
    image = torch.randn(1, 3, 48, 48)
    vector = clip(image).vector
    once, twice = (reference(clip, image, class_tokens=n)[1] for n in (1, 2))
    torch.testing.assert_close(vector, once, atol=1e-5, rtol=1e-5)
    assert (once - twice).abs().max() > 1e-3


@torch.no_grad()
def test_the_image_vector_has_length_one(clip):
    length = clip(torch.randn(3, 3, 48, 48)).vector.norm(dim=-1)
    torch.testing.assert_close(length, torch.ones(3))


def test_the_class_position_is_the_same_on_every_grid(clip):
    table = clip.positional_embedding
    assert clip.positions((3, 3)) is table
    resized = clip.positions((4, 6))
    assert resized.shape == (25, 16)
    assert torch.equal(resized[0], table[0])
    planes = table[1:].reshape(1, 3, 3, 16).permute(0, 3, 1, 2)
    wanted = nn.functional.interpolate(planes, size=(4, 6), mode="bicubic")
    torch.testing.assert_close(resized[1:], wanted[0].flatten(1).T)


def test_names_and_shapes_are_those_of_the_published_encoder(schnet_l):
    ours = {name: tuple(tensor.shape) for name, tensor in schnet_l.clip.state_dict().items()}
    assert ours == published_layout()


def test_the_encoder_has_its_published_size(schnet_l):
    assert sum(p.numel() for p in schnet_l.clip.parameters()) == 86_192_640


def test_a_frozen_encoder_keeps_nothing_for_the_backward_pass(clip):
    kept = []
    clip.requires_grad_(requires_grad=False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        features = clip(torch.randn(1, 3, 48, 48))
    assert not kept
    assert not features.vector.requires_grad
