"""The check script, on a driver that runs on the host; what a real GPU says is its own report."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def _scripts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = list(sys.path)
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    yield
    sys.path[:] = path


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def tables(batch: np.ndarray, head: HeadSpec) -> np.ndarray:
    shape = [head.domain.num_classes, 16, 24]
    return np.stack([table_of(head.output, shape, place) for place in range(len(batch))])


@pytest.fixture
def bundle(tmp_path: Path, fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """An engine, and a backend on the CPU that gives the same scores."""
    gpu = Gpu(memory="driver")
    monkeypatch.setattr("hp_sdk.gpu.device._is_installed", lambda _library: False)
    monkeypatch.setattr(tensorrt, "_runtime", lambda: make_trt("10.16.1.11", gpu))
    fakes = ModuleType("hp_test_tables")
    fakes.open_artifact = lambda bundle, _artifact, _options: FakeBackend(  # pyright: ignore[reportAttributeAccessIssue]
        bundle, tables
    )
    monkeypatch.setitem(sys.modules, fakes.__name__, fakes)
    monkeypatch.setitem(BACKENDS, "tables", BackendEntry(fakes.__name__, "dev", "fake"))
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


@pytest.fixture
def args(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Options of a piece about the bundle above, in place of the bundled model."""
    pieces = module("gpu_pieces")
    monkeypatch.setattr(pieces, "find_bundle", lambda _name: (bundle.root, "cihp"))
    monkeypatch.setattr(pieces, "PHOTO_SIZE", "40x30")
    small = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    monkeypatch.setattr(pieces, "picture", lambda _h, _w, seed: np.roll(small, seed, 0))
    return argparse.Namespace(
        preset="bundled", device=0, batch=[1, 2], seconds=0.02, work=tmp_path, desk=tmp_path
    )


def test_what_is_there_and_what_is_not_is_named(args, monkeypatch) -> None:
    pieces = module("gpu_pieces")
    monkeypatch.setattr(pieces, "MODULES", ("numpy", "hp_no_such_module"))
    found = pieces.host(args)
    assert (found["gpu"], found["capability"]) == ("Host", "9.0")
    assert found["sensors"]["power_w"] == 350.5
    assert found["memory"]["driver"] is True
    assert "not installed" in found["memory"]["cupy"]["missing"]
    assert found["modules"]["numpy"] == np.__version__
    assert "ModuleNotFoundError" in found["modules"]["hp_no_such_module"]["missing"]


def test_labels_of_every_runtime_are_compared_with_the_cpus(args, monkeypatch) -> None:
    pieces, check = module("gpu_pieces"), module("gpu_table")
    found = pieces.agree(args)
    assert found["tensorrt"] > 0.999
    assert check.failures({"agree-bundled": found}) == []
    monkeypatch.setattr(
        sys.modules[__name__], "table_of", lambda *_: np.zeros((20, 16, 24), np.float32)
    )
    wrong = pieces.agree(args)
    (failure,) = check.failures({"agree-bundled": wrong})
    assert failure.startswith("tensorrt disagrees with the CPU")


def test_photos_are_timed_from_jpeg_to_labels_with_each_decoder(args) -> None:
    found = module("gpu_pieces").jpeg(args)
    assert found["cpu"] > 0
    assert "missing" in found["nvimgcodec"]
    assert "tensorrt on cuda:0" in found["parser"]


def test_hp_bench_runs_on_what_opens_and_its_report_makes_the_table(args) -> None:
    found = module("gpu_pieces").bench(args)
    assert found["exit_code"] in (0, 6)  # 6: the stand-in answers by the place in a batch
    assert [row["batch"] for row in found["report"]["gpu"]["rows"]] == [1, 2]
    assert "onnxruntime" in found["absent"]
    text = module("gpu_table").table({"bench-bundled": found})
    assert "| bundled | tensorrt, batch 2, 40x30 |" in text
    assert "bench-bundled, torch: " in text  # and why
    assert "samples_ms" not in json.dumps(found)


def test_every_piece_of_the_plan_can_be_done() -> None:
    check, pieces = module("gpu_check"), module("gpu_pieces")
    planned = list(check.plan(check._arguments(["--models", "sst-tiny:64x64", "--batch", "1,8"])))
    kinds = {piece.name.partition(":")[0] for piece in planned}
    assert kinds == set(pieces.KINDS)
    assert [piece.name for piece in planned][-2:] == ["compiled:sst-tiny:8", "compiled:sst-tiny:1"]
    timed = {piece.name.partition(":")[0] for piece in planned if piece.is_timed}
    assert {"peaks", "bench", "compiled", "jpeg"} <= timed
    assert all(piece.limit_s <= 540 for piece in planned)


def test_a_piece_that_fails_leaves_its_reason(tmp_path, fake_cuda, capsys) -> None:
    check = module("gpu_check")
    code = check.main(["--piece", "bench:no-such-model", "--out", str(tmp_path)])
    assert code == 1
    told = json.loads((tmp_path / "work/desk/pieces/bench-no-such-model.json").read_text())
    assert told["missing"].startswith("ModelNotFound: ")


def work(desk: Any, name: str, text: str, **how: Any) -> Any:
    """A piece that runs a line of Python; `result` is the path of its findings."""
    lines = f"import json, os, sys, time\nresult = {str(desk.result(name))!r}\n{text}"
    options = {"limit_s": 60.0} | how
    return module("gpu_supervise").Piece(
        name=name, command=(sys.executable, "-S", "-c", lines), **options
    )


GOOD = "open(result, 'w').write(json.dumps({'value': 7}))"


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    return module("gpu_supervise").Desk(tmp_path / "desk")


def test_a_piece_that_crashes_hangs_or_gives_up_takes_no_other_with_it(desk) -> None:
    seen: list[str] = []
    pieces = [
        work(desk, "crash", "print('before'); sys.stdout.flush(); os.abort()"),
        work(desk, "hang:up", "time.sleep(60)", limit_s=1.5),
        work(desk, "exit", "sys.exit('out of luck')"),
        work(desk, "broken", "open(result, 'w').write('{')"),
        work(desk, "good", GOOD),
    ]
    module("gpu_supervise").supervise(pieces, desk, budget_s=100, report=seen.append)
    assert seen == [piece.name for piece in pieces]
    assert desk.read("crash")["missing"] == "killed by signal 6"
    assert "before" in desk.read("crash")["said"]
    assert desk.read("hang:up")["missing"].startswith("not done after")
    assert desk.read("exit")["said"] == "out of luck"
    assert desk.read("broken")["missing"] == "exit code 0"
    assert desk.read("good")["value"] == 7


def test_a_later_run_does_only_what_is_missing(desk) -> None:
    supervise = module("gpu_supervise").supervise
    supervise([work(desk, "a", GOOD), work(desk, "b", "sys.exit(1)")], desk, budget_s=60, report=id)
    seen: list[str] = []
    later = [work(desk, "a", "sys.exit(1)"), work(desk, "b", GOOD)]
    supervise(later, desk, budget_s=60, report=seen.append)
    assert seen == ["b"]
    assert desk.read("a")["value"] == desk.read("b")["value"] == 7
    supervise(later[:1], desk, budget_s=60, report=seen.append, again=True)
    assert "missing" in desk.read("a")


def test_nothing_is_timed_while_something_works_in_the_background(desk) -> None:
    early = repr(str(desk.result("early")))
    slow = f"while not os.path.exists({early}): time.sleep(0.02)\ntime.sleep(0.3)\n{GOOD}"
    sees = "open(result, 'w').write(json.dumps({'there': os.path.exists(OTHER)}))"
    sees = sees.replace("OTHER", repr(str(desk.result("slow"))))
    pieces = [
        work(desk, "slow", slow, in_background=True),
        work(desk, "early", sees),
        work(desk, "timed", sees, is_timed=True),
    ]
    module("gpu_supervise").supervise(pieces, desk, budget_s=60, report=id)
    assert not desk.read("early")["there"]
    assert desk.read("timed")["there"]


def test_when_the_time_is_over_the_rest_is_named_and_nothing_goes_on(desk, tmp_path) -> None:
    mark = tmp_path / "mark"
    late = f"time.sleep(4); open({str(mark)!r}, 'w')"
    pieces = [
        work(desk, "background", late, in_background=True),
        work(desk, "long", "time.sleep(60)"),
        work(desk, "never", GOOD),
    ]
    start = time.monotonic()
    module("gpu_supervise").supervise(pieces, desk, budget_s=2, report=id)
    assert time.monotonic() - start < 20
    assert all("missing" in desk.read(piece.name) for piece in pieces)
    assert desk.read("never")["missing"] == "no time left of 2 s"
    time.sleep(max(0.0, 4.5 - (time.monotonic() - start)))
    assert not mark.exists()


def test_reports_are_whole_after_every_piece(desk, tmp_path) -> None:
    check = module("gpu_check")
    desk.write("host", {"gpu": "Some GPU", "seconds": 1.0})
    desk.result("tests").write_text("{")
    found = check.publish(desk, tmp_path)
    assert found == {"host": {"gpu": "Some GPU", "seconds": 1.0}}
    assert json.loads((tmp_path / "gpu_check.json").read_text()) == found
    assert (tmp_path / "gpu_check.md").read_text().startswith("# Some GPU\n")


@pytest.mark.slow
def test_a_network_with_random_weights_becomes_a_bundle_for_torch(tmp_path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    bundle = module("gpu_subjects").random_bundle("sst-tiny", (32, 32), 4, tmp_path / "sst-tiny")
    (artifact,) = bundle.artifacts
    assert (artifact.runtime, artifact.batch_max, artifact.size_hw) == ("torch", 4, (32, 32))
    assert bundle.card["macs"] > 0
    opened = importlib.import_module("hp_sdk.backends").open_backend(bundle, device="cpu")
    found = opened.run(np.zeros((3, 32, 32, 3), np.uint8))
    assert found["logits.cihp"].shape == (3, 20, 8, 8)
    opened.close()


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
