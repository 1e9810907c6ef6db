"""hp-export as its users see it: what it prints, writes and returns."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from hp_export import workshop
from hp_export.census import read_onnx
from hp_export.cli import main
from hp_export.write import ExportReport
from hp_sdk.bundle import read_bundle
from hp_trainer.checkpoint import read_checkpoint

Failing = Callable[..., str]


@pytest.fixture
def model(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """The model every export of a test gets instead of tracing again."""
    model = read_onnx(exported.bundle.root / "model.fp32.onnx")
    monkeypatch.setattr(workshop, "to_onnx", lambda *_args, **_options: model)
    return model


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Runs a command that must fail with this code; the one line it says."""

    def run(code: int, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert captured.err.startswith("hp-export")
        return captured.err

    return run


@pytest.fixture
def misused(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Runs a command line that must be refused as usage; what it says."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


def test_an_export_writes_a_bundle_and_a_report(
    model: onnx.ModelProto,
    checkpoint_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = tmp_path / "card.json"
    card.write_text('{"trained_on": "paper dolls"}')
    target, report = tmp_path / "mine", tmp_path / "report.json"
    code = main(
        f"{checkpoint_file} -o {target} --heads all --format onnx --precision fp16-weights "
        f"--size 64x96 --batch 1:4:8 --name doll --license CC0-1.0 --card {card} "
        f"--json {report}".split()
    )
    assert code == 0
    bundle = read_bundle(target)
    assert (bundle.name, bundle.license) == ("doll", "CC0-1.0")
    assert bundle.card["trained_on"] == "paper dolls"
    assert bundle.artifacts[0].batch_max == 8
    found = json.loads(report.read_text())
    assert found["census"]["model.fp16-weights.onnx"]["precision"] == "fp16-weights"
    assert {e["verdict"] for e in found["verify"]} == {"pass"}
    assert "aux.mst.pascal__cihp" in {part["name"] for part in found["strip"]["left_behind"]}
    assert f"wrote {target}" in capsys.readouterr().out


def test_an_artifact_that_disagrees_is_not_written_and_returns_6(
    model: onnx.ModelProto, checkpoint_file: Path, tmp_path: Path, failing: Failing
) -> None:
    bias = next(t for t in model.graph.initializer if list(t.dims) == [20])
    bias.raw_data = (np.frombuffer(bias.raw_data, np.float32) * 3).tobytes()
    said = failing(6, checkpoint_file, "-o", tmp_path / "bundle")
    assert "disagrees with the network on head cihp" in said
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_head_returns_4(checkpoint_file: Path, tmp_path: Path, failing: Failing) -> None:
    said = failing(4, checkpoint_file, "-o", tmp_path / "bundle", "--heads", "cihp,lip")
    assert "no head 'lip'; it has pascal, cihp" in said
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_broken_checkpoint_returns_4(
    checkpoint_file: Path, tmp_path: Path, failing: Failing
) -> None:
    failing(4, tmp_path / "nowhere.pt", "-o", tmp_path / "bundle")
    for content in (b"", b"just text", checkpoint_file.read_bytes()[:5000]):
        broken = tmp_path / "broken.pt"
        broken.write_bytes(content)
        assert "broken.pt" in failing(4, broken, "-o", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_output_folder_that_cannot_be_written_returns_2(
    checkpoint_file: Path, tmp_path: Path, failing: Failing
) -> None:
    (tmp_path / "file").write_text("in the way")
    said = failing(2, checkpoint_file, "-o", tmp_path / "file" / "bundle")
    assert "cannot write" in said


def test_a_folder_of_something_else_is_refused(
    checkpoint_file: Path, tmp_path: Path, failing: Failing
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds no bundle.json" in failing(2, checkpoint_file, "-o", tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_model_card_that_is_no_object_returns_2(
    checkpoint_file: Path, tmp_path: Path, failing: Failing
) -> None:
    card = tmp_path / "card.json"
    for text in ("[1, 2]", "{", ""):
        card.write_text(text)
        said = failing(2, checkpoint_file, "-o", tmp_path / "bundle", "--card", card)
        assert "model card" in said


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--format", "coreml", "this version writes onnx, tensorrt, tensorrt-rtx, not 'coreml'"),
        ("--format", "onnx,tflite", "not 'tflite'"),
        ("--size", "512", "write HEIGHTxWIDTH"),
        ("--size", "0x64", "write HEIGHTxWIDTH"),
        ("--batch", "8", "write MIN:OPT:MAX"),
        ("--batch", "4:2:8", "ascending"),
        ("--heads", ",", "at least one head"),
    ],
)
def test_a_wrong_option_is_usage(
    checkpoint_file: Path, tmp_path: Path, misused: Failing, option: str, value: str, words: str
) -> None:
    assert words in misused(checkpoint_file, "-o", tmp_path / "bundle", option, value)


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("fp4", "this version writes fp32, fp16-weights, fp16, int8"),
        ("fp32,bf16", "export fp32 and open it with backend openvino"),
        ("int8", "add --calib DIR"),
    ],
)
def test_a_precision_that_cannot_be_had_returns_2_and_says_why(
    checkpoint_file: Path, tmp_path: Path, failing: Failing, precision: str, words: str
) -> None:
    said = failing(2, checkpoint_file, "-o", tmp_path / "bundle", "--precision", precision)
    assert words in said


def test_check_accepts_a_bundle_that_was_just_written(
    exported: ExportReport, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(exported.bundle.root)]) == 0
    assert "files intact, answers right on CPUExecutionProvider" in capsys.readouterr().out


def test_check_finds_a_truncated_artifact(bundle_folder: Path, failing: Failing) -> None:
    path = bundle_folder / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.fp32.onnx" in failing(4, "check", bundle_folder)


def test_check_finds_a_changed_golden_sample(bundle_folder: Path, failing: Failing) -> None:
    path = bundle_folder / "golden" / "golden.npz"
    path.write_bytes(path.read_bytes() + b" ")
    assert "golden.npz" in failing(4, "check", bundle_folder)


def test_check_of_no_bundle_returns_4(tmp_path: Path, failing: Failing) -> None:
    assert "bundle.json" in failing(4, "check", tmp_path)


def test_check_refuses_a_backend_that_does_not_exist(
    exported: ExportReport, failing: Failing
) -> None:
    assert "abacus" in failing(2, "check", exported.bundle.root, "--backend", "abacus")


def test_strip_writes_a_smaller_checkpoint(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, report = tmp_path / "bare.pt", tmp_path / "report.json"
    code = main(["strip", str(checkpoint_file), "-o", str(target), "--json", str(report)])
    assert code == 0
    assert read_checkpoint(target).aux is None
    out = capsys.readouterr().out
    assert "left behind  aux.msa.cihp" in out
    assert "every logit bit-equal" in out
    assert len(json.loads(report.read_text())["left_behind"]) == 6


def test_strip_of_a_broken_checkpoint_returns_4_and_writes_nothing(
    tmp_path: Path, failing: Failing
) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 no archive")
    failing(4, "strip", tmp_path / "broken.pt", "-o", tmp_path / "bare.pt")
    assert not (tmp_path / "bare.pt").exists()


def test_inspect_says_what_a_file_holds(
    exported: ExportReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = Path(shutil.copy(exported.bundle.root / "model.fp32.onnx", tmp_path / "lone.onnx"))
    report = tmp_path / "report.json"
    assert main(["inspect", str(lone), "--json", str(report)]) == 0
    out = capsys.readouterr().out
    for words in ("opset 18", "precision fp32", "image  uint8 [N, 64, 96, 3]", "GridSample 2"):
        assert words in out
    assert "tiny 1.0.0 (sst), pascal (7), cihp (20)" in out
    assert json.loads(report.read_text())["outputs"].keys() == {"logits.pascal", "logits.cihp"}


@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
def test_inspect_refuses_what_is_no_onnx_file(
    exported: ExportReport, tmp_path: Path, failing: Failing, content: str
) -> None:
    whole = (exported.bundle.root / "model.fp32.onnx").read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes({"truncated": whole[:-5000], "text": b"hello\n", "empty": b""}[content])
    assert "broken.onnx" in failing(4, "inspect", broken)
    failing(4, "inspect", tmp_path / "nowhere.onnx")
    failing(4, "inspect", tmp_path)


def test_help_names_the_other_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "check BUNDLE | strip CHECKPOINT -o OUT | inspect FILE" in capsys.readouterr().out


@pytest.mark.tensorrt
def test_one_command_writes_files_engines_and_a_model_repository(
    model: onnx.ModelProto,
    checkpoint_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "bundle"
    options = ["--format", "onnx,tensorrt-rtx", "--compute-capability", "8.6", "--no-verify"]
    options += ["--triton", str(tmp_path / "models")]
    assert main([str(checkpoint_file), "-o", str(target), *options]) == 0
    runtimes = {artifact.runtime: artifact.file for artifact in read_bundle(target).artifacts}
    assert set(runtimes) == {"onnx", "tensorrt-rtx"}
    assert f"wrote {tmp_path / 'models'}" in capsys.readouterr().out
    assert (tmp_path / "models" / "bundle" / "config.pbtxt").is_file()
    assert main(["inspect", str(target / runtimes["tensorrt-rtx"])]) == 0
    assert "compute capability 8.6" in capsys.readouterr().out


def test_deferred_engines_become_a_kit_beside_the_bundle(
    model: onnx.ModelProto, checkpoint_file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    options = ["--format", "onnx,tensorrt", "--defer"]
    assert main([str(checkpoint_file), "-o", str(target), *options]) == 0
    assert [artifact.runtime for artifact in read_bundle(target).artifacts] == ["onnx"]
    assert (tmp_path / "bundle-tensorrt-kit" / "build.py").is_file()
