"""The examples run as they stand, with the bundled model, and write what they say."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import cv2
import pytest

from hp_sdk.png import read_labels
from hp_sdk.video import open_video

FOLDER = Path(__file__).resolve().parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("[0-9]*.py"))
PHOTO = FOLDER / "astronaut.jpg"


def run(example: Path, *arguments: str, cwd: Path) -> str:
    """What it prints; every warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def example(number: str) -> Path:
    return next(path for path in EXAMPLES if path.name.startswith(number))


def test_there_are_eight_numbered_examples_of_at_most_sixty_lines():
    assert [path.name[:2] for path in EXAMPLES] == [f"{i:02}" for i in range(1, 9)]
    assert max(len(path.read_text("utf-8").splitlines()) for path in FOLDER.glob("*.py")) <= 60


def test_the_readme_of_the_examples_lists_every_file():
    told = set(re.findall(r"^\| `([\w.]+)` \|", (FOLDER / "README.md").read_text("utf-8"), re.M))

    assert told == {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}


WRITTEN = {
    "01": {"labels.png", "overlay.png"},
    "02": {
        "parts.csv",
        *(f"photos/{name}.jpg" for name in ("1-portrait", "2-large", "3-wide", "4-broken")),
        *(f"{name}.labels.png" for name in ("1-portrait", "2-large", "3-wide")),
        *(f"{name}.overlay.jpg" for name in ("1-portrait", "2-large", "3-wide")),
    },
    "03": {"clip.mp4", "overlay.mp4"},
    "04": {"garment.png", "agnostic_mask.png", "keep_mask.png", "sheet.jpg"},
    "05": {"cihp.labels.png", "lip.labels.png", "pascal.labels.png", "sheet.jpg"},
    "06": {"mine.toml", "labels.png", "overlay.png"},
    "07": {"report.json", "latency.png"},
    "08": {"answers.json"},
}


@pytest.mark.parametrize("number", WRITTEN)
def test_every_example_runs_and_writes_into_its_own_folder(number: str, tmp_path: Path):
    program = example(number)
    printed = run(program, cwd=tmp_path)

    out = tmp_path / "out" / program.stem
    assert written(tmp_path / "out") == {f"{program.stem}/{name}" for name in WRITTEN[number]}
    assert str(out.relative_to(tmp_path)) in printed
    CHECKS.get(number, lambda out, printed: None)(out, printed)


def check_batch(out: Path, printed: str) -> None:
    assert "left out:" in printed and "4-broken.jpg" in printed  # noqa: PT018
    assert read_labels(out / "3-wide.labels.png").shape == (300, 512)


def check_video(out: Path, printed: str) -> None:
    with open_video(out / "overlay.mp4") as video:
        assert video.size_hw == (320, 640)
        assert sum(1 for _ in video) == 16


def check_tryon(out: Path, printed: str) -> None:
    agnostic, keep = (
        cv2.imread(str(out / f"{name}_mask.png"), cv2.IMREAD_GRAYSCALE) > 0  # pyright: ignore[reportOptionalOperand]
        for name in ("agnostic", "keep")
    )
    assert agnostic.any() and keep.any()  # noqa: PT018
    assert not (agnostic & keep).any()


def check_custom(out: Path, printed: str) -> None:
    assert set(read_labels(out / "labels.png").ravel().tolist()) <= {0, 1, 2, 3, 4, 5, 255}


def check_benchmark(out: Path, printed: str) -> None:
    assert json.loads((out / "report.json").read_text())["kind"] == "hp-bench"
    assert "same labels in every run: True" in printed


def check_service(out: Path, printed: str) -> None:
    answers = json.loads((out / "answers.json").read_text())
    assert len(answers) == 8
    assert all(answer["parts"] == answers[0]["parts"] for answer in answers)


CHECKS = {
    "02": check_batch,
    "03": check_video,
    "04": check_tryon,
    "06": check_custom,
    "07": check_benchmark,
    "08": check_service,
}


def test_the_service_answers_refuses_and_ends_when_asked_to(tmp_path: Path):
    service = subprocess.Popen(
        [sys.executable, "-W", "error", str(example("08")), "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert service.stdout
        url = service.stdout.readline().strip()
        with urlopen(url, PHOTO.read_bytes(), 60) as answer:
            assert json.load(answer)["domain"] == "cihp"
        with pytest.raises(HTTPError) as refused:
            urlopen(url, b"no photo", 60)
        assert refused.value.code == 400
        assert b"not a readable picture" in refused.value.read()
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
    finally:
        service.kill()
        service.communicate()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='needs Ray Data: pip install "hp-sdk[ray]"'
)
def test_the_ray_example_parses_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes there
    done = subprocess.run(
        [sys.executable, str(FOLDER / "ray_batch.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    if "Ray cannot be started" in done.stderr:
        pytest.skip("Ray gives up after half a minute on a busy machine")

    assert done.returncode == 0, done.stderr
    assert "6 parsed, 0 kept, 0 failed" in done.stdout
    assert len(written(tmp_path / "out" / "ray_batch" / "parsed")) == 2 * 6 + 2
