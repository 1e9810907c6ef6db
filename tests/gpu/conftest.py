"""A CUDA driver whose device is the host, so that the GPU path runs without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from hp_sdk.gpu import compiler, driver, sensors
from tests.gpu.build import build


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("fake_cuda.cpp", tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def fake_cuda(fake_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The driver of this test; `fake_limit(bytes)` and `fake_fail(code)` make it misbehave.

    `fake_clock(ms, bytes)` makes launches last so long, and copies a millisecond per so many bytes.
    """
    library = ctypes.CDLL(str(fake_library))
    library.fake_used.restype = ctypes.c_size_t
    library.fake_limit.argtypes = [ctypes.c_size_t]
    library.fake_clock.argtypes = [ctypes.c_double, ctypes.c_double]
    library.fake_reset()
    monkeypatch.setattr(sensors, "_LIBRARY", str(fake_library))
    monkeypatch.setattr(driver, "_LIBRARY", str(fake_library))
    monkeypatch.setattr(driver, "compile_kernels", lambda _capability: b"compiled for the host")
    driver.load_driver.cache_clear()
    yield library
    library.fake_reset()
    driver.load_driver.cache_clear()
    compiler._nvrtc.cache_clear()
