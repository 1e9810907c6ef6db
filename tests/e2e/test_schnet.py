"""SCHNet through the product: hp-train, hp-export with its constants folded, Parser."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hp_export.cli import main as hp_export
from hp_sdk import Parser
from hp_sdk.bundle import read_bundle, write_manifest
from hp_sdk.image import load_image
from hp_trainer.checkpoint import input_description, read_checkpoint, write_checkpoint
from hp_trainer.cli.train import main as hp_train
from hp_trainer.evaluate import input_spec, open_predictor

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
SHRUNK = (
    "preset=schnet-tiny",
    'domains=["pascal"]',
    "model.adapter_extra_extractors=0",
    "train.steps=2",
    "train.warmup=0",
    "train.input_hw=[64, 64]",
    "train.resize=shortest-side",
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
    checkpoint, bundle = str(root / "run" / "last.pt"), str(root / "bundle")
    assert hp_export([checkpoint, "-o", bundle, "--batch", "1:2:2"]) == 0
    return root


def read_as(line: Path, folder: Path, resize: str) -> tuple[Path, Path]:
    """Checkpoint and bundle of the line under another resize policy; the weights are the same."""
    described = input_description((64, 64), resize)
    checkpoint = read_checkpoint(line / "run" / "last.pt")
    write_checkpoint(folder / "last.pt", replace(checkpoint, input=described))
    shutil.copytree(line / "bundle", folder / "bundle")
    bundle, spec = read_bundle(folder / "bundle"), input_spec(described)
    write_manifest(replace(bundle, input=spec), folder / "bundle")
    return folder / "last.pt", folder / "bundle"


def test_sdk_and_torch_give_the_same_labels_on_a_real_photo_through_windows(line: Path):
    image = np.ascontiguousarray(load_image(PHOTO)[:, 130:330])  # 512x200: four windows of 64
    with Parser.load(line / "bundle") as parser:
        labels = parser.predict(image).labels
    with open_predictor(str(line / "run" / "last.pt"), "pascal") as predict:
        assert predict.protocol["stride_hw"] == [32, 32]
        assert labels.shape == image.shape[:2]
        assert np.mean(labels == predict(image)) >= 0.9999


def test_sdk_and_torch_give_the_same_labels_on_a_whole_letterboxed_photo(
    line: Path, tmp_path: Path
):
    image = np.ascontiguousarray(load_image(PHOTO)[:, 130:330])
    checkpoint, bundle = read_as(line, tmp_path, "letterbox")
    with Parser.load(bundle) as parser, open_predictor(str(checkpoint), "pascal") as predict:
        assert "stride_hw" not in predict.protocol
        assert np.mean(parser.predict(image).labels == predict(image)) >= 0.9999


def test_the_bundle_is_a_verified_schnet(line: Path):
    manifest = json.loads((line / "bundle" / "bundle.json").read_text("utf-8"))
    assert manifest["family"] == "schnet"
    assert {entry["verdict"] for entry in manifest["verify"]} == {"pass"}
    assert manifest["input"]["resize"] == "shortest-side"
    assert manifest["input"]["stride_hw"] == [32, 32]


def test_what_training_needs_and_what_is_constant_is_not_in_the_file(line: Path):
    (file,) = (line / "bundle").glob("*.onnx")
    graph = onnx.load(file).graph
    names = {tensor.name for tensor in graph.initializer}
    assert not [name for name in names if "fcn" in name or ".mlp_t." in name]
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    cubic = [n for n in graph.node if any(a.s == b"cubic" for a in n.attribute)]
    assert not cubic  # positions of SAM and CLIP are tables of one size
