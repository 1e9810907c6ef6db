"""SCHP's checkpoints as they are published, and what their network computes, from scratch.

Nothing here uses our network: names, shapes and arithmetic are written down a second time, in the
plainest way (InPlaceABN as |γ| + 1e-5, adaptive pooling, corners aligned), to compare with.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, ...]
State = dict[str, Tensor]

FULL = {"width": 64, "depths": (3, 4, 23, 3), "context": 512, "edge": 256, "skip": 48}
SMALL = {"width": 4, "depths": (2, 1, 2, 1), "context": 8, "edge": 6, "skip": 5}


def published_shapes(classes: int, *, width, depths, context, edge, skip) -> dict[str, Shape]:
    """Name → shape of every tensor, in the file's order."""
    entries = list(_backbone(width, depths))
    finest, deepest = 4 * width, 32 * width
    for k in range(4):
        entries += _conv_abn(f"context_encoding.stages.{k}.", (1, 2), context, deepest)
    entries += _conv_abn("context_encoding.bottleneck.", (0, 1), context, deepest + 4 * context, 3)
    for k in range(3):
        entries += _conv_abn(f"edge.conv{k + 1}.", (0, 1), edge, finest * 2**k)
    entries += [("edge.conv4.weight", (2, edge, 3, 3)), ("edge.conv4.bias", (2,))]
    entries += [("edge.conv5.weight", (2, 6, 1, 1)), ("edge.conv5.bias", (2,))]
    entries += _conv_abn("decoder.conv1.", (0, 1), edge, context)
    entries += _conv_abn("decoder.conv2.", (0, 1), skip, finest)
    entries += _conv_abn("decoder.conv3.", (0, 1), edge, edge + skip)
    entries += _conv_abn("decoder.conv3.", (2, 3), edge, edge)
    entries += [("decoder.conv4.weight", (classes, edge, 1, 1)), ("decoder.conv4.bias", (classes,))]
    entries += _conv_abn("fushion.", (0, 1), edge, 4 * edge)
    entries += [("fushion.3.weight", (classes, edge, 1, 1)), ("fushion.3.bias", (classes,))]
    return {f"module.{name}": shape for name, shape in entries}


def random_state(classes: int = 20, *, seed: int = 0, **shape) -> State:
    """A state dict of the exact layout; γ is negative in about every third channel."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: _random(name, size, generator)
        for name, size in published_shapes(classes, **(SMALL | shape)).items()
    }


def published_logits(state: State, image: Tensor) -> Tensor:
    """Logits of the fusion branch at 1/4 for a normalised BGR image (N, 3, H, W)."""
    t = {name.removeprefix("module."): tensor for name, tensor in state.items()}

    def conv(x: Tensor, name: str, **options) -> Tensor:
        return functional.conv2d(x, t[f"{name}.weight"], t.get(f"{name}.bias"), **options)

    def abn(x: Tensor, name: str, slope: float | None = 0.01) -> Tensor:
        mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        gamma = t[f"{name}.weight"].abs() + 1e-5
        y = functional.batch_norm(x, mean, variance, gamma, t[f"{name}.bias"], eps=1e-5)
        return y if slope is None else functional.leaky_relu(y, slope)

    def stretched(x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[2:]
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)

    def bottleneck(x: Tensor, name: str, stride: int, dilation: int) -> Tensor:
        y = torch.relu(abn(conv(x, f"{name}.conv1"), f"{name}.bn1", None))
        options = {"stride": stride, "padding": dilation, "dilation": dilation}
        y = torch.relu(abn(conv(y, f"{name}.conv2", **options), f"{name}.bn2", None))
        y = abn(conv(y, f"{name}.conv3"), f"{name}.bn3", None)
        if f"{name}.downsample.0.weight" in t:
            x = abn(conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1", None)
        return torch.relu(x + y)

    x = image
    for k, stride in ((1, 2), (2, 1), (3, 1)):
        x = torch.relu(abn(conv(x, f"conv{k}", stride=stride, padding=1), f"bn{k}", None))
    x = functional.max_pool2d(x, 3, 2, 1)
    maps = []
    for layer, stride, dilation in ((1, 1, 1), (2, 2, 1), (3, 2, 1), (4, 1, 2)):
        blocks = {name.split(".")[1] for name in t if name.startswith(f"layer{layer}.")}
        for k in range(len(blocks)):
            x = bottleneck(x, f"layer{layer}.{k}", stride if k == 0 else 1, dilation)
        maps.append(x)
    pyramid = [
        stretched(
            abn(
                conv(functional.adaptive_avg_pool2d(x, cells), f"context_encoding.stages.{k}.1"),
                f"context_encoding.stages.{k}.2",
            ),
            x,
        )
        for k, cells in enumerate((1, 2, 3, 6))
    ]
    x = torch.cat([*pyramid, x], 1)
    x = abn(conv(x, "context_encoding.bottleneck.0", padding=1), "context_encoding.bottleneck.1")
    x = stretched(abn(conv(x, "decoder.conv1.0"), "decoder.conv1.1"), maps[0])
    x = torch.cat([x, abn(conv(maps[0], "decoder.conv2.0"), "decoder.conv2.1")], 1)
    x = abn(conv(x, "decoder.conv3.0"), "decoder.conv3.1")
    x = abn(conv(x, "decoder.conv3.2"), "decoder.conv3.3")
    edges = [
        stretched(abn(conv(maps[k], f"edge.conv{k + 1}.0"), f"edge.conv{k + 1}.1"), maps[0])
        for k in range(3)
    ]
    x = abn(conv(torch.cat([x, *edges], 1), "fushion.0"), "fushion.1")
    return conv(x, "fushion.3")


def _backbone(width: int, depths: tuple[int, ...]) -> Iterator[tuple[str, Shape]]:
    # the stem is as wide as layer1's bottlenecks, and twice that at its end
    stem = ((width, 3), (width, width), (2 * width, width))
    for k, (outputs, inputs) in enumerate(stem, 1):
        yield f"conv{k}.weight", (outputs, inputs, 3, 3)
        yield from _abn(f"bn{k}", outputs)
    inputs = 2 * width
    for layer, depth in enumerate(depths, 1):
        inner = width * 2 ** (layer - 1)
        for block in range(depth):
            name = f"layer{layer}.{block}"
            sizes = ((inner, inputs, 1), (inner, inner, 3), (4 * inner, inner, 1))
            for k, (outputs, given, kernel) in enumerate(sizes, 1):
                yield f"{name}.conv{k}.weight", (outputs, given, kernel, kernel)
                yield from _abn(f"{name}.bn{k}", outputs)
            if block == 0:
                yield f"{name}.downsample.0.weight", (4 * inner, inputs, 1, 1)
                yield from _abn(f"{name}.downsample.1", 4 * inner)
            inputs = 4 * inner


def _conv_abn(
    prefix: str, places: tuple[int, int], outputs: int, inputs: int, kernel: int = 1
) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}{places[0]}.weight", (outputs, inputs, kernel, kernel)
    yield from _abn(f"{prefix}{places[1]}", outputs)


def _abn(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)


def _random(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return noise.abs() + 0.5
    if len(shape) == 4:
        return noise * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
    if name.endswith("weight"):
        return noise * 0.7 + 0.4
    return 0.3 * noise
