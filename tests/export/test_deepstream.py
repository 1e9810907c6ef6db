"""One head of a bundle as a model of DeepStream's nvinfer."""

import configparser
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from hp_export.census import read_onnx, take_census
from hp_export.deepstream import write_deepstream
from hp_export.replay import read_golden
from hp_export.write import ExportReport
from hp_sdk.bundle import Bundle, read_bundle
from hp_sdk.errors import ConfigError, ModelNotFound, UnknownHead


@pytest.fixture(scope="module")
def bundle(exported: ExportReport) -> Bundle:
    return read_bundle(exported.bundle.root)


@pytest.fixture(scope="module")
def served(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deepstream(bundle, tmp_path_factory.mktemp("nvinfer") / "cihp", head="cihp")


def test_the_configuration_says_what_nvinfer_has_to_do(bundle: Bundle, served: Path) -> None:
    parser = configparser.ConfigParser()
    parser.read(served)
    values = dict(parser["property"])
    assert values["network-type"] == "2"
    assert values["infer-dims"] == "3;64;96"
    assert values["model-color-format"] == "0"
    assert values["net-scale-factor"] == "1.0"
    assert values["maintain-aspect-ratio"] == "1"
    assert values["symmetric-padding"] == "0"
    assert values["num-detected-classes"] == "20"
    assert values["batch-size"] == "8"
    for key in ("onnx-file", "labelfile-path"):
        assert (served.parent / values[key]).is_file()
    names = (served.parent / "labels.txt").read_text().splitlines()
    assert tuple(names) == bundle.heads["cihp"].domain.names


def test_planes_go_in_and_the_largest_probability_is_the_golden_label(
    bundle: Bundle, served: Path
) -> None:
    session = onnxruntime.InferenceSession(str(served.parent / "model.onnx"))
    golden = read_golden(bundle)
    planes = golden["image"].transpose(2, 0, 1)[None].astype(np.float32)
    (probabilities,) = session.run(["probabilities"], {"image": planes})
    found = np.asarray(probabilities)
    assert found.shape == (1, 20, 64, 96)
    assert found.min() > 0  # nvinfer drops what is not above its threshold of 0
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert (found[0].argmax(0) == golden["labels.cihp"]).mean() > 0.999


def test_the_other_heads_are_not_computed(bundle: Bundle, served: Path) -> None:
    whole = take_census(read_onnx(bundle.root / bundle.artifacts[0].file))
    one = take_census(read_onnx(served.parent / "model.onnx"))
    assert list(one.outputs) == ["probabilities"]
    assert one.operators["Conv"] == whole.operators["Conv"] - 1


def test_two_runs_write_the_same_bytes(bundle: Bundle, served: Path, tmp_path: Path) -> None:
    again = write_deepstream(bundle, tmp_path / "cihp", head="cihp")
    for name in ("nvinfer.txt", "labels.txt", "model.onnx"):
        assert (again.parent / name).read_bytes() == (served.parent / name).read_bytes()


def with_input(bundle: Bundle, **changes: Any) -> Bundle:
    return replace(bundle, input=replace(bundle.input, **changes))


def test_a_stretched_input_is_stretched(bundle: Bundle, tmp_path: Path) -> None:
    config = write_deepstream(with_input(bundle, resize="stretch"), tmp_path / "x", head="pascal")
    assert "maintain-aspect-ratio=0\n" in config.read_text()


def test_what_nvinfer_cannot_do_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "nvinfer"
    with pytest.raises(ConfigError, match="one head; name one of pascal, cihp"):
        write_deepstream(bundle, target)
    with pytest.raises(UnknownHead, match="no head 'atr'; it has pascal, cihp"):
        write_deepstream(bundle, target, head="atr")
    with pytest.raises(ConfigError, match="pads with 114, nvinfer with 0 only"):
        write_deepstream(with_input(bundle, pad_value=114), target, head="cihp")
    with pytest.raises(ConfigError, match="'shortest-side', nvinfer knows stretch and letterbox"):
        write_deepstream(with_input(bundle, resize="shortest-side"), target, head="cihp")
    with pytest.raises(ModelNotFound, match="no ONNX file"):
        write_deepstream(replace(bundle, artifacts=()), target, head="cihp")
    assert not target.exists()
