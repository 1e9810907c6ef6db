"""The C++ library, built once per machine state, and its C interface as Python objects."""

import ctypes
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hp_sdk
from hp_sdk import errors

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = REPOSITORY / "cpp_bindings"
UNIVERSAL = Path(hp_sdk.__file__).parent / "bundles" / "universal"
HEADERS = (SOURCES / "build-headers" / "include", Path("/usr/include"), Path("/usr/local/include"))
STAND_INS = Path(__file__).parent / "stand_in"
"""Declarations and libraries in place of TensorRT's."""
# Wheels put programs beside the interpreter, which need not be on the path.
PROGRAMS = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
BUILD_S = 1500


@dataclass(frozen=True, slots=True)
class Builder:
    """Configures and builds folders below cpp_bindings; processes take turns."""

    cmake: str
    generator: tuple[str, ...]

    def build(self, name: str, options: Mapping[str, str], *targets: str) -> Path:
        folder = SOURCES / name
        folder.mkdir(exist_ok=True)
        with (folder / "turn.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            generator = () if (folder / "CMakeCache.txt").is_file() else self.generator
            given = [f"-D{key}={value}" for key, value in options.items()]
            self.run("-S", str(SOURCES), "-B", str(folder), *generator, *given)
            named = ["--target", *targets] if targets else []
            self.run("--build", str(folder), *named)
        return folder

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.cmake, *arguments], capture_output=True, text=True, timeout=BUILD_S
        )
        assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout


@pytest.fixture(scope="session")
def builder() -> Builder:
    cmake = shutil.which("cmake", path=PROGRAMS)
    if cmake is None:
        pytest.skip("needs cmake (apt install cmake, or pip install cmake)")
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs a C++ compiler (apt install g++)")
    if not _has_header("nlohmann/json.hpp"):
        pytest.skip("needs nlohmann/json.hpp; run cpp_bindings/scripts/get_headers.sh")
    return Builder(cmake, ("-G", "Ninja") if shutil.which("ninja", path=PROGRAMS) else ())


@pytest.fixture(scope="session")
def built(builder: Builder) -> Path:
    """The build folder with the library, the tool and the test programs."""
    options = {"HP_TESTING": "ON"}
    options |= {f"HP_{name}_INCLUDE": str(STAND_INS) for name in ("TENSORRT", "CUDA")}
    openvino = importlib.util.find_spec("openvino")
    if openvino and openvino.origin:
        options["OpenVINO_DIR"] = str(Path(openvino.origin).parent / "cmake")
    return builder.build("build", options)


@pytest.fixture(scope="session")
def probe(built: Path) -> ctypes.CDLL:
    """Single steps of the library."""
    return ctypes.CDLL(str(built / "libhp_probe.so"))


@pytest.fixture(scope="session")
def native(built: Path) -> "Native":
    return Native(built / "libhp_sdk.so")


RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """A runtime that Python has and that C++ can be built with."""
    return _needed(request.param)


def runtimes() -> list[str]:
    """All of them, for tests that go through them in one."""
    found = [each for each in RUNTIMES if not _why_not(each)]
    return found or [_needed(RUNTIMES[0])]


@pytest.fixture(scope="session")
def onnxruntime_only() -> str:
    """For what does not depend on the runtime."""
    return _needed("onnxruntime")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where programs that are started find runtimes and models."""
    monkeypatch.setenv("HP_ONNXRUNTIME", libonnxruntime())
    monkeypatch.setenv("HP_BUNDLES", str(UNIVERSAL.parent))
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))


def libonnxruntime() -> str:
    """The library inside the wheel."""
    found = importlib.util.find_spec("onnxruntime")
    folder = Path(found.origin).parent / "capi" if found and found.origin else Path()
    return next((str(path) for path in sorted(folder.glob("libonnxruntime.so*"))), "")


class Image(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("format", ctypes.c_int),
        ("row_bytes", ctypes.c_ssize_t),
    )


class Options(ctypes.Structure):
    _fields_ = (
        ("backend", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("head", ctypes.c_char_p),
        ("tta", ctypes.c_char_p),
        ("batch_size", ctypes.c_int),
        ("num_threads", ctypes.c_int),
        ("allow_fallback", ctypes.c_int),
        ("onnxruntime", ctypes.c_char_p),
        ("bundles", ctypes.c_char_p),
    )


@dataclass(frozen=True, slots=True)
class NativeResult:
    labels: np.ndarray
    confidence: np.ndarray | None
    backend: str
    names: tuple[str, ...]


class Native:
    """`hp_c.h` through ctypes; failures raise the Python class of the same name."""

    def __init__(self, library: Path) -> None:
        self.lib = ctypes.CDLL(str(library))
        pointers = ("labels", "confidence", "class_name", "backend")
        for name in pointers:
            getattr(self.lib, f"hp_result_{name}").restype = ctypes.c_void_p
        for name in ("hp_last_error", "hp_last_error_kind"):
            getattr(self.lib, name).restype = ctypes.c_char_p

    def load(self, model: str | Path, **options: Any) -> "NativeParser":
        given = {"num_threads": 1, "onnxruntime": libonnxruntime()} | options
        encoded = {k: v.encode() if isinstance(v, str) else v for k, v in given.items()}
        handle = ctypes.c_void_p()
        self.check(
            self.lib.hp_parser_load(
                str(model).encode(), ctypes.byref(Options(**encoded)), ctypes.byref(handle)
            )
        )
        return NativeParser(self, handle)

    def check(self, status: int) -> None:
        if status:
            kind = self.lib.hp_last_error_kind().decode()
            error = getattr(errors, kind)(self.lib.hp_last_error().decode())
            assert status == error.exit_code
            raise error


class NativeParser:
    def __init__(self, native: Native, handle: ctypes.c_void_p) -> None:
        self._native, self._handle = native, handle

    def __enter__(self) -> "NativeParser":
        return self

    def __exit__(self, *_: object) -> None:
        self._native.lib.hp_parser_free(self._handle)

    def parse(
        self,
        photos: list[np.ndarray],
        *,
        tta: str | None = None,
        confidence: bool = False,
        format: int = 0,
    ) -> list[NativeResult]:
        images = (Image * len(photos))(*(_image(photo, format) for photo in photos))
        return self._answers(
            len(photos), tta, confidence, self._native.lib.hp_parser_parse_batch, images
        )

    def parse_heads(self, photo: np.ndarray, heads: list[str]) -> dict[str, NativeResult]:
        names = (ctypes.c_char_p * len(heads))(*(head.encode() for head in heads))
        image = ctypes.byref(_image(photo, 0))
        call = self._native.lib.hp_parser_parse_heads
        return dict(
            zip(heads, self._answers(len(heads), None, False, call, image, names), strict=True)
        )

    def selftest(self) -> float:
        worst = ctypes.c_double()
        self._native.check(self._native.lib.hp_parser_selftest(self._handle, ctypes.byref(worst)))
        return worst.value

    def _answers(
        self, count: int, tta: str | None, confidence: bool, call: Any, *given: Any
    ) -> list[NativeResult]:
        results = (ctypes.c_void_p * count)()
        mode = None if tta is None else tta.encode()
        number = ctypes.c_size_t(count)
        self._native.check(call(self._handle, *given, number, mode, int(confidence), results))
        return [self._taken(ctypes.c_void_p(result)) for result in results]

    def _taken(self, result: ctypes.c_void_p) -> NativeResult:
        lib = self._native.lib
        shape = lib.hp_result_height(result), lib.hp_result_width(result)
        confidence = lib.hp_result_confidence(result)
        names = (
            lib.hp_result_class_name(result, k) for k in range(lib.hp_result_num_classes(result))
        )
        answer = NativeResult(
            _plane(lib.hp_result_labels(result), shape),
            _plane(confidence, shape) if confidence else None,
            ctypes.string_at(lib.hp_result_backend(result)).decode(),
            tuple(ctypes.string_at(name).decode() for name in names),
        )
        lib.hp_result_free(result)
        return answer


def _image(photo: np.ndarray, format: int) -> Image:
    assert photo.dtype == np.uint8
    return Image(photo.ctypes.data, *photo.shape[:2], format, photo.strides[0])


def _plane(address: int, shape: tuple[int, int]) -> np.ndarray:
    size = shape[0] * shape[1]
    return np.frombuffer(ctypes.string_at(address, size), np.uint8).reshape(shape)


def _needed(runtime: str) -> str:
    if reason := _why_not(runtime):
        pytest.skip(reason)
    return runtime


def _why_not(runtime: str) -> str:
    if importlib.util.find_spec(runtime) is None:
        return f"needs {runtime}"
    if runtime == "onnxruntime" and not _has_header("onnxruntime/onnxruntime_c_api.h"):
        return "needs onnxruntime_c_api.h; run cpp_bindings/scripts/get_headers.sh"
    return ""


def _has_header(name: str) -> bool:
    return any((folder / name).is_file() for folder in HEADERS)


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """The bundled model, free to be damaged."""
    return Path(shutil.copytree(UNIVERSAL, tmp_path / "bundle"))
