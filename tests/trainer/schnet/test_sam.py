"""T-36 and the rest of SAM's encoder, against a reference written out window by window."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from hp_trainer.models.schnet.sam import SAMBlock, SAMEncoder, SAMShape

SMALL = SAMShape(
    width=8, depth=4, heads=2, global_blocks=(1, 3), window=14, native_window=14, grid=32
)


def published_layout():
    """Names and shapes below `image_encoder.` in SAM ViT-L, without the neck."""
    layout = {
        "pos_embed": (1, 64, 64, 1024),
        "patch_embed.proj.weight": (1024, 3, 16, 16),
        "patch_embed.proj.bias": (1024,),
    }
    for i in range(24):
        edge = 64 if i in (5, 11, 17, 23) else 14
        block = {
            "norm1.weight": (1024,),
            "norm1.bias": (1024,),
            "attn.rel_pos_h": (2 * edge - 1, 64),
            "attn.rel_pos_w": (2 * edge - 1, 64),
            "attn.qkv.weight": (3072, 1024),
            "attn.qkv.bias": (3072,),
            "attn.proj.weight": (1024, 1024),
            "attn.proj.bias": (1024,),
            "norm2.weight": (1024,),
            "norm2.bias": (1024,),
            "mlp.lin1.weight": (4096, 1024),
            "mlp.lin1.bias": (4096,),
            "mlp.lin2.weight": (1024, 4096),
            "mlp.lin2.bias": (1024,),
        }
        layout |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return layout


def attend(x, keys, attention, *, edge):
    """Reference in float64: tokens `x` {(row, column): vector}, of which `keys` are looked at."""
    weights = {k: v.detach().double().numpy() for k, v in attention.state_dict().items()}
    qkv = {at: weights["qkv.weight"] @ v + weights["qkv.bias"] for at, v in x.items()}
    width, heads = len(next(iter(x.values()))), attention.heads
    d, at = width // heads, np.array(keys)
    k, v = (np.stack([qkv[key][i * width : (i + 1) * width] for key in keys]) for i in (1, 2))
    out = {}
    for query in x:
        offsets = np.array(query) - at + edge - 1  # (keys, 2)
        position = weights["rel_pos_h"][offsets[:, 0]] + weights["rel_pos_w"][offsets[:, 1]]
        parts = []
        for head in range(heads):
            channels = slice(head * d, (head + 1) * d)
            q = qkv[query][:width][channels]
            scores = k[:, channels] @ q / np.sqrt(d) + position @ q
            share = np.exp(scores - scores.max())
            parts.append(share / share.sum() @ v[:, channels])
        out[query] = weights["proj.weight"] @ np.concatenate(parts) + weights["proj.bias"]
    return out


def windowed(x, attention, *, window, masked):
    """Reference for (h, w, C) after the norm; `masked` hides the padding, which is wrong."""
    h, w, width = x.shape
    out = np.zeros_like(x)
    for top, left in product(range(0, h, window), range(0, w, window)):
        places = list(product(range(window), range(window)))
        inside = [(y, c) for y, c in places if top + y < h and left + c < w]
        tokens = {at: np.zeros(width) for at in places}
        tokens |= {(y, c): x[top + y, left + c] for y, c in inside}
        keys = inside if masked else places
        for (y, c), vector in attend(tokens, keys, attention, edge=window).items():
            if (y, c) in inside:
                out[top + y, left + c] = vector
    return out


@torch.no_grad()
@pytest.mark.parametrize("relpos", ["bias", "augmented"])
@pytest.mark.parametrize(("hw", "window"), [((8, 7), 5), ((30, 30), 14)])
def test_padding_takes_part_in_the_attention_of_border_windows(perturb, hw, window, relpos):
    torch.manual_seed(0)
    shape = replace(SMALL, window=window, native_window=window, relpos=relpos)
    block = perturb(SAMBlock(shape, window), 0.3)  # biases too: padding has keys and values
    x = torch.randn(1, *hw, 8)  # (8, 7) is padded to 10x10, a 480-pixel input's (30, 30) to 42x42
    normed = block.norm1(x)[0].double().numpy()
    out = block._attend(block.norm1(x))[0].double().numpy()
    live, masked = (windowed(normed, block.attn, window=window, masked=m) for m in (False, True))
    np.testing.assert_allclose(out, live, atol=1e-5)
    assert np.abs(live - masked).max() > 0.01  # hiding the padding would be seen


@torch.no_grad()
@pytest.mark.parametrize("relpos", ["bias", "augmented"])
def test_a_global_block_attends_over_the_whole_map(perturb, relpos):
    shape = replace(SMALL, grid=4, relpos=relpos)  # tables as long as a line of 4 needs
    attention = perturb(SAMBlock(shape, 0), 0.3).attn
    x = torch.randn(1, 4, 4, 8)
    tokens = {(y, c): x[0, y, c].double().numpy() for y, c in product(range(4), range(4))}
    expected = attend(tokens, list(tokens), attention, edge=4)
    for (y, c), vector in expected.items():
        np.testing.assert_allclose(attention(x)[0, y, c].numpy(), vector, atol=1e-5)


@torch.no_grad()
def test_both_forms_of_relative_positions_give_the_same_features(perturb):
    encoder = perturb(SAMEncoder(SMALL), 0.1).eval()
    image = torch.randn(2, 3, 64, 96)
    plain = encoder(image)
    for block in encoder.blocks:
        block.attn.relpos = "augmented"
    assert plain.shape == (2, 4, 6, 8)
    torch.testing.assert_close(encoder(image), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_480_pixel_input_is_nine_windows_of_14_or_four_of_15(perturb):
    seen = []
    for window in (14, 15):
        block = perturb(SAMBlock(replace(SMALL, window=window), window))
        block.attn.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
        assert block(torch.randn(1, 30, 30, 8)).shape == (1, 30, 30, 8)
        assert block.attn.rel_pos_h.shape == (27, 4)  # the published length, whatever the window
    assert seen == [(9, 14, 14, 8), (4, 15, 15, 8)]


@torch.no_grad()
def test_the_encoder_is_its_embedding_and_its_blocks_in_order(perturb):
    encoder = perturb(SAMEncoder(SMALL)).eval()
    image = torch.randn(1, 3, 64, 64)
    x = encoder.embed(image)
    patches = torch.nn.functional.conv2d(
        image, encoder.patch_embed.proj.weight, encoder.patch_embed.proj.bias, stride=16
    )
    assert x.shape == (1, 4, 4, 8)
    assert (x - patches.permute(0, 2, 3, 1)).abs().max() > 0  # positions are added
    for block in encoder.blocks:
        x = x + block._attend(block.norm1(x))
        hidden = torch.nn.functional.gelu(block.mlp.lin1(block.norm2(x)))
        x = x + block.mlp.lin2(hidden)
    torch.testing.assert_close(encoder(image), x)


def test_a_batch_of_images_is_a_loop_over_images(perturb):
    encoder = perturb(SAMEncoder(SMALL)).eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        alone = torch.cat([encoder(image[None]) for image in images])
        torch.testing.assert_close(encoder(images), alone, atol=1e-5, rtol=1e-5)


def test_names_and_shapes_are_those_of_the_published_encoder(schnet_l):
    ours = {name: tuple(tensor.shape) for name, tensor in schnet_l.sam.state_dict().items()}
    assert ours == published_layout()
    assert len(ours) == 345 - 6  # the six tensors of the neck are not used


def test_the_large_encoder_has_its_published_size(schnet_l):
    assert sum(p.numel() for p in schnet_l.sam.parameters()) == 307_425_280


def test_only_four_blocks_of_the_large_encoder_are_global(schnet_l):
    windows = [block.window for block in schnet_l.sam.blocks]
    assert [i for i, window in enumerate(windows) if not window] == [5, 11, 17, 23]
    assert set(windows) == {0, 14}


def tensors_kept(step, x):
    """Storages that a backward pass through `step` would read."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        step(x)
    return {tensor.data_ptr() for tensor in kept}


@pytest.mark.parametrize("window", [0, 5])
def test_a_frozen_block_keeps_no_input_of_a_linear_layer(window):
    block = SAMBlock(replace(SMALL, window=5, native_window=5), window)
    linear = [block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2]
    inputs = []
    for layer in linear:
        layer.register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    x = torch.randn(1, 8, 7, 8, requires_grad=True)
    counts = {}
    for frozen in (False, True):
        inputs.clear()
        kept = tensors_kept(block.requires_grad_(not frozen), x)
        counts[frozen] = len(kept & {tensor.data_ptr() for tensor in inputs})
    assert counts == {False: 4, True: 0}


def test_gradients_pass_through_a_frozen_block():
    block = SAMBlock(SMALL, 14).requires_grad_(requires_grad=False)
    x = torch.randn(1, 4, 4, 8, requires_grad=True)
    block(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in block.parameters())
