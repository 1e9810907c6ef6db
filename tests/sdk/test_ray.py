"""Many machines: a folder or a Parquet file in, every photo once out, whatever was killed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hp_sdk.errors import BackendUnavailable, ConfigError, InputError
from hp_sdk.integrations.output import OutputFolder, check_keys, file_name, identity_of
from hp_sdk.integrations.ray import Job, PhotoWorker, parse_dataset
from hp_sdk.parser import Parser
from hp_sdk.png import read_labels
from hp_sdk.testing import FakeBackend, make_bundle

WITHOUT_RAY = importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None


class Table:
    """As much of a pyarrow table as a worker asks for."""

    def __init__(self, **columns: list[Any]) -> None:
        self.columns = columns

    def to_pylist(self) -> list[dict[str, Any]]:
        rows = zip(*self.columns.values(), strict=True)
        return [dict(zip(self.columns, row, strict=True)) for row in rows]


class FakeWorker(PhotoWorker):
    """Reads colours instead of running a network, and counts what it is asked."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.output = OutputFolder(Path(job.output))
        bundle = make_bundle(Path(job.model))
        self.backend = FakeBackend(bundle)
        self.parser = Parser(bundle, self.backend)


@pytest.fixture
def worker(tmp_path: Path) -> FakeWorker:
    return FakeWorker(Job(output=str(tmp_path / "out"), model=str(tmp_path / "bundle")))


def write_photo(path: Path, *, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((48, 32, 3), grey, np.uint8))
    return path


def test_a_worker_writes_labels_and_a_record_for_each_photo(worker: FakeWorker, tmp_path: Path):
    photo = write_photo(tmp_path / "a.png")

    told = worker(Table(key=["a.png", "b"], photo=[str(photo), photo.read_bytes()]))

    assert told == {"key": ["a.png", "b"], "status": ["parsed", "parsed"], "error": ["", ""]}
    assert read_labels(worker.output.labels("a.png")).shape == (48, 32)
    assert json.loads(worker.output.record("b").read_text())["domain"] == "cihp"


def test_a_worker_keeps_what_is_done_and_parses_what_changed(worker: FakeWorker, tmp_path: Path):
    same, changed = write_photo(tmp_path / "same.png"), write_photo(tmp_path / "changed.png")
    table = Table(key=["same", "changed"], photo=[str(same), str(changed)])
    worker(table)
    write_photo(changed, grey=200).write_bytes(changed.read_bytes() + b" ")

    assert worker(table)["status"] == ["kept", "parsed"]
    assert sum(worker.backend.batches) == 3


def test_a_label_map_that_is_gone_is_made_again(worker: FakeWorker, tmp_path: Path):
    table = Table(key=["a"], photo=[str(write_photo(tmp_path / "a.png"))])
    worker(table)
    worker.output.labels("a").unlink()

    assert worker(table)["status"] == ["parsed"]
    assert worker.output.labels("a").is_file()


def test_an_unusable_photo_is_told_and_the_others_are_parsed(worker: FakeWorker, tmp_path: Path):
    photo = write_photo(tmp_path / "a.png")
    sources = [b"no photo", None, str(tmp_path / "missing.png"), {"bytes": photo.read_bytes()}]

    told = worker(Table(key=["text", "null", "missing", "good"], photo=sources))

    assert told["status"] == ["failed", "failed", "failed", "parsed"]
    assert "text" in told["error"][0]
    assert "missing.png" in told["error"][2]
    assert not worker.output.record("text").exists()


def test_the_manifest_has_one_sorted_line_per_photo(worker: FakeWorker, tmp_path: Path):
    worker(Table(key=["b"], photo=[str(write_photo(tmp_path / "b.png"))]))
    left = worker.output.path / ".b.json.x.tmp"
    left.write_bytes(b"{")

    lines = worker.output.finish({"b": "", "a": "unreadable"}).read_text().splitlines()

    assert [json.loads(line)["key"] for line in lines] == ["a", "b"]
    assert json.loads(lines[0]) == {"key": "a", "status": "failed", "error": "unreadable"}
    assert (worker.output.path / json.loads(lines[1])["labels"]).is_file()
    assert not left.exists()


REFUSED = """
import sys
from pathlib import Path

import pyarrow.parquet
from hp_sdk.errors import HpError
from hp_sdk.integrations.ray import parse_dataset

root = Path(sys.argv[1])
(root / "bad.parquet").write_bytes(b"no table")
rows = {"id": ["a", "a"], "image": [b"", b""]}
pyarrow.parquet.write_table(pyarrow.table(rows), root / "twice.parquet")
for source, options in (
    ("missing", {}),
    ("bad.parquet", {}),
    ("twice.parquet", {}),
    ("twice.parquet", {"key_column": "id", "photo_column": "image"}),
    ("twice.parquet", {"workers": 0}),
):
    try:
        parse_dataset(root / source, root / "out", **options)
    except HpError as exc:
        print(type(exc).__name__, exc)
"""


@pytest.mark.skipif(WITHOUT_RAY, reason='needs Ray Data: pip install "ray[data]"')
def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    missing, bad, column, twice, workers = done.stdout.splitlines()

    assert missing.startswith("InputError") and "no folder" in missing  # noqa: PT018
    assert bad.startswith("InputError") and "cannot read" in bad  # noqa: PT018
    assert "no column 'key'; it has id, image" in column
    assert "'a' is there twice" in twice
    assert workers.startswith("ConfigError workers is 0")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(WITHOUT_RAY, reason="needs pyarrow")
def test_a_worker_reads_row_groups_itself(worker: FakeWorker, tmp_path: Path):
    from pyarrow import parquet, table

    photo = write_photo(tmp_path / "a.png").read_bytes()
    columns = {"key": list("abcde"), "photo": [{"bytes": photo, "path": None}] * 5}
    parquet.write_table(table(columns), tmp_path / "five.parquet", row_group_size=2)

    told = worker(Table(parquet_file=[str(tmp_path / "five.parquet")] * 2, row_group=[0, 2]))

    assert told["key"] == ["a", "b", "e"]
    assert told["status"] == ["parsed"] * 3


KILLED_AFTER_THE_FIRST = """
import os, signal, sys
from pathlib import Path
from hp_sdk.bundle import read_bundle
from hp_sdk.integrations.output import OutputFolder
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend

bundle = read_bundle(sys.argv[1])
folder, photos = OutputFolder(Path(sys.argv[2])), sys.argv[3:]
folder.write(photos[0], "", Parser(bundle, FakeBackend(bundle)).predict(photos[0]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_wrote_is_kept(tmp_path: Path):
    make_bundle(tmp_path / "bundle")
    photos = [str(write_photo(tmp_path / f"{name}.png")) for name in "ab"]
    folder = OutputFolder(tmp_path / "out")
    arguments = [str(tmp_path / "bundle"), str(folder.path), *photos]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_THE_FIRST, *arguments], check=False, timeout=60
    )

    assert done.returncode == -signal.SIGKILL
    assert [folder.has(photo, "") for photo in photos] == [True, False]


def test_another_job_does_not_get_the_folder(tmp_path: Path):
    folder = OutputFolder(tmp_path)
    folder.begin({"model": "a 1", "tta": "none"})
    folder.begin({"model": "a 1", "tta": "none"})

    with pytest.raises(ConfigError, match="another tta"):
        folder.begin({"model": "a 1", "tta": "flip"})


def test_different_keys_never_share_a_file():
    keys = ["a/b", "a%2Fb", "a b", ".hidden", "%2Ehidden", "..", "ä", "A:b"]
    names = [file_name(key) for key in keys]

    assert len(set(names)) == len(keys)
    assert not any("/" in name or name.startswith(".") for name in names)


@pytest.mark.parametrize("keys", [["a", "b", "a"], [""], ["x" * 300]])
def test_keys_that_cannot_name_outputs_are_refused(keys: list[str]):
    with pytest.raises(InputError, match="key"):
        check_keys(keys)


def test_a_photo_is_known_by_its_content_or_by_its_file(tmp_path: Path):
    photo = write_photo(tmp_path / "a.png")

    assert identity_of(b"a") == identity_of(b"a") != identity_of(b"b")
    assert identity_of(str(photo)) == identity_of(str(photo)) != identity_of(str(tmp_path))
    assert identity_of(str(tmp_path / "missing.png")) == ""


def test_without_ray_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(BackendUnavailable, match=r"hp-sdk\[ray\]"):
        parse_dataset(tmp_path, tmp_path / "out")


RUN = """
import json, os, signal, sys
from pathlib import Path

import pyarrow.parquet
from hp_sdk.errors import HpError
from hp_sdk.integrations.output import OutputFolder
from hp_sdk.integrations.ray import PhotoWorker, parse_dataset
from hp_sdk.parser import Parser
from hp_sdk.testing import FakeBackend
from hp_sdk.bundle import read_bundle

root = Path(sys.argv[1])


class MortalFolder(OutputFolder):
    # Logs who wrote what.  The first process to write anything dies before it can tell.
    def write(self, key, identity, result):
        super().write(key, identity, result)
        with (root / "log").open("a") as log:
            log.write(f"{os.getpid()} {self.path.name} {key}\\n")
        try:
            (root / "kill").unlink()
        except FileNotFoundError:
            return
        (self.path / ".half.json.tmp").write_bytes(b"{")
        os.kill(os.getpid(), signal.SIGKILL)


class MortalWorker(PhotoWorker):
    def __init__(self, job):
        self.job = job
        self.output = MortalFolder(Path(job.output))
        bundle = read_bundle(job.model)
        self.parser = Parser(bundle, FakeBackend(bundle))


class FailingWorker(MortalWorker):
    def __call__(self, batch):
        raise OSError("disk full")


def run(source, output, *, worker=MortalWorker, **options):
    try:
        summary = parse_dataset(
            root / source, root / output, model=root / "bundle", workers=2, worker=worker,
            **options,
        )
    except HpError as exc:
        return type(exc).__name__ + ": " + str(exc)
    return [summary.parsed, summary.kept, summary.failed]


(root / "kill").touch()
told = {"killed": run("photos", "out"), "kill file": (root / "kill").exists()}
if "cannot be started" in told["killed"]:
    sys.exit(print(json.dumps(told)))
told["again"] = run("photos", "out")

names = sorted(path.name for path in (root / "photos").iterdir())
table = {"id": names, "image": [(root / "photos" / name).read_bytes() for name in names]}
pyarrow.parquet.write_table(pyarrow.table(table), root / "photos.parquet", row_group_size=4)
columns = {"photo_column": "image", "key_column": "id"}
told["parquet"] = run("photos.parquet", "out-parquet", **columns)
told["failing"] = run("photos", "out-failing", worker=FailingWorker)
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(WITHOUT_RAY, reason='needs Ray Data: pip install "ray[data]"')
def test_a_killed_worker_loses_nothing_and_does_nothing_twice(tmp_path: Path):
    make_bundle(tmp_path / "bundle")
    keys = [f"{i:02}.png" for i in range(16)] + ["broken.jpg"]
    for i, key in enumerate(keys):
        write_photo(tmp_path / "photos" / key.replace("jpg", "png"), grey=10 * i)
    (tmp_path / "photos" / "broken.png").rename(tmp_path / "photos" / "broken.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no photo")

    told = run_with_ray(tmp_path)
    if "cannot be started" in told["killed"]:
        pytest.skip(told["killed"])  # Ray gives up after half a minute on a busy machine

    assert not told["kill file"]
    parsed, kept, failed = told["killed"]
    assert kept >= 1  # written by the worker that was killed before it could tell
    assert (parsed + kept, failed) == (16, 1)
    assert told["again"] == [0, 16, 1]
    assert told["parquet"] == [16, 0, 1]
    assert told["failing"].startswith("BackendError")
    assert "disk full" in told["failing"]
    written = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    for folder in ("out", "out-parquet"):
        assert sorted(key for _, name, key in written if name == folder) == keys[:16]
        assert manifest_keys(tmp_path / folder) == keys
        assert len(list((tmp_path / folder).iterdir())) == 2 * 16 + 2
    assert len({pid for pid, name, _ in written if name == "out"}) >= 2


def run_with_ray(folder: Path) -> dict[str, Any]:
    """Ray in a process of its own, with a home of its own, because it writes there."""
    program = folder / "program.py"
    program.write_text(RUN, encoding="utf-8")
    patience = {"RAY_agent_register_timeout_ms": "120000"}  # for a busy machine
    environment = {**os.environ, "HOME": str(folder / "home"), **patience}
    (folder / "home").mkdir()
    done = subprocess.run(
        [sys.executable, str(program), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def manifest_keys(folder: Path) -> list[str]:
    lines = (folder / "manifest.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["key"] for line in lines]
