"""One line through the product: hp-train, hp-eval, hp-export, hp-parse on a real photograph."""

import json
from pathlib import Path

import numpy as np
import pytest

from hp_export.cli import main as hp_export
from hp_sdk import Parser
from hp_sdk.cli.parse import main as hp_parse
from hp_sdk.image import load_image
from hp_sdk.png import read_labels
from hp_trainer.checkpoint import read_checkpoint
from hp_trainer.cli.evaluate import main as hp_eval
from hp_trainer.cli.train import main as hp_train
from hp_trainer.evaluate import open_predictor
from hp_trainer.paperdolls import write_dataset

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
SHRUNK = (
    "preset=sst-tiny",
    "train.steps=40",
    "train.input_hw=[128, 128]",
    "data.workers=0",
    "data.augment.crop_hw=[64, 64]",
)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run, its scores and its bundle."""
    root = tmp_path_factory.mktemp("line")
    assert hp_train(["paperdolls", *SHRUNK, "--output", str(root / "run")]) == 0
    write_dataset(root / "dolls", count=6, seed=9, size_hw=(128, 128), split="val")
    checkpoint = str(root / "run" / "last.pt")
    listed = ["--data", str(root / "dolls"), "--domain", "cihp", "--labels", "labels_cihp"]
    for model, name in ((checkpoint, "torch"), (str(root / "bundle"), "bundle")):
        if name == "bundle":
            assert hp_export([checkpoint, "-o", str(root / "bundle")]) == 0
        assert hp_eval([model, *listed, "--json", str(root / f"{name}.json")]) == 0
    return root


def test_the_bundle_scores_as_the_checkpoint_does(line: Path):
    torch_scores, bundle_scores = (
        json.loads((line / f"{name}.json").read_text("utf-8")) for name in ("torch", "bundle")
    )
    assert torch_scores["images"] == bundle_scores["images"] == 6
    assert bundle_scores["miou"] == pytest.approx(torch_scores["miou"], abs=1e-3)


def test_a_real_photo_is_parsed_to_files(line: Path, tmp_path: Path):
    model = ["--model", str(line / "bundle"), "--domain", "atr"]
    save = ["--save", "labels,overlay,json", "-o", str(tmp_path)]
    assert hp_parse([str(PHOTO), *model, *save]) == 0
    labels = read_labels(tmp_path / "astronaut.labels.png")
    assert labels.shape == load_image(PHOTO).shape[:2]
    assert labels.max() < 18
    assert (tmp_path / "astronaut.overlay.png").stat().st_size > 1000
    assert json.loads((tmp_path / "astronaut.json").read_text("utf-8"))


def test_sdk_and_torch_give_the_same_labels_on_a_real_photo(line: Path):
    image = load_image(PHOTO)
    predict = open_predictor(str(line / "run" / "last.pt"), "cihp")
    with Parser.load(line / "bundle") as parser:
        labels = parser.predict(image, domains=["cihp"])["cihp"].labels
    assert np.mean(labels == predict(image)) >= 0.9999


def test_nothing_auxiliary_is_in_the_shipped_file(line: Path):
    checkpoint = read_checkpoint(line / "run" / "last.pt")
    assert checkpoint.aux
    onnx = pytest.importorskip("onnx", reason="onnx reads the exported file")
    (file,) = (line / "bundle").glob("*.onnx")
    graph = onnx.load(file).graph
    names = {tensor.name for tensor in graph.initializer} | {node.name for node in graph.node}
    assert not any("aux" in name or "msa" in name or "mst" in name for name in names)
