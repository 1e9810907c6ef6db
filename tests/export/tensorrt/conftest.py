"""A small ONNX file and bundle, and TensorRT libraries that are not there or that misbehave."""

import importlib.util
import io
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hp_export.probes import figure
from hp_export.tensorrt.job import Library
from hp_sdk.backends import open_backend
from hp_sdk.bundle import Artifact, Bundle, HeadSpec, InputSpec, write_manifest
from hp_sdk.domains import load_domain
from hp_sdk.files import sha256_of
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import fit

FAKE = Path(__file__).with_name("fake_tensorrt.py")
MODULES = {"tensorrt": "tensorrt.py", "tensorrt-rtx": "tensorrt_rtx.py"}
SIZE_HW = (32, 32)

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine cache of its own for each test."""
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a stand-in where child processes find it; the file in which it counts builds."""

    def put(runtime: str = "tensorrt-rtx", version: str = "1.7.1.116", fault: str = "") -> Path:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        shutil.copy(FAKE, folder / MODULES[runtime])
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAKE_VERSION", version)
        monkeypatch.setenv("FAKE_FAULT", fault)
        monkeypatch.setenv("FAKE_BUILDS", str(tmp_path / "builds"))
        return tmp_path / "builds"

    return put


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Loads the stand-in into this process."""

    def load(version: str = "1.7.1.116", fault: str = "") -> ModuleType:
        monkeypatch.setenv("FAKE_VERSION", version)
        monkeypatch.setenv("FAKE_FAULT", fault)
        spec = importlib.util.spec_from_file_location("fake_tensorrt", FAKE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "fake_tensorrt", module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def hopper() -> Library:
    """Classic TensorRT on a machine with a GPU."""
    return Library(
        runtime="tensorrt",
        version="11.4.0.106",
        strongly_typed=True,
        capabilities=(),
        gpu={"name": "NVIDIA H200", "capability": "9.0"},
    )


@pytest.fixture(scope="session")
def small_model() -> onnx.ModelProto:
    """uint8 (N, 32, 32, 3) → logits.pascal (N, 7, 8, 8), by one convolution."""
    weights = np.random.default_rng(0).normal(size=(7, 3, 4, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="to_float", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], name="to_nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["logits.pascal"], name="head", strides=[4, 4]),
    ]
    return model_of(nodes, {"w": weights})


@pytest.fixture(scope="session", name="model_of")
def model_of_fixture() -> Callable[..., onnx.ModelProto]:
    """A function that makes a model of these nodes and constants."""
    return model_of


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A file with the small model's input and output."""
    graph = helper.make_graph(
        nodes,
        "hp",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SIZE_HW, 3])],
        [helper.make_tensor_value_info("logits.pascal", TensorProto.FLOAT, ["N", 7, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def onnx_file(small_model: onnx.ModelProto, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(small_model, path)
    return path


@pytest.fixture
def small_bundle(small_model: onnx.ModelProto, tmp_path: Path) -> Path:
    """A bundle of the small model with a golden sample that ONNX Runtime made."""
    root = tmp_path / "small"
    root.mkdir()
    onnx.save(small_model, root / "model.onnx")
    bundle = Bundle(
        root=root,
        name="small",
        family="sst",
        version="1.0.0",
        license="CC0-1.0",
        input=InputSpec(size_hw=SIZE_HW),
        heads={"pascal": HeadSpec(load_domain("pascal"), "logits.pascal")},
        artifacts=(_artifact(root / "model.onnx"),),
        verify=[{"artifact": "model.onnx", "verdict": "pass"}],
        golden={"file": "golden/golden.npz", "sha256": ""},
    )
    golden = _golden(bundle)
    write_manifest(replace(bundle, golden=golden), root)
    return root


def _artifact(path: Path) -> Artifact:
    return Artifact(
        runtime="onnx",
        file=path.name,
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        heads=("pascal",),
        precision_asked="fp32",
        precision_found="fp32",
        batch_min=1,
        batch_opt=2,
        batch_max=4,
        size_hw=SIZE_HW,
        opset=18,
        outputs=("logits.pascal",),
    )


def _golden(bundle: Bundle) -> dict[str, object]:
    image = figure(SIZE_HW)
    pixels, geometry = fit(image, bundle.input)
    with closing(open_backend(bundle, backend="onnxruntime")) as backend:
        labels = label_map(backend.run(pixels)["logits.pascal"][0], geometry)
    buffer = io.BytesIO()
    arrays = {"image": image, "labels.pascal": labels}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path = bundle.root / "golden" / "golden.npz"
    path.parent.mkdir()
    path.write_bytes(buffer.getvalue())
    return {"file": "golden/golden.npz", "sha256": sha256_of(path)}
