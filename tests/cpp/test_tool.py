"""hp_parse as a user runs it."""

import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.image import decode_image
from hp_sdk.png import read_labels
from hp_trainer.paperdolls import paper_doll

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("onnxruntime_only", "environment"),
]


@pytest.fixture
def hp_parse(built: Path, tmp_path: Path):
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(built / "hp_parse"), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)

    return run


@pytest.fixture
def photo():
    return paper_doll(np.random.default_rng(2), (150, 101)).image


def as_png(pixels, *parameters):
    return cv2.imencode(".png", pixels, parameters)[1].tobytes()


def files_of(photo):
    """One photo in the formats that keep every value, and what is in each."""
    bgr = photo[..., ::-1]
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    alpha = np.dstack([bgr, np.full_like(grey, 77)])
    wide = bgr.astype(np.uint16) * 257
    head = b"%d %d\n# a comment\n255\n" % (photo.shape[1], photo.shape[0])
    text = " ".join(map(str, photo.ravel())).encode()
    return {
        "rgb.png": (as_png(bgr), photo),
        "fast.png": (as_png(bgr, cv2.IMWRITE_PNG_COMPRESSION, 1), photo),
        "stored.png": (as_png(bgr, cv2.IMWRITE_PNG_COMPRESSION, 0), photo),
        "alpha.png": (as_png(alpha), photo),
        "deep.png": (as_png(wide), photo),
        "grey.png": (as_png(grey), np.dstack([grey] * 3)),
        "bits.png": (
            as_png(grey // 128 * 255, cv2.IMWRITE_PNG_BILEVEL, 1),
            np.dstack([grey // 128 * 255] * 3),
        ),
        "raw.ppm": (b"P6\n" + head + photo.tobytes(), photo),
        "text.ppm": (b"P3\n" + head + text, photo),
        "raw.pgm": (b"P5\n" + head + grey.tobytes(), np.dstack([grey] * 3)),
    }


def test_every_picture_format_gives_the_labels_of_python(hp_parse, photo, tmp_path):
    files = files_of(photo)
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    options = ("--backend", "onnxruntime", "--device", "cpu", "--threads", "1")
    for name in files:  # Stems repeat, so each has a folder of its own.
        done = hp_parse(name, "-o", Path("out") / name, *options)
        assert done.returncode == 0, done.stderr
    with Parser.load("cihp", backend="onnxruntime", device="cpu", num_threads=1) as parser:
        for name, (_, pixels) in files.items():
            expected = parser.predict(np.ascontiguousarray(pixels)).labels
            found = read_labels(next((tmp_path / "out" / name).glob("*.labels.png")))
            assert (found == expected).mean() >= 0.9999, name


def test_labels_are_an_indexed_png_with_the_colours_of_the_domain(hp_parse, photo, tmp_path):
    (tmp_path / "doll.png").write_bytes(as_png(photo[..., ::-1]))
    done = hp_parse("doll.png", "--head", "pascal", "--confidence")
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "doll.labels.png").read_bytes()
    labels = read_labels(tmp_path / "doll.labels.png")
    with Parser.load("pascal", backend="onnxruntime", device="cpu", num_threads=1) as parser:
        result = parser.predict(photo, confidence=True)
    assert len(content) < labels.size / 4
    shown = decode_image(content, name="labels")
    np.testing.assert_array_equal(shown, np.array(result.domain.palette, np.uint8)[labels])
    printed = dict(re.findall(r"([a-z-]+) (\d+)(?= |$)", done.stdout.split("ms:")[1].strip()))
    found = {name: int((labels == result.domain.index(name)).sum()) for name in printed}
    assert {name: int(area) for name, area in printed.items()} == found
    head, _, values = (tmp_path / "doll.confidence.pgm").read_bytes().rpartition(b"255\n")
    assert head == b"P5\n101 150\n"
    sure = np.frombuffer(values, np.uint8).reshape(150, 101)
    assert result.confidence is not None
    assert np.abs(sure.astype(int) - result.confidence).max() <= 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "no photo is named"),
        (["--wings"], 2, "there is no option --wings"),
        (["doll.png", "--tta"], 2, "--tta needs a value"),
        (["doll.png", "--tta", "twice"], 2, "no tta 'twice'"),
        (["doll.png", "--threads", "two"], 2, "--threads is 'two'"),
        (["doll.png", "--model", "nobody"], 4, "no model 'nobody'"),
        (["doll.png", "--device", "GPU.7", "--backend", "openvino"], 5, "openvino|OpenVINO"),
        (["cut.png"], 3, "cut.png.*truncated"),
        (["absent.png"], 3, "absent.png"),
        (["doll.png", "cut.png"], 7, "cut.png"),
        (["doll.png", "-o", "doll.png/x"], 2, "cannot write"),
    ],
)
def test_exit_codes_are_those_of_the_python_command(hp_parse, photo, tmp_path, words, code, says):
    content = as_png(photo)
    (tmp_path / "doll.png").write_bytes(content)
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    done = hp_parse(*words)
    assert done.returncode == code, done.stderr
    assert re.search(says, done.stderr)
    assert done.stderr.count("\n") == 1


def test_the_self_test_replays_the_golden_sample(hp_parse):
    done = hp_parse("--selftest")
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\d+\.\d+ % of the golden labels", done.stdout)) == 5


def test_the_c_example_speaks_c(built: Path, bundle_copy: Path):
    command = [str(built / "hp_c_example")]
    done = subprocess.run([*command, str(bundle_copy)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("120 x 90, 20 classes, background ")
    (graph,) = bundle_copy.glob("*.onnx")
    graph.write_bytes(b"short")
    done = subprocess.run([*command, str(bundle_copy)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 4
    assert done.stderr.startswith("ChecksumMismatch: ")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (3, "InputError: model is NULL; it must be given\n")
