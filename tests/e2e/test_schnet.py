"""SCHNet through the product: hp-train, hp-export with its constants folded, Parser."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from hp_export.cli import main as hp_export
from hp_sdk import Parser
from hp_sdk.image import load_image
from hp_trainer.cli.train import main as hp_train
from hp_trainer.evaluate import open_predictor

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
SHRUNK = (
    "preset=schnet-tiny",
    'domains=["pascal"]',
    "model.adapter_extra_extractors=0",
    "train.steps=8",
    "train.warmup=0",
    "train.input_hw=[64, 64]",
    "data.workers=0",
    "data.batch=4",
    "data.augment.crop_hw=[64, 64]",
    "validate=[]",
)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run and its bundle."""
    root = tmp_path_factory.mktemp("line")
    assert hp_train(["schnet-small", *SHRUNK, "--output", str(root / "run")]) == 0
    assert hp_export([str(root / "run" / "last.pt"), "-o", str(root / "bundle")]) == 0
    return root


def test_sdk_and_torch_give_the_same_labels_on_a_real_photo(line: Path):
    image = load_image(PHOTO)
    predict = open_predictor(str(line / "run" / "last.pt"), "pascal")
    with Parser.load(line / "bundle") as parser:
        result = parser.predict(image)
    assert result.labels.shape == image.shape[:2]
    assert np.mean(result.labels == predict(image)) >= 0.9999


def test_the_bundle_is_a_verified_schnet(line: Path):
    manifest = json.loads((line / "bundle" / "bundle.json").read_text("utf-8"))
    assert manifest["family"] == "schnet"
    assert {entry["verdict"] for entry in manifest["verify"]} == {"pass"}


def test_what_training_needs_and_what_is_constant_is_not_in_the_file(line: Path):
    (file,) = (line / "bundle").glob("*.onnx")
    graph = onnx.load(file).graph
    names = {tensor.name for tensor in graph.initializer}
    assert not [name for name in names if "fcn" in name or ".mlp_t." in name]
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    cubic = [n for n in graph.node if any(a.s == b"cubic" for a in n.attribute)]
    assert not cubic  # positions of SAM and CLIP are tables of one size
