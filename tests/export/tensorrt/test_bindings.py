"""The names we use exist in the real bindings of TensorRT 10 and 11 (and RTX), without a GPU.

The bindings of classic TensorRT are small wheels (`tensorrt-cu13-bindings`, 1.3 MB) in the folder
`tensorrt-bindings` of the virtual environment, or in HP_TENSORRT_BINDINGS.  They link against three
libraries of which nine functions are called; libraries of nine empty functions let them load.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hp_export.tensorrt.builder import build_plan
from hp_export.tensorrt.library import Refusal

Fake = Callable[..., ModuleType]

FOLDER = Path(os.environ.get("HP_TENSORRT_BINDINGS", Path(sys.prefix) / "tensorrt-bindings"))
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
DERIVED = ("ILogger.log", *(f"IProgressMonitor.{m}" for m in ("phase_start", "step_complete")))
"""What our own classes override."""
LOOK_UP = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
names = json.loads(sys.argv[2])
pairs = [name.split(".") for name in names]
missing = [".".join(p) for p in pairs if not hasattr(getattr(trt, p[0], None), p[1])]
print(json.dumps(missing))
"""


def used_names(trt: ModuleType, onnx_file: Path, tmp_path: Path) -> list[str]:
    """Everything that a build, and a failed one, looks up in this version."""
    capabilities = ["8.0"] if hasattr(trt, "ComputeCapability") else []
    shape = [1, 32, 32, 3]
    request = {
        "onnx": str(onnx_file),
        "profile": {"image": dict.fromkeys(("min", "opt", "max"), shape)},
        "compute_capabilities": capabilities,
        "workspace_bytes": 1 << 30,
        "optimization_level": 1,
        "tf32": False,
        "weak_flags": ["FP16"],
        "timing_cache": str(tmp_path / "timings"),
    }
    for fault in ("", "parse"):
        trt.FAULT = fault  # pyright: ignore[reportAttributeAccessIssue]
        try:
            build_plan(trt, request, lambda _event: None)
        except Refusal:
            assert fault
    return sorted({*DERIVED, *(name for name in trt.USED if "__" not in name)})


def missing_names(module: str, names: list[str], **places: str) -> list[str]:
    environment = os.environ | places
    done = subprocess.run(
        [sys.executable, "-c", LOOK_UP, module, json.dumps(names)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def bindings(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Environment in which `tensorrt_bindings` of a major version can be imported."""

    def unpack(major: str) -> dict[str, str]:
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        found = sorted(FOLDER.glob(f"tensorrt_cu13_bindings-{major}.*-{python}-*.whl"))
        if not found:
            pytest.skip(
                reason=f"no wheel of tensorrt-cu13-bindings {major}: `make .venv/.dev` fetches it"
            )
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("a C compiler is missing: install gcc to load the bindings")
        with zipfile.ZipFile(found[-1]) as wheel:
            wheel.extractall(tmp_path)
        source = tmp_path / "empty.c"
        source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", tmp_path / name]
            subprocess.run([*command, source], check=True, timeout=60)
        return {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}

    return unpack


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
def test_every_name_used_exists_in_the_bindings_of_classic_tensorrt(
    version: str,
    fake: Fake,
    bindings: Callable[[str], dict[str, str]],
    onnx_file: Path,
    tmp_path: Path,
) -> None:
    places = bindings(version.partition(".")[0])
    names = used_names(fake(version), onnx_file, tmp_path)
    assert {"Builder.build_serialized_network", "OnnxParser.parse_from_file"} <= set(names)
    assert missing_names("tensorrt_bindings", names, **places) == []
    assert missing_names("tensorrt_bindings", ["Builder.dream"], **places) == ["Builder.dream"]


@pytest.mark.tensorrt
def test_every_name_used_exists_in_tensorrt_rtx(
    fake: Fake, onnx_file: Path, tmp_path: Path
) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT-RTX is missing: pip install tensorrt-rtx-cu13")
    names = used_names(fake("1.7.1.116"), onnx_file, tmp_path)
    assert "IBuilderConfig.set_compute_capability" in names
    assert missing_names("tensorrt_rtx", names) == []


def test_the_builder_uses_nothing_that_tensorrt_11_has_removed(
    fake: Fake, onnx_file: Path, tmp_path: Path
) -> None:
    removed = r"BuilderFlag\.(FP16|BF16|INT8)|EXPLICIT_BATCH|CUBLAS|CUDNN"
    names = {v: used_names(fake(v), onnx_file, tmp_path) for v in ("8.6.1.6", "11.4.0.106")}
    assert any(re.search(removed, name) for name in names["8.6.1.6"])
    assert not any(re.search(removed, name) for name in names["11.4.0.106"])
