"""The check script, on a driver that runs on the host; what a real GPU says is its own report."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hp_sdk.backends import BACKENDS, BackendEntry, tensorrt
from hp_sdk.bundle import Bundle, HeadSpec, write_manifest
from hp_sdk.gpu.device import Gpu
from hp_sdk.testing import FakeBackend, make_bundle
from tests.gpu.fake_tensorrt import make_trt, plan_of, table_of


@pytest.fixture
def check(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    return importlib.import_module("gpu_check")


def tables(batch: np.ndarray, head: HeadSpec) -> np.ndarray:
    shape = [head.domain.num_classes, 16, 24]
    return np.stack([table_of(head.output, shape, place) for place in range(len(batch))])


@pytest.fixture
def bundle(tmp_path: Path, fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """An engine, and a backend on the CPU that gives the same scores."""
    gpu = Gpu(memory="driver")
    monkeypatch.setattr("hp_sdk.gpu.device._is_installed", lambda _library: False)
    monkeypatch.setattr(tensorrt, "_runtime", lambda: make_trt("10.16.1.11", gpu))
    module = ModuleType("hp_test_tables")
    module.open_artifact = lambda bundle, _artifact, _options: FakeBackend(  # pyright: ignore[reportAttributeAccessIssue]
        bundle, tables
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(BACKENDS, "tables", BackendEntry(module.__name__, "dev", "fake"))
    plain = make_bundle(tmp_path / "bundle", size_hw=(64, 96))
    content = plan_of({"logits.cihp": [20, 16, 24]})
    (plain.root / "model.engine").write_bytes(content)
    engine = replace(
        plain.artifacts[0],
        runtime="tensorrt",
        file="model.engine",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    bundle = replace(plain, artifacts=(*plain.artifacts, engine))
    write_manifest(bundle, plain.root)
    return bundle


def run(check: ModuleType, bundle: Bundle, out: Path) -> tuple[int, dict[str, Any], str]:
    monkey = ["--engines", "tensorrt,onnxruntime", "--batch", "1,2,9", "--seconds", "0.02"]
    code = check.main(["--bundle", str(bundle.root), "--no-tests", "--out", str(out), *monkey])
    report = json.loads((out / "gpu_check.json").read_text())
    return code, report, (out / "gpu_check.md").read_text()


def test_what_runs_is_measured_and_what_is_missing_is_named(
    check: ModuleType, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        check, "picture", lambda _h, _w, seed: np.full((50 + seed, 60, 3), 9, np.uint8)
    )
    code, report, text = run(check, bundle, tmp_path / "out")
    assert code == 0
    engine = report["engines"]["tensorrt"]
    assert engine["label_agreement"] > 0.999
    assert engine["batch 2"]["photos_per_s"] > 0
    assert engine["batch 9"] == {"missing": "engine takes 4"}
    assert engine["jpeg_to_labels_photos_per_s"] > 0
    assert "StopIteration" in report["engines"]["onnxruntime"]["missing"]
    assert "missing" in report["before"]  # no nvidia-smi here
    assert "| tensorrt | 2 |" in text


def test_labels_that_differ_from_the_cpus_fail_the_check(
    check: ModuleType, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        check, "picture", lambda _h, _w, seed: np.full((50 + seed, 60, 3), 9, np.uint8)
    )
    monkeypatch.setattr(
        sys.modules[__name__], "table_of", lambda *_: np.zeros((20, 16, 24), np.float32)
    )
    code, _report, text = run(check, bundle, tmp_path / "out")
    assert code == 1
    assert "FAILED: tensorrt disagrees" in text


def test_without_a_gpu_there_is_one_line_and_exit_code_5(repository: Path, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, str(repository / "scripts" / "gpu_check.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )
    assert told.returncode == 5
    assert told.stderr.startswith("gpu_check: ")
    assert told.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
