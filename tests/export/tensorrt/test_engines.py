"""Engines on disk: what is asked for, nothing half, nothing twice, and a crash is a sentence."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hp_export.tensorrt import engines
from hp_export.tensorrt.child import run_worker
from hp_export.tensorrt.engines import build_engines
from hp_export.tensorrt.job import Library
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.sidecar import read_sidecar
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    ExportError,
    HpError,
    ModelNotFound,
)

Install = Callable[..., Path]
SMALL = EngineOptions(batch=(1, 2, 4))
PROGRAM = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from hp_export.tensorrt.engines import build_engines
from hp_export.tensorrt.options import EngineOptions
build_engines(Path(sys.argv[1]), Path(sys.argv[2]), EngineOptions(batch=(1, 2, 4)))
"""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def builds(count: Path) -> int:
    return count.read_text().count("build") if count.exists() else 0


def test_an_engine_comes_with_a_sidecar_and_a_manifest_entry(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    install()
    (artifact,) = build_engines(onnx_file, tmp_path / "out", SMALL, precision_asked="fp16")
    engine = tmp_path / "out" / artifact.file
    assert artifact.file == "model.fp32.b1-2-4.tensorrt-rtx-1.7.1.116.portable.engine"
    assert files(tmp_path / "out") == [artifact.file, f"{artifact.file}.json"]
    assert (artifact.runtime, artifact.heads) == ("tensorrt-rtx", ("pascal",))
    assert (artifact.batch_min, artifact.batch_opt, artifact.batch_max) == (1, 2, 4)
    assert (artifact.precision_asked, artifact.precision_found) == ("fp16", "fp32")
    assert artifact.size_hw == (32, 32)
    assert artifact.sha256 == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert artifact.size_bytes == engine.stat().st_size


def test_the_sidecar_says_where_the_engine_comes_from(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    install()
    options = replace(SMALL, compute_capabilities=("8.0+8.9",))
    (artifact,) = build_engines(onnx_file, tmp_path, options)
    sidecar = read_sidecar(tmp_path / artifact.file)
    assert sidecar is not None
    assert (sidecar.runtime, sidecar.version) == ("tensorrt-rtx", "1.7.1.116")
    assert sidecar.compute_capabilities == ("8.0", "8.9")
    assert sidecar.sha256 == artifact.sha256
    assert sidecar.source["sha256"] == hashlib.sha256(onnx_file.read_bytes()).hexdigest()
    assert sidecar.source["weights"] == {"float32": 7 * 3 * 4 * 4 * 4}
    assert sidecar.source["computes"] == {"float32": 1}
    assert sidecar.profile["image"]["max"] == [4, 32, 32, 3]
    assert sidecar.typing == "strong"
    assert sidecar.build_s >= 0
    assert sidecar.rebuild.endswith("--batch 1:2:4 --compute-capability 8.0+8.9")


def test_each_compute_capability_asked_for_gets_an_engine(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    count = install()
    options = replace(SMALL, compute_capabilities=("8.0", "8.9", "12.0"))
    artifacts = build_engines(onnx_file, tmp_path, options)
    assert [a.file.split(".")[-2] for a in artifacts] == ["sm80", "sm89", "sm120"]
    assert builds(count) == 3


def test_the_same_engine_is_built_once_and_others_are_built(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    count = install()
    (first,) = build_engines(onnx_file, tmp_path / "a", SMALL)
    (second,) = build_engines(onnx_file, tmp_path / "b", SMALL)
    assert builds(count) == 1
    assert second == first
    assert files(tmp_path / "b") == files(tmp_path / "a")
    build_engines(onnx_file, tmp_path / "c", replace(SMALL, batch=(1, 2, 8)))
    assert builds(count) == 2


def test_two_processes_never_build_the_same_engine_twice(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    count = install(fault="sleep 1")
    targets = [tmp_path / name for name in ("a", "b")]
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(onnx_file), str(target)])
        for target in targets
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert builds(count) == 1
    assert files(targets[0]) == files(targets[1]) != []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("SIGSEGV", "crashed with SIGSEGV; its last words: .*about to compile kernel 7"),
        ("SIGABRT", "crashed with SIGABRT"),
        ("SIGKILL", "crashed with SIGKILL"),
        ("exit", "ended with exit code 9; its last words"),
        ("refuse", "builds no engine: no runners for node sampler"),
        ("parse", "node 'sampler'"),
    ],
)
def test_whatever_happens_to_the_builder_is_one_error_and_leaves_nothing(
    fault: str, words: str, install: Install, onnx_file: Path, tmp_path: Path, own_home: Path
) -> None:
    install(fault=fault)
    with pytest.raises(ExportError, match=f"building model.onnx for tensorrt-rtx.*{words}"):
        build_engines(onnx_file, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()
    assert files(own_home) == []


def test_a_failed_build_does_not_spoil_the_next(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    install(fault="SIGSEGV")
    with pytest.raises(ExportError):
        build_engines(onnx_file, tmp_path, SMALL)
    install()
    assert build_engines(onnx_file, tmp_path, SMALL)


def test_a_build_that_takes_too_long_is_ended(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    install(fault="sleep 60")
    start = time.monotonic()
    with pytest.raises(ExportError, match=r"not finished within 0\.5 s; allow more time"):
        build_engines(onnx_file, tmp_path, replace(SMALL, timeout_s=0.5))
    assert time.monotonic() - start < 30


def test_progress_is_shown_when_the_work_takes_longer_than_a_moment(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    install(fault="sleep 3")
    shown: list[str] = []
    build_engines(onnx_file, tmp_path, SMALL, progress=shown.append)
    assert any("for tensorrt-rtx portable: Timing tactics" in line for line in shown)


def test_a_failure_at_the_second_target_takes_the_first_engine_back(
    install: Install, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()

    def fails_for_89(request: dict[str, Any], **options: Any) -> dict[str, Any]:
        if request.get("compute_capabilities") == ["8.9"]:
            raise KeyboardInterrupt
        return run_worker(request, **options)

    monkeypatch.setattr(engines, "run_worker", fails_for_89)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other.engine").write_bytes(b"somebody's")
    options = replace(SMALL, compute_capabilities=("8.0", "8.9"))
    with pytest.raises(KeyboardInterrupt):
        build_engines(onnx_file, tmp_path / "out", options)
    assert files(tmp_path / "out") == ["other.engine"]


def test_an_interruption_ends_the_builder_and_releases_the_lock(
    install: Install, onnx_file: Path, tmp_path: Path, own_home: Path
) -> None:
    count = install(fault="sleep 60")
    command = [sys.executable, "-c", PROGRAM, str(onnx_file), str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        _wait_until(lambda: builds(count) == 1)
        process.send_signal(signal.SIGINT)
        _out, complaints = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in complaints
    assert files(own_home) == []
    assert not (tmp_path / "out").exists()


def test_a_killed_parent_takes_the_builder_with_it_and_leaves_no_lock(
    install: Install, onnx_file: Path, tmp_path: Path
) -> None:
    count = install(fault="sleep 60")
    command = [sys.executable, "-c", PROGRAM, str(onnx_file), str(tmp_path / "out")]
    with subprocess.Popen(command) as process:
        _wait_until(lambda: builds(count) == 1)
        children = _children(process.pid)
        process.kill()
    assert len(children) == 1
    _wait_until(lambda: not _is_running(children[0]))
    install()
    assert build_engines(onnx_file, tmp_path / "out", SMALL)
    assert [name for name in files(tmp_path / "home") if name.startswith(".")] == []


def _wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"compute_capabilities": ("9.0",)}, ConfigError, r"for compute capability 9\.0; it knows"),
        ({"runtime": "tensorrt"}, BackendUnavailable, "pip install tensorrt"),
    ],
)
def test_what_the_installed_library_cannot_do_is_refused(
    changes: dict[str, Any],
    error: type[HpError],
    words: str,
    install: Install,
    onnx_file: Path,
    tmp_path: Path,
) -> None:
    install()
    if changes.get("runtime") == "tensorrt":
        install("tensorrt", fault="import")
    with pytest.raises(error, match=words):
        build_engines(onnx_file, tmp_path / "out", replace(SMALL, **changes))
    assert not (tmp_path / "out").exists()


def test_a_classic_engine_is_for_the_gpu_at_hand(
    install: Install,
    hopper: Library,
    onnx_file: Path,
    tmp_path: Path,
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("tensorrt", "11.4.0.106")
    monkeypatch.setattr(engines, "describe_library", lambda *_arguments: hopper)
    options = replace(SMALL, runtime="tensorrt")
    (artifact,) = build_engines(onnx_file, tmp_path, options)
    sidecar = read_sidecar(tmp_path / artifact.file)
    assert sidecar is not None
    assert artifact.file.endswith("tensorrt-11.4.0.106.sm90.engine")
    assert (sidecar.gpu, sidecar.compute_capabilities) == ("NVIDIA H200", ("9.0",))
    assert any(name.startswith("timings-") for name in files(own_home))
    with pytest.raises(ConfigError, match=r"GPU at hand only.*9\.0, not 8\.0"):
        build_engines(onnx_file, tmp_path, replace(options, compute_capabilities=("8.0",)))


def test_classic_tensorrt_without_a_gpu_names_the_kit(
    install: Install,
    hopper: Library,
    onnx_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "describe_library", lambda *_arguments: replace(hopper, gpu={}))
    with pytest.raises(BackendUnavailable, match="--defer"):
        build_engines(onnx_file, tmp_path, replace(SMALL, runtime="tensorrt"))


def test_a_missing_or_broken_onnx_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        build_engines(tmp_path / "none.onnx", tmp_path, SMALL)
    (tmp_path / "broken.onnx").write_bytes(b"hello")
    with pytest.raises(CorruptArtifact):
        build_engines(tmp_path / "broken.onnx", tmp_path, SMALL)


def test_an_unwritable_cache_is_one_clear_error(
    install: Install, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HP_HOME", os.fspath(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot write"):
        build_engines(onnx_file, tmp_path / "out", SMALL)
