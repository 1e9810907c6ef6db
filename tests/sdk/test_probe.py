"""Probes run in a child: what it learns is heard, and how it dies is told."""

from pathlib import Path

import pytest

import hp_sdk
from hp_sdk.probe import run_probe

UNIVERSAL = Path(hp_sdk.__file__).parent / "bundles" / "universal"


def test_a_model_really_runs_in_the_child():
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")

    outcome = run_probe("runtime", "onnxruntime", str(UNIVERSAL))

    assert outcome.crash == ""
    assert "cpu" in outcome.facts[0]["installed"]["devices"]
    works = [fact["works"] for fact in outcome.facts if "works" in fact]
    assert works[0]["provider"] == "CPUExecutionProvider"
    assert works[0]["parse_ms"] > 0


@pytest.mark.parametrize(
    ("body", "crash"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise ImportError('libGL.so.1: cannot open')", r"libGL.so.1: cannot open"),
        ("import time; time.sleep(60)", "did not answer within 2 s"),
    ],
)
def test_a_child_that_crashes_fails_or_hangs_is_told(tmp_path, monkeypatch, body, crash):
    (tmp_path / "troublesome.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    outcome = run_probe("module", "troublesome", timeout_s=2 if "sleep" in body else 60)

    assert outcome.facts == []
    assert crash in outcome.crash


def test_what_a_child_has_said_before_it_crashes_is_kept(tmp_path, monkeypatch):
    package = "print('{\"version\": \"noise\"}')\n__version__ = '1.2'\n"
    dying = "import atexit, os\natexit.register(os._exit, 3)\n"
    (tmp_path / "brittle.py").write_text(package + dying)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    outcome = run_probe("module", "brittle")

    assert outcome.facts == [{"version": "1.2"}]
    assert outcome.crash == "ended with exit code 3"


def test_a_file_in_the_working_folder_does_not_stand_in_for_a_package(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)

    assert run_probe("module", "hp_sdk").facts == [{"version": hp_sdk.__version__}]
