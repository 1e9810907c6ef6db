"""`schnet-l` as it ships: two gigabytes of weights beside the graph, checked, run and compared."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hp_export.to_onnx import check_model
from hp_sdk.errors import ExportError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "schnet_memory.py"


def heavy(rows: int, *, elements: int | None = None) -> onnx.ModelProto:
    """`image` (N, 4, 4, 3) times a matrix of 4.8 MB with `rows` rows."""
    columns = 400_000
    weight = numpy_helper.from_array(np.zeros((rows, columns), np.float32), "weight")
    if elements is not None:
        weight.raw_data = bytes(4 * elements)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "weight"], ["logits.a"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "hp",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("logits.a", TensorProto.FLOAT, ["N", 4, 4, columns])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_the_checker_is_not_given_a_copy_of_large_weights(monkeypatch: pytest.MonkeyPatch):
    seen = []
    asked = onnx.checker.check_model

    def remember(model: onnx.ModelProto, *, full_check: bool) -> None:
        seen.append(model.ByteSize())
        asked(model, full_check=full_check)

    monkeypatch.setattr(onnx.checker, "check_model", remember)
    model = heavy(3)
    before = model.SerializeToString()
    check_model(model)
    assert seen[0] < 1000
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "told"),
    [(heavy(5), "node name: product"), (heavy(3, elements=7), "name: weight")],
    ids=["its shape", "its content"],
)
def test_a_large_weight_that_does_not_fit_is_refused_all_the_same(
    model: onnx.ModelProto, told: str
):
    with pytest.raises(ExportError, match=told):
        check_model(model)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes of tracing, more on a busy machine
def test_the_large_network_is_exported_checked_run_once_and_agrees_with_torch(tmp_path: Path):
    command = [sys.executable, str(SCRIPT), "export", "--output", str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads(told.stdout)
    graph, weights = (report["files"][name] for name in ("model.onnx", "model.onnx.data"))
    assert graph < 10e6
    assert weights == pytest.approx(
        1.8e9, rel=0.05
    )  # bytes of what folding leaves of 459 million numbers
    assert report["agrees"]
    assert report["agreement"]["nans"] == 0
    assert report["peak_gib"] < 14
