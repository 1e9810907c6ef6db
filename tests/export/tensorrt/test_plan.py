"""What an engine file says of itself, without TensorRT."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hp_export.tensorrt.engines import build_engines
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.plan import inspect_plan, is_plan, plan_lines
from hp_export.tensorrt.sidecar import sidecar_path
from hp_sdk.errors import CorruptArtifact, ModelNotFound

Install = Callable[..., Path]


def header(tag: bytes, version: tuple[int, ...], *, size: int = 100, layout: int = 0) -> bytes:
    return struct.pack("<4sIQQ4B", tag, layout, 2, size, *version)


def rtx(mask: int) -> bytes:
    return header(b"vtrt", (1, 7, 1, 116)) + struct.pack("<4sI", b"vtrt", mask) + bytes(64)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.engine"
    path.write_bytes(content)
    return path


@pytest.fixture
def engine(install: Install, onnx_file: Path, tmp_path: Path) -> Path:
    """An engine of the stand-in, with its sidecar."""
    install()
    (artifact,) = build_engines(onnx_file, tmp_path, EngineOptions(compute_capabilities=("8.9",)))
    return tmp_path / artifact.file


@pytest.mark.parametrize(
    ("version", "text"), [((8, 6, 1, 6), "8.6.1.6"), ((11, 4, 0, 106), "11.4.0.106")]
)
def test_a_classic_plan_tells_its_version_and_what_it_needs(
    version: tuple[int, ...], text: str, tmp_path: Path
) -> None:
    report = inspect_plan(written(tmp_path, header(b"ftrt", version) + bytes(72)))
    assert (report.runtime, report.version) == ("tensorrt", text)
    assert report.compute_capabilities == ()
    assert f"pip install tensorrt=={text}" in report.needs
    assert "--format tensorrt," in report.rebuild


@pytest.mark.parametrize(
    ("mask", "capabilities", "newer"),
    [
        (0b10, ("8.0",), False),
        (0b11010, ("8.0", "8.9", "12.0"), False),
        (0b1111110, ("8.0", "8.6", "8.9", "12.0", "12.1"), True),
    ],
)
def test_a_plan_of_tensorrt_rtx_also_tells_the_gpus_it_is_for(
    mask: int, capabilities: tuple[str, ...], newer: bool, tmp_path: Path
) -> None:
    report = inspect_plan(written(tmp_path, rtx(mask)))
    assert (report.runtime, report.version) == ("tensorrt-rtx", "1.7.1.116")
    assert (report.compute_capabilities, report.and_newer) == (capabilities, newer)
    assert f"compute capability {', '.join(capabilities)}" in report.needs
    assert ("or newer" in report.needs) is newer


def test_the_sidecar_tells_the_rest(engine: Path) -> None:
    report = inspect_plan(engine)
    assert report.sidecar is not None
    assert report.notes == ()
    text = "\n".join(plan_lines(report))
    for words in (
        "TensorRT-RTX 1.7.1.116",
        "from    model.onnx (sha256",
        "fp32: 1 layers float32; strong typing",
        "image  min 1x32x32x3  opt 8x32x32x3  max 16x32x32x3",
        "logits.pascal  float -1x7x8x8",
        "compute capability 8.9",
        "--batch 1:8:16 --compute-capability 8.9",
    ):
        assert words in text
    assert report.to_dict()["sidecar"]["source"]["opset"] == 18


def test_a_plan_without_a_sidecar_says_that_its_origin_is_unknown(tmp_path: Path) -> None:
    lines = list(plan_lines(inspect_plan(written(tmp_path, rtx(2)))))
    assert any("origin  unknown: there is no some.engine.json" in line for line in lines)


def test_a_sidecar_of_another_file_is_not_believed(engine: Path) -> None:
    engine.write_bytes(engine.read_bytes() + b"\0")
    report = inspect_plan(engine)
    assert report.sidecar is None
    assert "sha256 differs" in report.notes[0]


@pytest.mark.parametrize("content", ["{", '{"schema": "1.0"}', '{"schema": "2.0"}'])
def test_a_broken_sidecar_is_a_note_not_a_failure(engine: Path, content: str) -> None:
    sidecar_path(engine).write_text(content)
    report = inspect_plan(engine)
    assert report.version == "1.7.1.116"
    assert "not used" in report.notes[0]


def test_an_unknown_layout_of_the_header_is_not_guessed_at(tmp_path: Path) -> None:
    content = header(b"ftrt", (12, 0, 0, 1), layout=7) + bytes(72)
    report = inspect_plan(written(tmp_path, content))
    assert report.version == ""
    assert "the TensorRT that wrote it" in report.needs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"ftrt\0\0", "truncated to 6 bytes"),
        (header(b"ftrt", (10, 9, 0, 34), size=5000) + bytes(72), "100 bytes, its header says 5000"),
        (rtx(2)[:90], "90 bytes, its header says 100"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (struct.pack("<I", 17) + b'{"task":"segment"' + b"ftrt", "cut off the first 21 bytes"),
        (b"\x08\x0a\x12\x07pytorch", "give it the ending .onnx"),
        (b"PK\x03\x04 some archive", "it starts with b'PK"),
    ],
)
def test_what_is_no_whole_engine_is_refused_by_what_it_is(
    content: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptArtifact, match=r"some\.engine") as caught:
        inspect_plan(written(tmp_path, content))
    assert words in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        inspect_plan(tmp_path / "none.engine")


def test_a_plan_is_known_by_its_name_or_its_tag(tmp_path: Path, onnx_file: Path) -> None:
    (tmp_path / "unnamed").write_bytes(rtx(2))
    assert is_plan(tmp_path / "unnamed")
    assert is_plan(tmp_path / "none.plan")
    assert not is_plan(onnx_file)
    assert not is_plan(tmp_path)


def test_the_rebuild_command_names_the_options(engine: Path) -> None:
    sidecar = inspect_plan(engine).sidecar
    assert sidecar is not None
    assert "--compute-capability" not in replace(sidecar, compute_capabilities=()).rebuild
    assert replace(sidecar, runtime="tensorrt").rebuild.endswith("--batch 1:8:16")
