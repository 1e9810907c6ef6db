"""One ONNX file: opset 18, static size, dynamic batch, nothing a runtime stumbles over."""

import logging
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_ir.passes import common
from torch import Tensor, nn
from torch.nn import functional

from hp_export.census import read_onnx
from hp_export.graph import HeadGraph, fold_batch_norm
from hp_export.observe import run_model
from hp_export.to_onnx import _split_weights, check_model, quiet, stamp, to_onnx
from hp_export.write import ExportReport
from hp_sdk.errors import ConfigError, ExportError

MEAN, STD = (120.0, 110.0, 100.0), (50.0, 60.0, 70.0)


@pytest.fixture(scope="session")
def sst_model(exported: ExportReport) -> onnx.ModelProto:
    return read_onnx(exported.bundle.root / "model.fp32.onnx")


def graph_of(network: nn.Module) -> HeadGraph:
    folded = fold_batch_norm(network, torch.zeros(1, 3, 32, 32))
    return HeadGraph(folded, ["cihp", "pascal"], mean=MEAN, std=STD).eval()


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


def model_of(*nodes: onnx.NodeProto, opset: int = 18) -> onnx.ModelProto:
    """Valid interface, any nodes between."""
    shape = ["N", 8, 8, 3]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT),
            *nodes,
            helper.make_node("Identity", ["x"], ["logits.a"]),
        ],
        "hand-made",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits.a", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_the_file_has_the_names_types_and_shapes_of_the_contract(
    plain_network: nn.Module,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        model = to_onnx(graph_of(plain_network), (32, 64))
    assert [(v.name, shape_of(v)) for v in model.graph.input] == [("image", ["N", 32, 64, 3])]
    assert [(v.name, shape_of(v)) for v in model.graph.output] == [
        ("logits.cihp", ["N", 20, 8, 16]),
        ("logits.pascal", ["N", 7, 8, 16]),
    ]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    # The exporter talks about itself; none of it may reach the user.
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_shipped_graph_is_opset_18_in_one_file(sst_model: onnx.ModelProto) -> None:
    assert [(o.domain, o.version) for o in sst_model.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in sst_model.graph.initializer)
    check_model(sst_model)


def test_deformable_attention_spells_bilinear(sst_model: onnx.ModelProto) -> None:
    samplers = [node for node in sst_model.graph.node if node.op_type == "GridSample"]
    modes = {a.s for node in samplers for a in node.attribute if a.name == "mode"}
    assert len(samplers) == 2
    assert modes == {b"bilinear"}


def test_norms_and_positions_are_folded_away(sst_model: onnx.ModelProto) -> None:
    operators = {node.op_type for node in sst_model.graph.node}
    assert operators.isdisjoint(
        {"BatchNormalization", "Sin", "Cos", "Range", "CumSum", "Loop", "If", "NonZero", "Constant"}
    )


def test_the_file_tells_nothing_of_the_machine_that_wrote_it(sst_model: onnx.ModelProto) -> None:
    content = sst_model.SerializeToString()
    assert b"stack_trace" not in content
    assert b".py" not in content


def test_the_file_says_what_it_is(plain_network: nn.Module) -> None:
    model = model_of()
    stamp(model, {"hp_sdk.bundle": "{}", "author": "somebody"})
    stamp(model, {"hp_sdk.bundle": "new"})
    assert {p.key: p.value for p in model.metadata_props} == {"hp_sdk.bundle": "new"}


class Halves(nn.Module):
    """A convolution and a product, each of whose weights is split first."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(6, 4, 1)
        self.product = nn.Linear(4, 8, bias=False)

    def forward(self, x: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
        first, second = self.mix.weight.split(3, 1)
        y = functional.conv2d(x, first, self.mix.bias) + functional.conv2d(x.square(), second)
        small, large = self.product.weight.split([3, 5])
        z = y.permute(0, 2, 3, 1)
        rows = [functional.linear(z, part).permute(0, 3, 1, 2) for part in (small, large)]
        return {"a": torch.cat(rows, 1)}


@pytest.mark.parametrize("opset", [17, 18])
def test_layers_have_constant_weights_even_where_the_network_splits_them(opset: int) -> None:
    graph = HeadGraph(Halves(), ["a"], mean=MEAN, std=STD).eval()
    model = to_onnx(graph, (8, 8), opset=opset)
    assert "Split" not in {node.op_type for node in model.graph.node}
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    assert len(layers) == 4
    assert all(node.input[1] in weights for node in layers)
    assert weights >= {"network.mix.weight_0", "network.mix.weight_1"}
    assert "network.mix.weight" not in weights
    assert {"network.mix/Conv", "network.mix/Conv.2"} <= {node.name for node in layers}
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    expected = graph(torch.from_numpy(images))[0].detach().numpy()
    np.testing.assert_allclose(run_model(model, images)["logits.a"], expected, atol=1e-4)


@pytest.mark.parametrize(("parts", "sizes"), [(3, None), (3, [4, 1, 2]), (1, None)])
def test_a_weight_is_split_as_the_operator_does(parts: int, sizes: list[int] | None) -> None:
    values = np.arange(14, dtype=np.float32).reshape(2, 7)
    weights = {"w": values} | ({} if sizes is None else {"sizes": np.array(sizes)})
    attributes: dict[str, Any] = {} if sizes else {"num_outputs": parts}
    outputs = [f"part{k}" for k in range(parts)]
    node = helper.make_node("Split", list(weights), outputs, axis=1, **attributes)
    ends = [helper.make_node("Identity", [name], [f"out{name}"]) for name in outputs]
    graph = helper.make_graph(
        [node, *ends],
        "g",
        [],
        [helper.make_empty_tensor_value_info(f"out{name}") for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = onnx_ir.from_proto(helper.make_model(graph))
    _split_weights(model)
    common.RemoveUnusedNodesPass()(model)
    graph = onnx_ir.to_proto(model).graph
    assert [n.op_type for n in graph.node] == ["Identity"] * parts
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    expected = np.split(values, np.cumsum(sizes or [3, 3])[: parts - 1], axis=1)
    assert [n.input[0] for n in graph.node] == list(found)
    for part, right in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(part, right)


@pytest.mark.parametrize("opset", [16, 20])
def test_an_opset_that_some_runtime_misreads_is_refused(opset: int) -> None:
    graph = HeadGraph(nn.Identity(), ["a"], mean=MEAN, std=STD)
    with pytest.raises(ConfigError, match=f"opset is {opset}; this version writes 17"):
        to_onnx(graph, (32, 32), opset=opset)


def test_a_network_that_cannot_be_traced_is_refused_in_one_line() -> None:
    class Undecided(nn.Module):
        def forward(self, image: Tensor, heads: tuple[str, ...]) -> dict[str, Tensor]:
            return {"a": image if image.mean() > 0 else -image}

    graph = HeadGraph(Undecided(), ["a"], mean=MEAN, std=STD)
    with pytest.raises(ExportError, match="cannot be traced") as caught:
        to_onnx(graph, (32, 32))
    assert "\n" not in str(caught.value)


def test_a_sound_model_passes() -> None:
    check_model(model_of())


def test_grid_sample_in_the_new_spelling_is_refused() -> None:
    sampler = helper.make_node("GridSample", ["x", "grid"], ["sampled"], mode="linear")
    model = model_of(sampler, opset=20)
    model.graph.initializer.append(
        helper.make_tensor("grid", TensorProto.FLOAT, [1, 1, 1, 2], [0.0, 0.0])
    )
    with pytest.raises(ExportError, match="reads as nearest"):
        check_model(model, opset=20)


def test_shapes_that_depend_on_values_are_refused() -> None:
    with pytest.raises(ExportError, match="NonZero"):
        check_model(model_of(helper.make_node("NonZero", ["x"], ["where"], name="scan")))


def test_operators_of_others_are_refused() -> None:
    model = model_of(helper.make_node("Magic", ["x"], ["y"], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ExportError, match=r"com\.example"):
        check_model(model)


def test_another_opset_than_asked_is_refused() -> None:
    with pytest.raises(ExportError, match="asked was 18"):
        check_model(model_of(opset=19), opset=18)


def test_a_fixed_batch_is_refused() -> None:
    model = model_of()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match="has shape"):
        check_model(model)


def test_a_graph_that_contradicts_itself_is_refused() -> None:
    model = model_of()
    model.graph.node[-1].input[0] = "nobody"
    with pytest.raises(ExportError, match="checker"):
        check_model(model)


def test_quiet_gives_the_loggers_back_their_levels() -> None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with quiet():
        during = logger.level
    assert (during, logger.level) == (logging.ERROR, before)
