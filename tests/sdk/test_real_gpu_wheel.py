"""The real onnxruntime-gpu without CUDA: it lists CUDA, then runs on the CPU in silence."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def cuda_is_here() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1") is not None
    except OSError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(cuda_is_here(), reason="a CUDA driver is here, so CUDA may really work"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-gpu, before the CPU build in the path of the children."""
    folder = tmp_path_factory.mktemp("onnxruntime-gpu")
    told = run("-m", "pip", "install", "--no-deps", "--target", str(folder), "onnxruntime-gpu")
    if told.returncode:
        pytest.skip(f"onnxruntime-gpu cannot be installed here: {told.stderr.strip()[-200:]}")
    return folder


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    folders = [str(folder) for folder in (path, Path(__file__).parents[2]) if folder]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


LOAD = """
import json, sys
import numpy as np
import onnxruntime
from hp_sdk import Parser
from hp_sdk.errors import HpError

told = {"listed": onnxruntime.get_available_providers()}
photo = np.full((40, 30, 3), 90, np.uint8)
for name, options in json.loads(sys.argv[2]).items():
    try:
        with Parser.load(sys.argv[1], backend="onnxruntime", **options) as parser:
            receipt = parser.predict(photo).receipt
            told[name] = [receipt.provider, list(receipt.notes)]
    except HpError as exc:
        told[name] = [type(exc).__name__, str(exc)]
print(json.dumps(told))
"""


def test_cuda_that_is_listed_but_does_not_start_is_an_error(wheel: Path):
    asked = {
        "cuda": {"device": "cuda"},
        "allowed": {"device": "cuda", "allow_fallback": True},
        "own list": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]},
        "nothing": {},
    }

    child = run("-c", LOAD, "universal", json.dumps(asked), path=wheel)
    assert child.returncode == 0, child.stderr
    told = json.loads(child.stdout.splitlines()[-1])

    assert "CUDAExecutionProvider" in told["listed"]
    assert told["cuda"][0] == "ProviderFallback"
    assert "CUDAExecutionProvider" in told["cuda"][1]
    assert told["own list"][0] == "ProviderFallback"
    for name in ("allowed", "nothing"):
        provider, notes = told[name]
        assert provider == "CPUExecutionProvider"
        assert any("CUDAExecutionProvider" in note for note in notes)


def test_the_doctor_finds_both_distributions(wheel: Path):
    child = run("-c", "from hp_sdk.cli.doctor import main; main()", "--json", path=wheel)

    problems = " ".join(problem["what"] for problem in json.loads(child.stdout)["problems"])
    assert "onnxruntime-gpu" in problems
    assert "onnxruntime " in problems.replace(",", " ")
