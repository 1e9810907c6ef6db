"""Engines join a bundle only when they are right; a kit does the same on another machine."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hp_export.tensorrt.__main__ import main
from hp_export.tensorrt.into_bundle import add_engines
from hp_export.tensorrt.kit import read_kit, write_kit
from hp_export.tensorrt.options import EngineOptions
from hp_sdk import backends
from hp_sdk.backends import BackendEntry, open_backend
from hp_sdk.bundle import Artifact, Bundle, read_bundle, verify_files, write_manifest
from hp_sdk.errors import (
    BackendUnavailable,
    ChecksumMismatch,
    ConfigError,
    ExportError,
    SchemaMismatch,
    VerificationFailed,
)

Install = Callable[..., Path]
RUNTIME = "tensorrt-rtx"
SMALL = EngineOptions(batch=(1, 2, 4))
ENGINE = "model.fp32.b1-2-4.tensorrt-rtx-1.7.1.116.portable.engine"


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets this machine run engines: answers are those of the bundle's ONNX file, plus `error`."""

    def allow(error: float = 0.0) -> None:
        module = ModuleType("hp_test_engines")

        def open_artifact(bundle: Bundle, artifact: Artifact, _options: Any) -> Any:
            onnx = replace(artifact, runtime="onnx", file="model.onnx")
            content = (bundle.root / "model.onnx").read_bytes()
            onnx = replace(
                onnx, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
            )
            backend = open_backend(replace(bundle, artifacts=(onnx,)), backend="onnxruntime")
            return Disturbed(backend, error)

        module.open_artifact = open_artifact  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        entry = BackendEntry(module.__name__, "tensorrt", RUNTIME, ("cpu",))
        monkeypatch.setitem(backends.BACKENDS, RUNTIME, entry)

    return allow


class Disturbed:
    """A backend whose logits are off."""

    def __init__(self, backend: Any, error: float) -> None:
        self.backend, self.error, self.name, self.provider = backend, error, "engines", "test"
        self.facts = backend.facts

    def run(self, batch: Any) -> dict[str, Any]:
        logits = self.backend.run(batch)["logits.pascal"].copy()
        logits[:, 3] += self.error
        return {"logits.pascal": logits}

    def close(self) -> None:
        self.backend.close()


@pytest.fixture
def cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without a backend for engines."""
    others = {k: v for k, v in backends.BACKENDS.items() if not v.reads.startswith("tensorrt")}
    monkeypatch.setattr("hp_export.tensorrt.replay.BACKENDS", others)


def test_a_verified_engine_is_listed_beside_the_onnx_file(
    install: Install, runs: Callable[..., None], small_bundle: Path
) -> None:
    install()
    runs()
    added = add_engines(small_bundle, SMALL)
    bundle = read_bundle(small_bundle)
    verify_files(bundle)
    assert [a.runtime for a in bundle.artifacts] == ["onnx", RUNTIME]
    assert bundle.artifacts[1] == added.artifacts[0]
    assert bundle.verify[0]["artifact"] == "model.onnx"
    assert bundle.verify[1]["artifact"] == ENGINE
    assert (bundle.verify[1]["label_agreement"], bundle.verify[1]["verdict"]) == (1.0, "pass")


def test_adding_again_replaces_the_entry(
    install: Install, runs: Callable[..., None], small_bundle: Path
) -> None:
    install()
    runs()
    add_engines(small_bundle, SMALL)
    once = state(small_bundle)
    add_engines(small_bundle, SMALL)
    assert state(small_bundle) == once


@pytest.mark.parametrize("error", [1e6, np.nan])
def test_an_engine_with_other_labels_does_not_join(
    error: float, install: Install, runs: Callable[..., None], small_bundle: Path
) -> None:
    install()
    runs(error)
    before = state(small_bundle)
    with pytest.raises(VerificationFailed, match=r"pascal agrees on .*required 99\.900%"):
        add_engines(small_bundle, SMALL)
    assert state(small_bundle) == before


def test_an_engine_that_cannot_be_verified_does_not_join_unless_that_is_asked_for(
    install: Install, cannot_run: None, small_bundle: Path
) -> None:
    install()
    before = state(small_bundle)
    with pytest.raises(BackendUnavailable, match="--no-verify"):
        add_engines(small_bundle, SMALL)
    assert state(small_bundle) == before
    add_engines(small_bundle, SMALL, verify=False)
    assert [a.file for a in read_bundle(small_bundle).artifacts] == ["model.onnx", ENGINE]


def test_the_golden_sample_judges_engines_of_its_own_size_only(
    install: Install, runs: Callable[..., None], small_bundle: Path
) -> None:
    install()
    runs()
    bundle = read_bundle(small_bundle)
    write_manifest(replace(bundle, input=replace(bundle.input, size_hw=(64, 64))), small_bundle)
    with pytest.raises(ConfigError, match="is for 64x64, and cannot verify an engine for 32x32"):
        add_engines(small_bundle, SMALL)


def test_the_bundle_says_how_many_labels_must_agree(
    install: Install, runs: Callable[..., None], small_bundle: Path
) -> None:
    install()
    runs(1e6)
    bundle = read_bundle(small_bundle)
    golden = dict(bundle.golden or {}) | {"tolerances": {"fp32": 0.0}}
    write_manifest(replace(bundle, golden=golden), small_bundle)
    assert add_engines(small_bundle, SMALL).verify[0]["verdict"] == "pass"


def test_a_crash_of_the_builder_leaves_the_bundle_as_it_was(
    install: Install, small_bundle: Path
) -> None:
    install(fault="SIGABRT")
    before = state(small_bundle)
    with pytest.raises(ExportError, match="SIGABRT"):
        add_engines(small_bundle, SMALL)
    assert state(small_bundle) == before


def test_a_bundle_whose_onnx_file_is_damaged_gets_no_engine(
    install: Install, small_bundle: Path
) -> None:
    install()
    path = small_bundle / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ChecksumMismatch):
        add_engines(small_bundle, SMALL)
    with pytest.raises(ConfigError, match=r"it has model\.onnx"):
        add_engines(small_bundle, SMALL, onnx_file="other.onnx")


def test_a_kit_is_a_bundle_with_a_script_and_checksums(small_bundle: Path, tmp_path: Path) -> None:
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    verify_files(read_bundle(kit))
    assert set(state(kit)) - set(state(small_bundle)) == {
        *("build.py", "kit.json", "README.md", "kit.sha256")
    }
    asked = read_kit(kit)
    assert asked is not None
    assert (asked.options, asked.onnx_file) == (SMALL, "model.onnx")
    readme = (kit / "README.md").read_text()
    for words in ("python build.py", "pip install", "tensorrt-rtx-cu13", "1:2:4", "model.onnx"):
        assert words in readme
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "kit.sha256"], cwd=kit, check=False, timeout=60
    )
    assert checked.returncode == 0


def test_a_kit_holds_no_engine_of_this_machine(
    install: Install, runs: Callable[..., None], small_bundle: Path, tmp_path: Path
) -> None:
    install()
    runs()
    add_engines(small_bundle, SMALL)
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    assert [a.file for a in read_bundle(kit).artifacts] == ["model.onnx"]
    assert not list(kit.glob("*.engine*"))
    assert {entry["artifact"] for entry in read_bundle(kit).verify} == {"model.onnx"}


def test_one_command_turns_a_kit_into_a_verified_engine(
    install: Install, runs: Callable[..., None], small_bundle: Path, tmp_path: Path
) -> None:
    install()
    runs()
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    assert main([str(kit)]) == 0
    bundle = read_bundle(kit)
    verify_files(bundle)
    assert bundle.artifacts[1].file == ENGINE
    assert bundle.verify[1]["verdict"] == "pass"
    assert read_kit(kit) is not None  # the checksums still hold: the command can be called again


def test_the_script_of_a_kit_needs_neither_torch_nor_onnx(
    install: Install, small_bundle: Path, tmp_path: Path
) -> None:
    install()
    for name in ("torch", "onnx", "onnxscript"):
        (tmp_path / "site" / f"{name}.py").write_text("raise ImportError('not on the target')")
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    done = subprocess.run(
        [sys.executable, kit / "build.py", "--no-verify", "--json", tmp_path / "report.json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "not verified" in done.stdout
    assert ENGINE in json.loads((tmp_path / "report.json").read_text())["artifacts"][0]["file"]
    assert read_bundle(kit).artifacts[1].file == ENGINE


@pytest.mark.parametrize("file", ["model.onnx", "build.py", "kit.json", "golden/golden.npz"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_kit_builds_nothing(
    file: str, damage: str, small_bundle: Path, tmp_path: Path
) -> None:
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    if damage == "changed":
        (kit / file).write_bytes((kit / file).read_bytes() + b" ")
    else:
        (kit / file).unlink()
    before = state(kit)
    assert main([str(kit), "--no-verify"]) == 4
    assert state(kit) == before


def test_a_kit_of_a_newer_schema_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    kit = write_kit(small_bundle, tmp_path / "kit", SMALL)
    (kit / "kit.json").write_text('{"schema": "2.0"}')
    (kit / "kit.sha256").write_text("")
    with pytest.raises(SchemaMismatch, match="install the hp-sdk"):
        read_kit(kit)


def test_what_cannot_become_a_kit_is_refused_and_leaves_nothing(
    small_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"photo")
    with pytest.raises(ConfigError, match="new or an empty folder"):
        write_kit(small_bundle, tmp_path / "holiday", SMALL)
    (small_bundle / "model.onnx").unlink()
    assert main([str(small_bundle), "--defer", str(tmp_path / "kit")]) == 4
    assert not (tmp_path / "kit").exists()


def test_the_command_takes_batches_from_the_manifest_and_options_from_the_line(
    install: Install, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install()
    words = "--no-verify --compute-capability 8.0 --compute-capability 8.9 --workspace 0.5 --tf32"
    assert main([str(small_bundle), *words.split()]) == 0
    files = [a.file for a in read_bundle(small_bundle).artifacts[1:]]
    assert files == [ENGINE.replace("portable", sm) for sm in ("sm80", "sm89")]
    sidecar = json.loads((small_bundle / f"{files[0]}.json").read_text())
    assert sidecar["options"]["workspace_bytes"] == 1 << 29
    assert sidecar["tf32"] is True
    assert "not verified" in capsys.readouterr().out


def test_the_command_defers(
    small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = tmp_path / "kit"
    assert main([str(small_bundle), "--format", "tensorrt", "--defer", str(kit)]) == 0
    asked = read_kit(kit)
    assert asked is not None
    assert (asked.options.runtime, asked.options.batch) == ("tensorrt", (1, 2, 4))
    assert "python build.py" in capsys.readouterr().out


def test_a_missing_library_returns_5_in_one_line(
    install: Install, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(fault="import")
    assert main([str(small_bundle)]) == 5
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install tensorrt-rtx-cu13" in said
