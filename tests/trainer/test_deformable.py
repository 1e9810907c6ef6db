"""T-06: multi-scale deformable sampling, four cores against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.encoder import deformable_sampling
from hp_trainer.models.sst import SST, SSTConfig

CORES = ("grid_sample", "gather", "plugin", "loop")
SHAPES = [(3, 3), (2, 2)]
NINE_AND_FOUR = [0.0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 20, 30, 40]

every_core = pytest.mark.parametrize("core", CORES)


def toy(points, *, weights=None, core, value=None):
    """One query, one head, one channel: `points` [level][point] (x, y)."""
    if value is None:
        value = torch.tensor(NINE_AND_FOUR).view(1, -1, 1, 1)
    locations = torch.tensor(points, dtype=torch.float32)[None, None, None]  # (1, 1, 1, L, P, 2)
    if weights is None:
        weights = torch.full(locations.shape[:-1], 1 / locations.shape[3] / locations.shape[4])
    else:
        weights = torch.tensor(weights)[None, None, None]
    return deformable_sampling(value, SHAPES, locations, weights, core=core).item()


def bilinear(level, x, y):
    """Reference: `level` (h, w, d); pixel (i, j) has its centre at ((j + .5) / w, (i + .5) / h)."""
    h, w, _ = level.shape
    column, row = x * w - 0.5, y * h - 0.5
    total = torch.zeros(level.shape[-1], dtype=level.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < h and 0 <= j < w:  # zero padding
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def reference(value, shapes, locations, weights):
    n, lq, heads, _, points, _ = locations.shape
    out = torch.zeros(n, lq, heads, value.shape[-1], dtype=torch.float64)
    start = 0
    for lv, (h, w) in enumerate(shapes):
        maps = value[:, start : start + h * w].double().unflatten(1, (h, w))  # (N, h, w, M, d)
        start += h * w
        for b in range(n):
            for q in range(lq):
                for m in range(heads):
                    for p in range(points):
                        x, y = locations[b, q, m, lv, p].tolist()
                        sample = bilinear(maps[b, :, :, m], x, y)
                        out[b, q, m] += weights[b, q, m, lv, p].item() * sample
    return out.flatten(2).float()


def random_problem(*, n=2, lq=3, heads=2, d=3, points=2, spread=1.0):
    g = torch.Generator().manual_seed(6)
    shapes = [(2, 3), (4, 5), (5, 8)]
    value = torch.randn(n, sum(h * w for h, w in shapes), heads, d, generator=g)
    unit = torch.rand(n, lq, heads, len(shapes), points, 2, generator=g)
    locations = (unit - 0.5) * spread + 0.5
    scores = torch.randn(n, lq, heads, len(shapes) * points, generator=g)
    weights = scores.softmax(-1).unflatten(-1, (len(shapes), points))
    return value, shapes, locations, weights


@every_core
def test_uniform_weights_at_the_centre_average_the_two_levels(core):
    # 3x3: the middle pixel, 4. 2x2: the corner of all four, 25.
    assert toy([[[0.5, 0.5]], [[0.5, 0.5]]], core=core) == pytest.approx(14.5, abs=1e-5)


@every_core
def test_a_pixel_centre_of_one_level_is_interpolated_on_the_other(core):
    # Level 0 pixel (0, 0) has its centre at (1/6, 1/6): value 0 there; on level 1 that is
    # coordinate 1/6 * 2 - 0.5 = -1/6, where zero padding leaves (5/6)^2 of pixel (0, 0).
    centre = [1 / 6, 1 / 6]
    expected = (0.0 + 25 / 36 * 10) / 2
    assert toy([[centre], [centre]], core=core) == pytest.approx(expected, abs=1e-5)


@every_core
def test_the_first_coordinate_is_x(core):
    right_of_top_row = [5 / 6, 1 / 6]  # pixel (row 0, column 2) of the 3x3 level
    value = toy([[right_of_top_row], [[9.0, 9.0]]], weights=[[1.0], [0.0]], core=core)
    assert value == pytest.approx(2.0, abs=1e-5)


@every_core
def test_weights_scale_each_point_of_each_level(core):
    a, b = [0.5, 0.5], [5 / 6, 5 / 6]  # 3x3: 4 and 8
    c, d = [0.25, 0.25], [0.75, 0.25]  # 2x2: 10 and 20
    value = toy([[a, b], [c, d]], weights=[[0.1, 0.2], [0.3, 0.4]], core=core)
    assert value == pytest.approx(0.4 + 1.6 + 3.0 + 8.0, abs=1e-5)


@every_core
@pytest.mark.parametrize("far", [[-0.5, 0.5], [0.5, 1.6], [3.0, -2.0], [1e4, 1e4]])
def test_a_point_outside_every_pixel_reads_zero(core, far):
    assert toy([[far], [far]], core=core) == 0.0


@every_core
def test_the_border_fades_linearly_into_zero(core):
    # The right border of the 3x3 level at half height: halfway between pixel 5 and the padding.
    value = toy([[[1.0, 0.5]], [[0.5, 0.5]]], weights=[[1.0], [0.0]], core=core)
    assert value == pytest.approx(2.5, abs=1e-5)


@every_core
def test_heads_lie_side_by_side_in_the_output(core):
    value = torch.zeros(1, 13, 2, 3)
    value[:, :, 0] = torch.tensor([1.0, 2.0, 3.0])
    value[:, :, 1] = torch.tensor([4.0, 5.0, 6.0])
    locations = torch.full((1, 1, 2, 2, 1, 2), 0.5)
    weights = torch.full((1, 1, 2, 2, 1), 0.5)
    out = deformable_sampling(value, SHAPES, locations, weights, core=core)
    torch.testing.assert_close(out, torch.tensor([[[1.0, 2, 3, 4, 5, 6]]]))


@every_core
@pytest.mark.parametrize("spread", [1.0, 1.8])  # 1.8: many points off the map
def test_every_core_equals_the_reference(core, spread):
    value, shapes, locations, weights = random_problem(spread=spread)
    out = deformable_sampling(value, shapes, locations, weights, core=core)
    assert out.shape == (2, 3, 6)
    expected = reference(value, shapes, locations, weights)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_both_trainable_cores_have_the_same_gradients():
    gradients = []
    for core in ("grid_sample", "gather"):
        value, shapes, locations, weights = random_problem(spread=1.4)
        leaves = [t.requires_grad_() for t in (value, locations, weights)]
        out = deformable_sampling(value, shapes, locations, weights, core=core)
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for ours, theirs in zip(*gradients, strict=True):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_an_unknown_core_is_refused_before_the_first_image():
    with pytest.raises(ConfigError, match="magic"):
        SST(tiny("magic"), [load_domain("pascal")])


@torch.no_grad()
def test_the_encoder_stays_in_single_precision_under_autocast():
    torch.manual_seed(0)
    net = SST(tiny("grid_sample"), [load_domain("pascal")]).eval()
    image = torch.randn(1, 3, 64, 64)
    maps = net.backbone(image)[:0:-1]  # strides 32, 16, 8
    plain = net.encoder(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net.encoder(maps)
    for ours, theirs in zip(mixed, plain, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_encoder_has_the_size_of_the_mask2former_pixel_decoder():
    with torch.device("meta"):
        net = SST(SSTConfig(backbone="resnet50"), [load_domain("cihp")])
    assert sum(p.numel() for p in net.encoder.parameters()) == 5_313_728


def test_the_same_weights_give_the_same_logits_with_every_core():
    logits = {}
    for deform in ("grid_sample", "gather", "plugin"):
        torch.manual_seed(0)
        net = SST(tiny(deform), [load_domain("pascal")]).eval()
        # Fresh attention looks at grid points only; move them off the grid.
        for parameter in net.encoder.parameters():
            parameter.data.add_(0.05 * torch.randn(parameter.shape))
        with torch.no_grad():
            logits[deform] = net(torch.randn(1, 3, 64, 64))["pascal"]
    for core in ("gather", "plugin"):
        torch.testing.assert_close(logits[core], logits["grid_sample"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow  # torch.export takes seconds
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch warns of itself
def test_the_plugin_is_one_node_of_a_traced_graph_with_real_sizes_and_starts():
    value, shapes, locations, weights = random_problem()

    class Sampling(torch.nn.Module):
        def forward(self, value, locations, weights):
            return deformable_sampling(value, shapes, locations, weights, core="plugin")

    program = torch.export.export(Sampling(), (value, locations, weights))
    called = [node for node in program.graph.nodes if "deformable" in str(node.target)]
    assert len(called) == 1
    constants: list[Any] = list(program.constants.values())
    assert [0, 6, 26] in [c.tolist() for c in constants]
    assert all(c.dtype == torch.int32 for c in constants)


def tiny(deform):
    return SSTConfig(
        backbone="tiny", width=32, encoder_layers=1, encoder_heads=4, encoder_ffn=64,
        decoder_depths=(1, 1, 1), decoder_heads=4, decoder_window=4, deform=deform,
    )  # fmt: skip
