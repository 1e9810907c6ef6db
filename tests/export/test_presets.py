"""The recorded exports of all presets: what a process took, what was said, what is kept."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MARKS = "<!-- presets: written by scripts/export_presets.py -->\n<!-- end -->\n"
RECORD = Path(__file__).resolve().parents[2] / "docs" / "export" / "presets.json"


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("export_presets")


def entry(script: ModuleType, preset: str, name: str, code: int = 0, words: str = "") -> Any:
    subject = script.Subject(preset, "random", "64x64", Path("x.pt"))
    return script._entry(subject, name, script.Ended(code, 9.5, 1.6, 3_000_000, words), {})


def test_a_process_is_judged_by_its_own_memory_and_last_words(script: ModuleType) -> None:
    code = "import sys; x = bytearray(300_000_000); print('no\\nlast', file=sys.stderr); exit(6)"
    ended = script.run_child([sys.executable, "-c", code])
    assert ended.code == 6
    assert ended.last_words == "last"
    assert 300_000_000 < ended.peak_bytes < 500_000_000
    assert ended.seconds > 0
    assert 0 < ended.cpu_seconds < ended.seconds + 5


def test_verdicts_are_those_of_the_exit_code(script: ModuleType) -> None:
    said = [entry(script, "sst-tiny", "fp16", code, "why") for code in (0, 6, 2, -11)]
    assert [e["verdict"] for e in said] == ["pass", "refused", "failed", "failed"]
    assert [e["reason"] for e in said] == ["", "why", "why", "why"]


def test_results_join_those_of_earlier_runs_and_take_the_place_of_their_own(
    script: ModuleType, tmp_path: Path
) -> None:
    path, page = tmp_path / "docs" / "presets.json", tmp_path / "page.md"
    page.write_text(MARKS)
    script.Table(path, page).add(entry(script, "schnet-tiny", "fp32"))
    script.Table(path, page).add(entry(script, "sst-tiny", "tensorrt-rtx fp16"))
    script.Table(path, page).add(entry(script, "sst-tiny", "fp16", 6, "labels agree 12%"))
    script.Table(path, page).add(entry(script, "schnet-tiny", "fp32", 1, "out of memory"))
    entries = json.loads(path.read_text())["entries"]
    assert [(e["preset"], e["format"], e["verdict"]) for e in entries] == [
        ("sst-tiny", "fp16", "refused"),
        ("sst-tiny", "tensorrt-rtx fp16", "pass"),
        ("schnet-tiny", "fp32", "failed"),
    ]
    assert entries[0]["machine"]["cores"] >= 1
    text = page.read_text()
    assert "| sst-tiny | random | 64x64 | fp16 | refused | – | 2 | 3 | – | – |" in text
    assert "* sst-tiny (random), fp16: labels agree 12%" in text


def test_what_was_decided_is_kept(script: ModuleType) -> None:
    subject = script.Subject("schnet-tiny", "random", "64x64", Path("x.pt"))
    decided = {"model.int8.onnx": {"kept_fp32": ["a", "b"], "ranked_by": "noise"}}
    ended = script.Ended(0, 9.5, 1.6, 3_000_000, "")
    found = script._entry(subject, "int8", ended, {"decided": decided})
    assert (found["kept_fp32"], found["ranked_by"]) == (2, "noise")


def test_text_features_are_random_too(script: ModuleType) -> None:
    assert script.random_config("schnet-l").text_features == "random-orthonormal"
    assert script.random_config("sst-tiny") is script.PRESETS["sst-tiny"]


@pytest.mark.parametrize("words", [["--preset", "sst-giant"], ["--format", "fp32,fp8"]])
def test_an_unknown_preset_or_format_is_refused_before_anything_runs(
    script: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.main(words)
    assert "choose from" in capsys.readouterr().err


@pytest.mark.slow
def test_a_preset_goes_through_the_command_and_its_facts_are_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    page = tmp_path / "page.md"
    page.write_text(MARKS)
    words = ["--preset", "schnet-tiny", "--format", "fp32", "--size", "64x64"]
    assert script.main([*words, "--json", str(tmp_path / "all.json"), "--page", str(page)]) == 0
    (found,) = json.loads((tmp_path / "all.json").read_text())["entries"]
    assert (found["preset"], found["format"], found["verdict"]) == ("schnet-tiny", "fp32", "pass")
    assert found["label_agreement"] >= 0.999
    assert found["size_bytes"] > 100_000
    assert found["peak_bytes"] > 100_000_000
    assert found["computes"]["float32"] > 10


def test_the_page_shows_what_the_record_says(script: ModuleType) -> None:
    entries = json.loads(RECORD.read_text(encoding="utf-8"))["entries"]
    page = (RECORD.parents[1] / "export.md").read_text(encoding="utf-8")
    assert script.markdown(entries) in page
    passed = {(e["preset"], e["format"]) for e in entries if e["verdict"] == "pass"}
    formats = {p for q in script.PRECISIONS for p in (q, f"{script.ENGINES} {q}")}
    assert {(preset, name) for preset in script.SIZES for name in formats} <= passed
