"""Labels and confidence inside the graph: those that the product would make of the logits."""

import numpy as np
import onnx
import pytest

from hp_export.labels import add_labels
from hp_export.observe import run_model
from hp_export.opset import to_opset_17
from hp_export.probes import probe_images
from hp_export.to_onnx import check_model
from hp_export.verify import check_labels
from hp_sdk.errors import ExportError, VerificationFailed
from hp_sdk.postprocess import labels_and_confidence
from hp_sdk.preprocess import Geometry
from tests.export.small_graphs import SIZE_HW, small_model

IMAGES = np.stack(list(probe_images(SIZE_HW).values()))
TWICE = (2 * SIZE_HW[0], 2 * SIZE_HW[1])
ONCE = Geometry(SIZE_HW, SIZE_HW, SIZE_HW)


@pytest.fixture(scope="module")
def answers() -> dict[str, np.ndarray]:
    model = add_labels(small_model(), ["a"], SIZE_HW)
    check_model(model)
    return run_model(model, IMAGES)


def test_labels_and_confidence_are_those_of_the_product(answers: dict[str, np.ndarray]) -> None:
    assert answers["labels.a"].dtype == answers["confidence.a"].dtype == np.uint8
    assert len(np.unique(answers["labels.a"])) > 2
    for k, logits in enumerate(answers["logits.a"]):
        labels, confidence = labels_and_confidence(logits, ONCE)
        assert (labels == answers["labels.a"][k]).mean() > 0.999
        assert np.abs(confidence.astype(int) - answers["confidence.a"][k]).max() <= 1


def test_labels_have_the_network_s_size() -> None:
    model = add_labels(small_model(), ["a"], TWICE)
    found = run_model(model, IMAGES[:2])
    assert found["labels.a"].shape == (2, *TWICE)
    check_labels(found["logits.a"], found["labels.a"], found["confidence.a"], head="a")


def test_wrong_labels_or_confidence_are_noticed(answers: dict[str, np.ndarray]) -> None:
    logits, labels = answers["logits.a"], answers["labels.a"]
    confidence = answers["confidence.a"]
    check_labels(logits, labels, confidence, head="a")
    with pytest.raises(VerificationFailed, match="labels agree on"):
        check_labels(logits, labels[:, ::-1], confidence, head="a")
    with pytest.raises(VerificationFailed, match="confidence is off by"):
        check_labels(logits, labels, confidence // 2, head="a")


def test_opset_17_answers_the_same(answers: dict[str, np.ndarray]) -> None:
    model = to_opset_17(add_labels(small_model(), ["a"], SIZE_HW))
    check_model(model, opset=17)
    older = run_model(model, IMAGES)
    for name, values in answers.items():
        np.testing.assert_allclose(older[name], values, rtol=1e-5, atol=1e-5)


def test_what_opset_17_cannot_say_is_refused() -> None:
    model = add_labels(small_model(), ["a"], SIZE_HW)
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    resize.attribute.append(onnx.helper.make_attribute("antialias", 1))
    with pytest.raises(ExportError, match="uses antialias, which opset 17 lacks"):
        to_opset_17(model)
