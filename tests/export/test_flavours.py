"""Several artifacts in one bundle: precisions, labels in the graph, weights in a second file."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from hp_export import workshop
from hp_export.agreement import TOLERANCES
from hp_export.census import read_onnx, take_census
from hp_export.cli import main
from hp_export.options import ExportOptions
from hp_export.photos import FEWEST, read_photos
from hp_export.probes import figure, pair, texture
from hp_export.replay import replay_golden
from hp_export.verify import ROUNDED
from hp_export.write import ExportReport, export_bundle
from hp_sdk import Parser
from hp_sdk.bundle import InputSpec, read_bundle, verify_files
from hp_sdk.errors import ChecksumMismatch, ConfigError, InputError, VerificationFailed
from hp_trainer.checkpoint import Checkpoint

SPEC = InputSpec(size_hw=(64, 96))


@pytest.fixture
def traced(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Answers every trace with the model of the session's export."""
    model = read_onnx(exported.bundle.root / "model.fp32.onnx")
    del model.metadata_props[:]
    monkeypatch.setattr(workshop, "to_onnx", lambda *_args, **_options: model)
    return model


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of several sizes, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for k, size_hw in enumerate([(64, 96), (80, 60), (50, 50), (70, 90), (64, 40), (90, 64)]):
        picture = (figure, pair, texture)[k % 3](size_hw)
        name = f"more/{k}.jpg" if k == 3 else f"{k}.png"
        assert cv2.imwrite(str(folder / name), picture[:, :, ::-1])
    return folder


def test_one_bundle_holds_every_precision_asked_for(
    checkpoint: Checkpoint, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp32", "fp16"), heads=("pascal", "cihp"))
    report = export_bundle(checkpoint, tmp_path / "both", options)
    bundle = read_bundle(tmp_path / "both")
    assert [a.file for a in bundle.artifacts] == ["model.fp32.onnx", "model.fp16.onnx"]
    assert [a.precision_found for a in bundle.artifacts] == ["fp32", "fp16"]
    assert report.censuses["model.fp16.onnx"].computes["float16"] > 10
    assert bundle.card["artifacts"]["model.fp16.onnx"]["computes"]["float32"] > 0
    assert {e["runtime"] for e in bundle.verify} == {"onnxruntime", ROUNDED}
    for precision in ("fp32", "fp16"):
        assert replay_golden(bundle, precision=precision).precision == precision
        with Parser.load(str(bundle.root), precision=precision) as parser:
            receipt = parser.predict(figure((64, 96))).receipt
            assert receipt is not None
            assert receipt.precision == precision


def test_the_first_precision_is_the_one_that_is_opened(
    checkpoint: Checkpoint, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("fp16-weights", "fp32"))
    bundle = export_bundle(checkpoint, tmp_path / "b", options).bundle
    assert replay_golden(bundle).precision == "fp16-weights"


def test_int8_is_calibrated_and_judged_on_photographs(
    checkpoint: Checkpoint,
    traced: onnx.ModelProto,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lenient = replace(TOLERANCES["int8"], miou=0.6, label_agreement=0.6, boundary_agreement=0.5)
    monkeypatch.setitem(TOLERANCES, "int8", lenient)
    options = ExportOptions(precisions=("int8",), calib=photos, heads=("pascal",))
    bundle = export_bundle(checkpoint, tmp_path / "b", options).bundle
    (artifact,) = bundle.artifacts
    assert (artifact.file, artifact.precision_found) == ("model.int8.onnx", "int8")
    assert {entry["images"] for entry in bundle.verify} == {3, 16}
    decided = bundle.card["artifacts"]["model.int8.onnx"]
    assert decided["miou_held_out"] >= 0.6
    assert decided["computes"]["int8"] > 20


def test_a_precision_that_no_layer_bears_is_refused(
    checkpoint: Checkpoint,
    traced: onnx.ModelProto,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hp_export.precision.quantisable", lambda _model: ())
    options = ExportOptions(precisions=("fp32", "int8"), calib=photos)
    with pytest.raises(VerificationFailed, match="int8 was asked for, but no layer bears it"):
        export_bundle(checkpoint, tmp_path / "b", options)
    assert list(tmp_path.iterdir()) == []


def test_labels_lie_in_a_file_of_their_own(
    checkpoint: Checkpoint, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    options = ExportOptions(e2e=True, heads=("pascal", "cihp"))
    bundle = export_bundle(checkpoint, tmp_path / "b", options).bundle
    plain, e2e = bundle.artifacts
    assert e2e.file == "model.e2e.fp32.onnx"
    assert set(e2e.outputs) - set(plain.outputs) == {
        "labels.pascal",
        "labels.cihp",
        "confidence.pascal",
        "confidence.cihp",
    }
    census = take_census(read_onnx(bundle.root / e2e.file))
    assert census.outputs["labels.cihp"] == "uint8 [N, 64, 96]"


def test_opset_17_is_written_on_request(
    checkpoint: Checkpoint, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    options = ExportOptions(opset=17, precisions=("fp16",))
    bundle = export_bundle(checkpoint, tmp_path / "b", options).bundle
    assert bundle.artifacts[0].opset == 17


def test_large_weights_move_to_a_second_file_that_is_listed_and_checked(
    checkpoint: Checkpoint, traced: onnx.ModelProto, tmp_path: Path
) -> None:
    options = ExportOptions(data_limit_bytes=100_000)
    bundle = read_bundle(export_bundle(checkpoint, tmp_path / "b", options).bundle.root)
    (artifact,) = bundle.artifacts
    (data,) = artifact.data
    assert data.file == "model.fp32.onnx.data"
    assert artifact.size_bytes < 300_000 < data.size_bytes
    assert bundle.root / data.file in verify_files(bundle)
    assert replay_golden(bundle).agreement.keys() == {"pascal", "cihp"}
    path = bundle.root / data.file
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(ChecksumMismatch, match=r"model\.fp32\.onnx\.data' is damaged"):
        Parser.load(bundle.root)
    path.unlink()
    assert main(["check", str(bundle.root)]) == 4


def test_the_card_says_what_one_image_costs(exported: ExportReport) -> None:
    assert 1_000_000 < exported.bundle.card["macs"] < 1_000_000_000


def test_nodes_are_named_after_their_modules(exported: ExportReport) -> None:
    model = read_onnx(exported.bundle.root / "model.fp32.onnx")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "network.backbone.conv1/Conv" in names
    assert "network.heads.cihp/Conv" in names
    assert "network.encoder.layers.0.self_attn.value_proj/MatMul" in names
    assert "network.encoder.layers.0.norm1/LayerNormalization" in names
    assert "network.decoder.stages.0.swin.blocks.0.attn.qkv/MatMul" in names


def test_photographs_are_fitted_and_halved(photos: Path) -> None:
    found = read_photos(photos, SPEC)
    assert found.calibration.shape == found.held_out.shape == (3, 64, 96, 3)
    assert len(read_photos(photos, SPEC, most=4).held_out) == 2


def test_a_folder_without_enough_photographs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        read_photos(tmp_path / "nowhere", SPEC)
    with pytest.raises(ConfigError, match=f"holds 0 pictures; int8 needs at least {FEWEST}"):
        read_photos(tmp_path, SPEC)
    for k in range(FEWEST):
        (tmp_path / f"{k}.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="calibration picture"):
        read_photos(tmp_path, SPEC)


def test_a_dry_run_says_what_it_would_do_and_does_nothing(
    checkpoint_file: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bundle"
    arguments = "--precision fp32,int8 --e2e --size 64x96,96x64 --dry-run --calib"
    code = main([str(checkpoint_file), "-o", str(target), *arguments.split(), str(photos)])
    out = capsys.readouterr().out
    assert code == 0
    for words in ("pascal (7), cihp (20)", "64x96", "96x64", "fp32 and int8", "6 in", "GMACs"):
        assert words in out
    assert "nothing was written" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_refuses_what_an_export_would(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [str(checkpoint_file), "-o", str(tmp_path / "b"), "--dry-run"]
    assert main([*wanted, "--size", "64x100"]) == 2
    assert "the nearest is 64x96" in capsys.readouterr().err
    assert main([*wanted, "--opset", "20"]) == 2
    assert "opset is 20" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing_and_returns_130(
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    number: int,
) -> None:
    def interrupted(*_args: object, **_options: object) -> Callable[..., None]:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal came too late")

    monkeypatch.setattr(workshop, "to_onnx", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    target = tmp_path / "out"
    target.mkdir()
    assert main([str(checkpoint_file), "-o", str(target / "bundle")]) == 130
    assert capsys.readouterr().err == "hp-export: interrupted\n"
    assert list(target.iterdir()) == []


def test_probe_pictures_look_like_something() -> None:
    for picture in (texture((64, 96)), pair((64, 96)), pair((96, 40))):
        assert picture.dtype == np.uint8
        assert picture.std() > 20
    rows = np.abs(np.diff(texture((64, 96)).astype(float), axis=1)).mean()
    assert rows < 0.75 * texture((64, 96)).std()  # of independent values it is 1.13 times
