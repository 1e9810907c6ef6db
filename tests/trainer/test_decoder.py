"""T-07 and T-08: the Swin decoder works at a quarter of the size and never looks at padding."""

import math

import pytest
import torch
from torch.nn import functional as F

from hp_sdk.domains import load_domain
from hp_trainer.models.decoder import SwinStage
from hp_trainer.models.sst import SST, SSTConfig

WIDTH, HEADS, WINDOW = 16, 2, 4


def stage(depth, *, seed=0, drop_path=0.0):
    """A stage whose every parameter is random, biases and tables included."""
    torch.manual_seed(seed)
    net = SwinStage(WIDTH, depth, HEADS, WINDOW, 4.0, drop_path)
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    for table in bias_tables(net):  # symmetric: query - key and key - query are both in use
        table.data = (table.data + table.data.flip(0)) / 2
    return net.eval()


def bias_tables(net):
    size = ((2 * WINDOW - 1) ** 2, HEADS)
    return [p for p in net.parameters() if tuple(p.shape) == size]


def block_weights(net):
    """The parameters of each block, told apart by shape and order: pre-norm attention, then MLP."""
    norms = [m for m in net.modules() if isinstance(m, torch.nn.LayerNorm)]
    linear = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    sizes = {
        "qkv": (3 * WIDTH, WIDTH),
        "proj": (WIDTH, WIDTH),
        "up": (4 * WIDTH, WIDTH),
        "down": (WIDTH, 4 * WIDTH),
    }
    by_name = {
        name: [m for m in linear if tuple(m.weight.shape) == size] for name, size in sizes.items()
    }
    tables = bias_tables(net)
    assert len(norms) == 2 * len(tables)
    for i, table in enumerate(tables):
        yield {name: found[i] for name, found in by_name.items()} | {
            "norm1": norms[2 * i],
            "norm2": norms[2 * i + 1],
            "table": table,
        }


def reference_block(weights, x, shift):
    """One block by brute force on x (h, w, D): softmax over the real pixels of one's window."""
    h, w, _ = x.shape
    qkv = weights["qkv"](weights["norm1"](x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
    attended = torch.zeros_like(x)
    for i in range(h):
        for j in range(w):
            window = members(i, j, h, w, shift)
            scores = torch.stack(
                [
                    (qkv[i, j, 0] * qkv[a, b, 1]).sum(-1) / math.sqrt(WIDTH // HEADS)
                    + weights["table"][(i - a + WINDOW - 1) * (2 * WINDOW - 1) + j - b + WINDOW - 1]
                    for a, b in window
                ]
            )  # (keys, heads)
            values = torch.stack([qkv[a, b, 2] for a, b in window])  # (keys, heads, d)
            attended[i, j] = (scores.softmax(0).unsqueeze(-1) * values).sum(0).flatten()
    x = x + weights["proj"](attended)
    return x + weights["down"](F.gelu(weights["up"](weights["norm2"](x))))


def members(i, j, h, w, shift):
    """The pixels of the window of (i, j); a shifted grid starts `shift` pixels early."""

    def cell(k):
        return (k - shift) // WINDOW

    return [(a, b) for a in range(h) for b in range(w) if cell(a) == cell(i) and cell(b) == cell(j)]


def reference(net, x):
    """The stage by brute force, plain and shifted windows in turn."""
    out = []
    for image in x.permute(0, 2, 3, 1):
        for index, weights in enumerate(block_weights(net)):
            image = reference_block(weights, image, shift=(WINDOW // 2) * (index % 2))
        out.append(image.permute(2, 0, 1))
    return torch.stack(out)


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (6, 9), (5, 10)])
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.no_grad()
def test_a_stage_equals_attention_within_each_window_of_real_pixels(depth, size):
    net = stage(depth)
    x = torch.randn(2, WIDTH, *size)
    torch.testing.assert_close(net(x), reference(net, x), atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("size", [(5, 5), (3, 3), (2, 9), (1, 1), (8, 8), (13, 6)])
@pytest.mark.parametrize("depth", [1, 2])
@torch.no_grad()
def test_a_constant_map_stays_constant_up_to_the_border(depth, size):
    # Equal values average to themselves under any weights, unless padding joins the average.
    net = stage(depth)
    pixel = torch.randn(1, WIDTH, 1, 1)
    out = net(pixel.expand(1, WIDTH, *size).contiguous())
    torch.testing.assert_close(out, out[:, :, :1, :1].expand_as(out), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out[:, :, :1, :1], net(pixel), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_window_does_not_depend_on_what_lies_beside_it():
    net = stage(1)
    x = torch.randn(1, WIDTH, 6, 7)
    whole = net(x)
    for rows in (slice(0, 4), slice(4, 6)):
        for columns in (slice(0, 4), slice(4, 7)):
            alone = net(x[:, :, rows, columns].contiguous())
            torch.testing.assert_close(whole[:, :, rows, columns], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "pixel", "field"),
    [(8, 0, slice(0, 4)), (8, -1, slice(4, 8)), (10, 0, slice(0, 4)), (10, -1, slice(4, 10))],
)
def test_shifted_windows_do_not_join_opposite_borders(size, pixel, field):
    # Rows 0-1 and the last rows share a rolled window in memory, never in meaning.
    x = torch.randn(1, WIDTH, size, size, requires_grad=True)
    stage(2)(x)[:, :, pixel, pixel].sum().backward()
    assert x.grad is not None
    expected = torch.zeros(size, size, dtype=torch.bool)
    expected[field, field] = True
    assert torch.equal(x.grad.abs().sum(1)[0] > 0, expected)


def test_no_gradient_reaches_the_parameters_as_nan_when_a_window_holds_one_pixel():
    net = stage(2)
    net(torch.randn(1, WIDTH, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
def test_each_image_of_a_batch_is_treated_alone():
    net = stage(2)
    x = torch.randn(3, WIDTH, 6, 5)
    alone = torch.cat([net(image[None]) for image in x])
    torch.testing.assert_close(net(x), alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_drop_path_acts_in_training_only():
    net, plain = stage(2, drop_path=0.9), stage(2)
    x = torch.randn(8, WIDTH, 4, 4)
    torch.testing.assert_close(net(x), plain(x))
    assert not torch.allclose(net.train()(x), plain(x))
    torch.testing.assert_close(plain.train()(x), plain.eval()(x))


def test_the_full_stage_and_decoder_have_the_published_sizes():
    with torch.device("meta"):
        full = SwinStage(256, 2, 8, 8, 4.0, 0.1)
        net = SST(SSTConfig(backbone="resnet50"), [load_domain("cihp")])
    assert count(full) == 1_583_120
    assert count(net.decoder) == 5_210_160
    assert count(net.heads) == 256 * 20 + 20


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---- T-07: heads before the last up-sampling ---------------------------------------------------


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    config = SSTConfig(
        backbone="tiny", width=32, encoder_layers=1, encoder_heads=4, encoder_ffn=64,
        decoder_depths=(1, 1, 1), decoder_heads=4, decoder_window=4,
    )  # fmt: skip
    return SST(config, [load_domain("pascal"), load_domain("atr")]).eval()


@torch.no_grad()
def test_features_lie_at_a_sixteenth_an_eighth_and_a_quarter(net):
    sizes = [tuple(h.shape) for h in net.features(torch.randn(2, 3, 64, 96))]
    assert sizes == [(2, 32, 4, 6), (2, 32, 8, 12), (2, 32, 16, 24)]


@pytest.mark.parametrize("align_corners", [False, True])
@torch.no_grad()
def test_a_head_commutes_with_up_sampling(net, align_corners):
    image = torch.randn(1, 3, 64, 64)
    logits, features = net(image)["atr"], net.features(image)[-1]
    assert logits.shape == (1, 18, 16, 16)

    def up(x):
        return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=align_corners)

    torch.testing.assert_close(up(logits), net.heads["atr"](up(features)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_only_the_asked_heads_are_run(net):
    image = torch.randn(1, 3, 64, 64)
    every, one = net(image), net(image, heads=["pascal"])
    assert list(every) == ["pascal", "atr"]
    assert list(one) == ["pascal"]
    assert torch.equal(one["pascal"], every["pascal"])
