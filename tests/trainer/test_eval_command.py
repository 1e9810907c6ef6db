"""hp-eval from its arguments to its files, on lists that each test writes."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hp_sdk.backends import BACKENDS
from hp_sdk.domains import Domain, load_domain
from hp_sdk.testing import FAKE, make_bundle
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    write_checkpoint,
)
from hp_trainer.cli.evaluate import main as hp_eval
from hp_trainer.models.sst import PRESETS, SST

ATR, PASCAL = load_domain("atr"), load_domain("pascal")
KEYS = {"images", "miou", "mean_acc", "pixel_acc", "per_class_iou", "miou_present", "person_iou"}


def write_list(root: Path, domain: Domain, *, count: int = 2, width: int = 64) -> Path:
    """Photos painted in the domain's palette: four quarters of neighbouring ids."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        quarters = (np.arange(4).reshape(2, 2) + 3 * i + 9) % domain.num_classes
        truth = quarters.astype(np.uint8).repeat(32, 0).repeat(width // 2, 1)
        painted = np.array(domain.palette, np.uint8)[truth]
        cv2.imwrite(str(root / "images" / f"{i}.png"), painted[..., ::-1])
        cv2.imwrite(str(root / "labels" / f"{i}.png"), truth)
    (root / "val.txt").write_text("\n".join(str(i) for i in range(count)), "utf-8")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    net = SST(PRESETS["sst-tiny"], [ATR, PASCAL])
    family, config = describe_network(net)
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    description = input_description((64, 64))
    write_checkpoint(
        path, Checkpoint(family, config, net.domains, net.state_dict(), None, description)
    )
    return str(path)


@pytest.fixture
def palette_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bundle that reads colours: perfect on lists painted in the palette."""
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    return str(make_bundle(tmp_path / "bundle", domains=("atr", "pascal")).root)


def run(model: str, data: Path, *options: str, domain: str = "atr") -> int:
    return hp_eval([model, "--data", str(data), "--domain", domain, *options])


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def test_a_perfect_model_scores_one_everywhere(
    palette_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, file = write_list(tmp_path / "set", ATR), tmp_path / "scores.json"
    assert run(palette_model, data, "--boundary", "--json", str(file)) == 0
    scores = read(file)
    assert set(scores) >= KEYS
    assert scores["images"] == 2
    assert scores["miou"] == scores["pixel_acc"] == scores["boundary_f"] == 1
    assert scores["per_class_iou"]["face"] == 1
    assert scores["per_class_iou"]["hat"] is None
    assert scores["left_right_confusion"]["overall"] == 0
    assert set(scores["left_right_confusion"]["frontal"]) == {"overall", "pairs"}
    assert scores["boundary_tolerance"] == 0.0075
    assert "paper" not in scores
    said = capsys.readouterr().out
    assert "mIoU 100.00" in said
    assert "boundary F 100.0" in said
    assert "left and right confused in 0.0 per cent" in said


def test_boundary_scores_are_only_there_when_asked_for(palette_model: str, tmp_path: Path):
    data, file = write_list(tmp_path / "set", ATR), tmp_path / "scores.json"
    assert run(palette_model, data, "--json", str(file)) == 0
    assert not [key for key in read(file) if "boundary" in key]


def test_absent_classes_count_as_asked(palette_model: str, tmp_path: Path):
    data, file = write_list(tmp_path / "set", ATR, count=1), tmp_path / "scores.json"
    assert run(palette_model, data, "--absent", "zero", "--json", str(file)) == 0
    scores = read(file)
    assert scores["absent"] == "zero"
    assert scores["miou"] == pytest.approx(4 / 18)
    assert scores["per_class_iou"]["hat"] == 0
    assert scores["miou_present"] == 1


def test_the_confusion_matrix_is_written_as_table_and_picture(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_list(tmp_path / "set", ATR)
    table, picture = tmp_path / "out" / "c.csv", tmp_path / "out" / "c.png"
    assert run(checkpoint, data, "--confusion", str(table), "--confusion", str(picture)) == 0
    rows = list(csv.reader(table.read_text("utf-8").splitlines()))
    assert tuple(rows[0][1:]) == ATR.names
    counts = np.array([row[1:] for row in rows[1:]], np.int64)
    assert counts.sum() == 2 * 64 * 64
    assert counts.sum(1)[9:16].tolist() == [1024, 1024, 1024, 2048, 1024, 1024, 1024]
    assert cv2.imread(str(picture)) is not None
    accuracy = 100 * np.trace(counts) / counts.sum()
    assert f"pixel accuracy {accuracy:.2f}" in capsys.readouterr().out


def test_a_confusion_file_of_another_kind_is_refused_before_the_work(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_list(tmp_path / "set", ATR)
    assert run(checkpoint, data, "--confusion", str(tmp_path / "c.pdf")) == 2
    said = capsys.readouterr()
    assert "c.pdf" in said.err
    assert ".csv nor .png" in said.err
    assert said.out == ""


def test_a_checkpoint_is_asked_at_scales_above_one(checkpoint: str, tmp_path: Path):
    data, file = write_list(tmp_path / "set", ATR, width=48), tmp_path / "scores.json"
    options = ("--tta", "ms+flip", "--scales", "0.5,1,1.5", "--average", "probs")
    assert run(checkpoint, data, *options, "--json", str(file)) == 0
    scores = read(file)
    assert scores["tta"] == "ms+flip"
    assert scores["protocol"] == {
        "model": "checkpoint",
        "family": "sst",
        "network_hw": [64, 64],
        "resize": "letterbox",
        "scales": [0.5, 1.0, 1.5],
        "flip": True,
        "average": "probs",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def test_the_views_change_the_answer_of_a_checkpoint(checkpoint: str, tmp_path: Path):
    data = write_list(tmp_path / "set", ATR)
    matrices = []
    for options in ((), ("--tta", "flip"), ("--tta", "ms", "--scales", "schnet")):
        table = tmp_path / f"{len(matrices)}.csv"
        assert run(checkpoint, data, *options, "--confusion", str(table)) == 0
        matrices.append(table.read_text("utf-8"))
    assert len(set(matrices)) == 3


def test_a_bundle_has_one_input_size_and_reads_larger_scales_through_windows(
    palette_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_list(tmp_path / "set", ATR)
    assert run(palette_model, data, "--tta", "ms", "--scales", "1,1.5") == 0
    assert run(palette_model, data, "--size", "96x96") == 2
    assert "--size" in capsys.readouterr().err
    assert run(palette_model, data, "--tta", "ms", "--scales", "1,0.5") == 0


def test_scales_that_are_no_numbers_are_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for text in ("big", "1,", "0", "1,75", "nan"):
        with pytest.raises(SystemExit, match="2"):
            run(checkpoint, tmp_path, "--tta", "ms", "--scales", text)
        assert "graphonomy" in capsys.readouterr().err


@pytest.mark.parametrize("count", [2, 40])
def test_a_corrupt_image_ends_in_one_error_that_names_it(
    count: int, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    # of a long list only a sample is read before the first prediction
    data, file = write_list(tmp_path / "set", ATR, count=count), tmp_path / "scores.json"
    broken = data / "images" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    assert run(checkpoint, data, "--json", str(file)) == 3
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("hp-eval:")]
    assert len(errors) == 1
    assert str(broken) in errors[0]
    assert "Traceback" not in said.err
    assert not file.exists()


def test_labels_of_another_domain_end_in_an_error_that_names_the_file(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = write_list(tmp_path / "set", ATR)
    assert run(checkpoint, data, domain="pascal") == 3
    assert "0.png" in capsys.readouterr().err


def test_a_head_of_other_parts_is_refused(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parts = tmp_path / "parts.toml"
    parts.write_text('name = "pascal"\nnames = ["background", "hat", "bag"]\n', "utf-8")
    data = write_list(tmp_path / "set", load_domain(parts))
    assert run(checkpoint, data, domain=str(parts)) == 4
    assert "upper-arms" in capsys.readouterr().err


def test_the_papers_numbers_stand_beside_the_measured_ones(
    palette_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, file = write_list(tmp_path / "set", ATR), tmp_path / "scores.json"
    assert run(palette_model, data, "--compare-paper", "--json", str(file)) == 0
    said = capsys.readouterr().out
    assert "=>     100.00" in said
    assert "79.97" in said
    assert "not reproduced" in said
    scores = read(file)
    assert scores.pop("paper")["rows"][0]["paper"] == "SST"
    assert scores["miou"] == 1
    assert "79.97" not in json.dumps(scores)


def test_papers_are_not_asked_about_a_domain_they_do_not_report(
    palette_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(palette_model, tmp_path, "--compare-paper", domain="ccp") == 2
    assert "ccp" in capsys.readouterr().err
