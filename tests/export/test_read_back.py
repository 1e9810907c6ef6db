"""A network read back from its exported file: the same answers, and norms that train."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hp_export.read_back import measure_norms, read_weights
from hp_export.to_onnx import to_onnx
from hp_export.workshop import build_graph
from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.models.sst import MEAN, PRESETS, SST, STD, SSTConfig

SIZE = (64, 96)
DOMAINS = [load_domain("pascal"), load_domain("atr")]


def random_network(config: SSTConfig, seed: int) -> SST:
    """A network of which no tensor has the value that it is built with."""
    torch.manual_seed(seed)
    net = SST(config, DOMAINS).eval()
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    return net


def exported(net: SST, folder: Path) -> Path:
    spec = InputSpec(size_hw=SIZE, mean=MEAN, std=STD)
    path = folder / "model.onnx"
    heads = tuple(domain.name for domain in DOMAINS)
    path.write_bytes(to_onnx(build_graph(net, heads, spec, SIZE), SIZE).SerializeToString())
    return path


@pytest.mark.parametrize(
    "config",
    [PRESETS["sst-compact"], replace(PRESETS["sst-tiny"], decoder_depths=(1, 0, 2))],
    ids=["compact", "tiny"],
)
def test_what_was_exported_comes_back_and_its_norms_train(config: SSTConfig, tmp_path: Path):
    net, back = random_network(config, 1), random_network(config, 2)
    read_weights(exported(net, tmp_path), back, SIZE)
    images = torch.randn(6, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        wanted, read = net(images), back(images)
        measure_norms(back, [images])
        measured = back(images)
        in_training = back.train()(images)
    for name, logits in wanted.items():
        scale = logits.abs().max()
        assert (read[name] - logits).abs().max() < 1e-3 * scale
        assert (measured[name] - logits).abs().max() < 1e-3 * scale
        # statistics of the batch are those that were measured on it
        assert (in_training[name] - logits).abs().max() < 0.02 * scale
    filters = [m.weight for m in back.modules() if isinstance(m, nn.Conv2d)]
    assert max(float(w.detach().abs().max()) for w in filters) < 10


def test_a_file_of_another_network_is_refused(tmp_path: Path):
    path = exported(random_network(PRESETS["sst-tiny"], 1), tmp_path)
    with pytest.raises(ConfigError, match="another network"):
        read_weights(path, random_network(PRESETS["sst-compact"], 1), SIZE)
