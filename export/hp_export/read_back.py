"""A network of SST read back from the float32 ONNX file of a bundle, ready to train on.

    weights by their names in the file ─► network ─ a few batches ─► batch norms that norm again

An exported convolution holds the batch norm behind it. Here each gets its norm back: the filters
are brought to the size of fresh ones, and mean and variance of what comes out are measured, so that
the network answers as before and trains as one with norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hp_sdk.errors import ConfigError
from hp_trainer.models.decoder import UpAndMix, WindowAttention, relative_index
from hp_trainer.models.encoder import sine_position
from hp_trainer.models.sst import SST

PREFIX = "network."
Arrays = Mapping[str, np.ndarray]


def read_weights(path: Path, net: SST, size_hw: tuple[int, int]) -> None:
    """Fill `net` from the ONNX file of an export at `size_hw`; its batch norms do nothing then.

    Raises:
        ConfigError: the file holds another network.
    """
    graph = onnx.load(path).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    arrays = {key.removeprefix(PREFIX): value for key, value in held.items()}
    arrays |= _products(graph, held)
    arrays |= _tables(graph, held, net, size_hw)
    for name, module in net.named_modules():
        if isinstance(module, UpAndMix) and f"{name}.coarse.weight" in arrays:
            arrays |= _joined(name, module, arrays)
    norms = _norms_of(net)
    state = net.state_dict()
    for key, tensor in state.items():
        owner = key.rpartition(".")[0]
        if owner in norms.values():
            continue
        given = arrays.get(key)
        if given is None or given.shape != tuple(tensor.shape):
            raise ConfigError(
                f"{path} holds no {key} of shape {list(tensor.shape)}; it is the export of another "
                "network, or not in float32: name the preset and settings that it was trained with"
            )
        state[key] = torch.from_numpy(np.array(given))
    net.load_state_dict(state)
    for conv, norm in norms.items():
        _neutralise(net, conv, norm, arrays.get(f"{conv}.bias"))


def _products(graph: Any, held: Arrays) -> dict[str, np.ndarray]:
    """Weights of linear layers: products with a matrix whose sum takes the layer's bias."""
    sums = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    found = {}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in held and node.output[0] in sums:
            bias = next((n for n in sums[node.output[0]].input if n.endswith(".bias")), "")
            key = bias.removeprefix(PREFIX).removesuffix("bias") + "weight"
            found[key] = held[node.input[1]].T
    return found


def _tables(graph: Any, held: Arrays, net: SST, size_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """What the export computed in advance: bias tables of windows, positions plus levels."""
    found: dict[str, np.ndarray] = {}
    used = [(node.name, held[name]) for node in graph.node for name in node.input if name in held]
    rows = relative_index(net.config.decoder_window)
    for name, module in net.named_modules():
        if isinstance(module, WindowAttention):
            table = np.zeros(tuple(module.relative_bias.shape), np.float32)
            for node, array in used:
                if node.startswith(f"{PREFIX}{name}/") and array.shape == (
                    table.shape[1],
                    *rows.shape,
                ):
                    table[rows.ravel()] = array.reshape(len(array), -1).T
            found[f"{name}.relative_bias"] = table
    strides, width = net.config.encoder_strides, net.config.width
    sides = [(size_hw[0] // s, size_hw[1] // s) for s in strides]
    sines = [sine_position(h, w, width).numpy() for h, w in sides]
    for _, array in used:
        if array.shape == (sum(len(sine) for sine in sines), width):
            parts = np.split(array, np.cumsum([len(sine) for sine in sines])[:-1])
            levels = [(part - sine)[0] for part, sine in zip(parts, sines, strict=True)]
            found["encoder.level_embed"] = np.stack(levels)
    return found


def _joined(name: str, mix: UpAndMix, arrays: Arrays) -> dict[str, np.ndarray]:
    """Weights of a mix that the export took apart; the identity where they went into the skip."""
    coarse = arrays[f"{name}.coarse.weight"]
    if len(coarse) != mix.out_channels:
        return {}
    fine = np.eye(mix.out_channels, dtype=np.float32)[:, :, None, None]
    fine = arrays.get(f"{name}.fine.weight", fine)
    found = {f"{name}.weight": np.concatenate([coarse, fine], 1)}
    if f"{name}.fine.bias" in arrays:
        found[f"{name}.bias"] = arrays[f"{name}.fine.bias"]
    return found


def _norms_of(net: nn.Module) -> dict[str, str]:
    """Convolution → the batch norm behind it, by where they stand."""
    modules, found = dict(net.named_modules()), {}
    for name, module in modules.items():
        parent, _, leaf = name.rpartition(".")
        norm = (
            f"{parent}.1" if leaf == "0" else f"{parent}.{leaf.replace('conv', 'bn')}".lstrip(".")
        )
        if isinstance(module, nn.Conv2d) and isinstance(modules.get(norm), nn.BatchNorm2d):
            found[name] = norm
    return found


@torch.no_grad()
def _neutralise(net: nn.Module, conv_name: str, norm_name: str, bias: np.ndarray | None) -> None:
    """Filters of the size of fresh ones; the norm scales them back and adds the bias."""
    conv, norm = net.get_submodule(conv_name), net.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    fan = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
    size = conv.weight.flatten(1).std(1).clamp(min=1e-8)
    scale = math.sqrt(2 / fan) / size
    conv.weight.mul_(scale[:, None, None, None])
    if conv.bias is not None:
        conv.bias.zero_()
    _set_norm(norm, mean=torch.zeros_like(scale), variance=torch.ones_like(scale) - norm.eps)
    norm.weight.copy_(1 / scale)
    norm.bias.copy_(torch.zeros_like(scale) if bias is None else torch.from_numpy(np.array(bias)))


@torch.no_grad()
def measure_norms(net: SST, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the mean and variance of what it gets; the answers stay the same.

    `batches`: normalised images (N, 3, H, W), some hundred in all.
    """
    net.eval()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []
    for conv, norm in _norms_of(net).items():
        moments = seen.setdefault(norm, [])
        handles.append(net.get_submodule(conv).register_forward_hook(_note(moments)))
    for images in batches:
        net.features(images)
    for handle in handles:
        handle.remove()
    for name, moments in seen.items():
        norm = net.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        mean = torch.stack([first for first, _ in moments]).mean(0)
        variance = torch.stack([second for _, second in moments]).mean(0) - mean.square()
        scale = norm.weight / (_given(norm.running_var) + norm.eps).sqrt()
        shift = norm.bias - _given(norm.running_mean) * scale
        _set_norm(norm, mean=mean, variance=variance)
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)


def _note(moments: list[tuple[Tensor, Tensor]]) -> Any:
    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        moments.append((output.mean((0, 2, 3)), output.square().mean((0, 2, 3))))

    return note


def _set_norm(norm: nn.BatchNorm2d, *, mean: Tensor, variance: Tensor) -> None:
    _given(norm.running_mean).copy_(mean)
    _given(norm.running_var).copy_(variance)


def _given(buffer: Tensor | None) -> Tensor:
    assert buffer is not None  # the norm keeps running statistics
    return buffer
