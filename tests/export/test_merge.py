"""1×1 convolutions of the decoder that are one in the exported copy."""

import copy

import onnx
import pytest
import torch
from torch import nn

from hp_export.graph import count_macs, fold_batch_norm
from hp_export.merge import merge_mixes
from hp_export.to_onnx import to_onnx
from hp_export.workshop import build_graph
from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_trainer.models.sst import MEAN, PRESETS, SST, STD

SIZE = (64, 96)
MERGED = {"sst-compact": 1, "sst-tiny": 3}
"""Preset → stages whose mix has a 1×1 kernel."""


def network(preset: str) -> SST:
    """A network none of whose norms is an identity."""
    torch.manual_seed(0)
    net = SST(PRESETS[preset], [load_domain("pascal")]).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.1)
    return net


@pytest.mark.parametrize("preset", MERGED)
@torch.inference_mode()
def test_merging_changes_logits_by_rounding_only_and_saves_work(preset: str):
    folded = fold_batch_norm(network(preset), torch.zeros(1, 3, *SIZE))
    before = copy.deepcopy(folded.state_dict())
    merged = merge_mixes(folded)
    image = torch.randn(2, 3, *SIZE)
    expected, found = folded(image)["pascal"], merged(image)["pascal"]
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert count_macs(merged, ["pascal"], SIZE) < count_macs(folded, ["pascal"], SIZE)
    after = folded.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_network_without_such_mixes_is_passed_on():
    plain = nn.Conv2d(3, 8, 1)
    assert merge_mixes(plain) is plain


@pytest.mark.parametrize("preset", MERGED)
def test_the_file_holds_each_product_once_and_splits_no_weights(preset: str):
    spec = InputSpec(size_hw=SIZE, mean=MEAN, std=STD)
    model = to_onnx(build_graph(network(preset), ("pascal",), spec, SIZE), SIZE)
    names = {tensor.name for tensor in model.graph.initializer}
    coarse = [name for name in names if name.endswith("fuse.0.coarse.weight")]
    fine = [name for name in names if name.endswith("fuse.0.fine.weight")]
    assert len(coarse) == MERGED[preset]
    # the product at stride 4, where the skip is a lateral, went into the lateral
    assert len(fine) == MERGED[preset] - 1
    fed = {name for node in model.graph.node if node.op_type == "Conv" for name in node.input}
    assert {*coarse, *fine, "network.decoder.lateral.4.0.weight"} <= fed
    assert not [n for n in model.graph.node if n.op_type == "Split" and n.input[0] in names]
    onnx.checker.check_model(model)
