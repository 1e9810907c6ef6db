"""TensorRT itself: the one file of hp_export that imports it, and only in a child process.

It imports nothing of hp_sdk, so that the child starts at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import ModuleType
from typing import Any

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
_MAJOR, _MINOR = 75, 76
"""Numbers of the CUDA driver for the two halves of a compute capability."""


class Refusal(Exception):
    """What the child cannot do, in words for the user; `kind` chooses the parent's error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def open_library(runtime: str) -> ModuleType:
    """The module of a runtime: `tensorrt` or `tensorrt-rtx`.

    Raises:
        Refusal: it is not installed, or its libraries cannot be loaded.
    """
    load, install = _MODULES[runtime]
    try:
        return load()
    except (ImportError, OSError, RuntimeError) as exc:
        raise Refusal("missing", f"{runtime} cannot be loaded ({exc}); {install}") from exc


def describe_library(trt: Any) -> dict[str, Any]:
    """Version, what can be asked of this version, and the GPU that is there."""
    flags = trt.NetworkDefinitionCreationFlag
    return {
        "version": str(trt.__version__),
        "strongly_typed": hasattr(flags, "STRONGLY_TYPED"),
        "capabilities": sorted(_capabilities(trt), key=lambda text: float(text)),
        "gpu": _gpu(),
    }


def capability_member(trt: Any, capability: str) -> Any:
    """The library's own name for a compute capability such as "8.0"."""
    return getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}")


def _capabilities(trt: Any) -> list[str]:
    """Compute capabilities that can be asked for; none where only the GPU at hand counts."""
    members = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    numbers = [name[2:] for name in members if name.startswith("SM")]
    return [f"{number[:-1]}.{number[-1]}" for number in numbers]


def _gpu() -> dict[str, str]:
    """Name and compute capability of the first GPU that CUDA shows; empty if there is none."""
    driver = next(filter(None, map(_loaded, _DRIVERS)), None)
    if driver is None or driver.cuInit(0):
        return {}
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return {}
    driver.cuDeviceGetName(name, len(name), device)
    halves = [ctypes.c_int(), ctypes.c_int()]
    for half, number in zip(halves, (_MAJOR, _MINOR), strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(half), number, device)
    return {
        "name": name.value.decode(errors="replace"),
        "capability": f"{halves[0].value}.{halves[1].value}",
    }


def _loaded(library: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None


def _classic() -> ModuleType:
    import tensorrt  # pyright: ignore[reportMissingImports]

    return tensorrt


def _rtx() -> ModuleType:
    import tensorrt_rtx  # pyright: ignore[reportMissingImports]

    return tensorrt_rtx


_MODULES: dict[str, tuple[Callable[[], ModuleType], str]] = {
    "tensorrt": (_classic, "pip install tensorrt, or write a kit for the target with --defer"),
    "tensorrt-rtx": (_rtx, "pip install tensorrt-rtx-cu13"),
}
"""Runtime → how it is loaded, and what helps if it cannot be."""
