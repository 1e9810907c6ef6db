"""The TensorRT backend of the C++ library, its device played by the host.

Driver, run-time compiler and TensorRT are stand-ins (`stand_in/`, `tests/gpu/fake_cuda.cpp`); the
kernels are the real ones, run in loops.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.bundle import read_bundle, write_manifest
from hp_sdk.gpu.layouts import SOURCES
from hp_sdk.testing import FakeBackend, make_bundle
from tests.cpp.conftest import REPOSITORY, STAND_INS
from tests.gpu.build import COMPILER, build

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]

HW = (64, 96)
DOMAINS = {"pascal": 7, "cihp": 20}
SIZES = [(64, 96), (200, 150), (31, 47), (90, 300), (1, 1), (96, 64), (120, 250)]
VERSION = "99.1.2.3"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """A folder where the loader finds a driver, a compiler and TensorRT."""
    folder = tmp_path_factory.mktemp("libraries")
    build("fake_cuda.cpp", folder).rename(folder / "libcuda.so.1")
    assert COMPILER is not None
    for source, name in (("nvrtc", "libnvrtc.so.13"), ("nvinfer", "libnvinfer.so.99")):
        command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{STAND_INS}"]
        command += [str(STAND_INS / f"{source}.cpp"), "-o", str(folder / name)]
        subprocess.run(command, check=True, timeout=600)
    return folder


def plan_of(**changes) -> bytes:
    told = {"input": "-1 64 96 3 UINT8", "batch": "1 2 4", "scores": "FLOAT", "fault": "none"}
    lines = [*(told | changes).items(), *((f"logits.{k}", v) for k, v in DOMAINS.items())]
    return "\n".join(f"{key} {value}" for key, value in lines).encode()


def bundle_of(folder: Path, content: bytes = b"", *, family: str = "sst", **options) -> Path:
    content = content or plan_of()
    options = {"domains": list(DOMAINS), "size_hw": HW, "runtime": "tensorrt"} | options
    bundle = make_bundle(folder, content=content, **options)
    write_manifest(replace(bundle, family=family), folder)
    return folder


def weighted_means(batch, head):
    """What the stand-in answers, in Python."""
    classes = np.arange(head.domain.num_classes)[:, None]
    weights = ((classes * 7 + np.arange(3) * 5) % 23 - 11).astype(np.float32) / 512
    n, h, w, _ = batch.shape
    cells = batch.reshape(n, h // 4, 4, w // 4, 4, 3).astype(np.float32).mean((2, 4))
    return np.ascontiguousarray((cells @ weights.T).transpose(0, 3, 1, 2), np.float32)


def python_of(folder: Path) -> Parser:
    bundle = read_bundle(folder)
    return Parser(bundle, FakeBackend(bundle, weighted_means, batch_max=4))


def photo_of(size_hw, seed=0):
    rng = np.random.default_rng(seed)
    height, width = size_hw
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3))
    fine = coarse.repeat(16, 0).repeat(16, 1)[:height, :width] + rng.normal(0, 6, (*size_hw, 3))
    return np.ascontiguousarray(np.clip(fine, 0, 255), np.uint8)


def environment(libraries: Path) -> dict[str, str]:
    paths = {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(REPOSITORY)}
    return os.environ | paths


CALLS = [
    {},
    {"confidence": True},
    {"tta": "flip", "confidence": True},
    {"tta": "ms+flip", "confidence": True},
    {"heads": ["cihp", "pascal"]},
    {"tta": "schnet+flip"},  # larger than the input, and more views than a batch: the host's way
]


@pytest.fixture(scope="module")
def answers(built, libraries, tmp_path_factory):
    """What C++ gives for each model and each of `CALLS`; the models; the photos."""
    root = tmp_path_factory.mktemp("answers")
    photos = [photo_of(size_hw, seed) for seed, size_hw in enumerate(SIZES)]
    np.savez(root / "photos.npz", *photos)
    models = {
        "float": bundle_of(root / "float"),
        "half": bundle_of(root / "half", plan_of(scores="HALF")),
        "probs": bundle_of(root / "probs", family="schnet"),
        "windows": bundle_of(root / "windows", resize="shortest-side"),
        "pairs": bundle_of(root / "pairs", plan_of(batch="2 2 4")),
    }
    load = {"backend": "tensorrt", "head": "cihp"}
    jobs = [
        {"model": str(model), "load": load, "photos": str(root / "photos.npz"), "calls": CALLS}
        for model in models.values()
    ]
    (root / "jobs.json").write_text(json.dumps(jobs), "utf-8")
    script = [sys.executable, str(STAND_INS / "parse.py"), str(built / "libhp_sdk.so")]
    done = subprocess.run(
        [*script, str(root / "jobs.json"), str(root / "found.npz")],
        capture_output=True,
        text=True,
        env=environment(libraries),
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(root / "found.npz")), models, photos


@pytest.mark.parametrize("number", range(len(CALLS)), ids=lambda n: str(CALLS[n]))
@pytest.mark.parametrize("model", ["float", "half", "probs", "windows", "pairs"])
def test_labels_and_confidence_are_those_of_python(answers, model, number):
    found, models, photos = answers
    call = dict(CALLS[number])
    heads = call.pop("heads", None)
    with python_of(models[model]) as parser:
        expected = (
            list(parser.predict(photos[0], domains=heads).values())
            if heads
            else parser.predict(photos, domains=["cihp"], **call)
        )
    if not heads:
        expected = [result["cihp"] for result in expected]
    first = f"{list(models).index(model)}.{number}"
    same = total = 0
    for place, result in enumerate(expected):
        labels = found[f"{first}.{place}"]
        assert str(found[f"{first}.{place}.backend"]) == f"tensorrt {VERSION}"
        same += int((labels == result.labels).sum())
        total += labels.size
        if result.confidence is not None:
            away = np.abs(found[f"{first}.{place}.confidence"].astype(int) - result.confidence)
            assert (away > 3).mean() < (0.02 if model == "half" else 0.005)
    # Fitting on the device rounds some grey levels otherwise than OpenCV, so borders move a little.
    assert same / total >= (0.99 if model == "half" else 0.995)


@pytest.fixture
def hp_parse(built, libraries, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), photo_of((50, 70)))

    def run(model: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(built / "hp_parse"), "photo.png", "--backend", "tensorrt"]
        return subprocess.run(
            [*command, "--model", str(model), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment(libraries),
            timeout=300,
        )

    return run


HERE = f"{platform.system()} {platform.machine()}"


def sidecar(folder: Path, **changes) -> None:
    told = {"version": VERSION, "compute_capabilities": ["9.0"], "system": HERE}
    told["rebuild"] = "python -m hp_export.tensorrt BUNDLE --batch 1:2:4"
    (folder / "model.tensorrt.json").write_text(json.dumps(told | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": "10.0.1.6"}, "TensorRT 10.0.1.6 wrote it, and 99.1.2.3 is installed"),
        ({"compute_capabilities": ["8.0", "8.6"]}, "capability 8.0, 8.6, and this GPU has 9.0"),
        ({"system": "Windows AMD64"}, f"it is for Windows AMD64, and this is {HERE}"),
    ],
)
def test_an_engine_of_another_place_is_refused_with_the_command(hp_parse, tmp_path, changes, says):
    folder = bundle_of(tmp_path / "bundle")
    sidecar(folder)
    assert hp_parse(folder).returncode == 0
    sidecar(folder, **changes)
    done = hp_parse(folder)
    assert done.returncode == 5
    assert says in done.stderr
    assert f"python -m hp_export.tensorrt {folder} --batch 1:2:4" in done.stderr


@pytest.mark.parametrize(
    ("plan", "code", "says"),
    [
        (b"no engine", 5, "Magic tag; build it again on this machine"),
        (plan_of(fault="run"), 5, "does not run a batch of 1: Cask: no kernel image\n"),
        (plan_of(fault="memory"), 5, "(out of memory)"),
        (plan_of(input="-1 64 96 3 FLOAT"), 4, "expected is one uint8 input"),
        (plan_of(input="-1 32 96 3 UINT8"), 4, "takes (32, 96); its manifest says (64, 96)"),
        (plan_of(scores="INT8"), 4, "neither as float32 nor as float16"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused_by_name(hp_parse, tmp_path, plan, code, says):
    done = hp_parse(bundle_of(tmp_path / "bundle", plan))
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_a_sibling_for_this_gpu_is_taken_instead(hp_parse, tmp_path):
    folder = bundle_of(tmp_path / "bundle")
    sidecar(folder, compute_capabilities=["8.6"])
    bundle = read_bundle(folder)
    (folder / "other.tensorrt").write_bytes((folder / "model.tensorrt").read_bytes())
    both = (*bundle.artifacts, replace(bundle.artifacts[0], file="other.tensorrt"))
    write_manifest(replace(bundle, artifacts=both), folder)
    assert hp_parse(folder).returncode == 0


def test_what_is_missing_is_told(hp_parse, libraries, tmp_path):
    folder = bundle_of(tmp_path / "bundle")
    assert "there is no GPU 1; 1 are visible" in hp_parse(folder, "--device", "cuda:1").stderr
    for name, says in (
        ("libnvinfer.so.99", "TensorRT cannot be loaded"),
        ("libcuda.so.1", "there is no NVIDIA driver"),
        ("libnvrtc.so.13", "NVRTC, NVIDIA's run-time compiler, is not there"),
    ):
        library = libraries / name
        aside = library.rename(library.with_suffix(".aside"))
        try:
            done = hp_parse(folder)
        finally:
            aside.rename(library)
        assert done.returncode == 5
        assert says in done.stderr


def test_the_kernels_in_the_library_are_those_of_the_package(built):
    """CMake copies them when it configures; an old copy would be another arithmetic."""
    content = (built / "libhp_sdk.so").read_bytes()
    for name in ("kernels.cu", "pixels.h"):
        assert (SOURCES / name).read_bytes() in content
