"""Compiles kernels.cu at run time for the GPU that is there (NVRTC; no toolkit, no headers)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from functools import cache
from pathlib import Path

from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu.layouts import SOURCES

KERNELS = (
    "hp_fit",
    "hp_label_float",
    "hp_label_half",
    "hp_merge_float",
    "hp_merge_half",
    "hp_softmax",
)
"""Entry points of kernels.cu."""

_NAMES = (
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so",
    "nvrtc64_130_0.dll",
    "nvrtc64_120_0.dll",
)
_INSTALL = 'pip install nvidia-cuda-nvrtc, or "hp-sdk[tensorrt]", or PyTorch with CUDA'


def compile_kernels(capability: tuple[int, int]) -> bytes:
    """Machine code (cubin) of all kernels for one compute capability, such as (9, 0).

    Raises:
        BackendUnavailable: NVRTC is not there, or does not know the capability.
    """
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    source = (SOURCES / "kernels.cu").read_bytes()
    header = (SOURCES / "pixels.h").read_bytes()
    _check(
        nvrtc,
        nvrtc.nvrtcCreateProgram(
            *(ctypes.byref(program), source, b"kernels.cu", 1),
            *((ctypes.c_char_p * 1)(header), (ctypes.c_char_p * 1)(b"pixels.h")),
        ),
    )
    try:
        options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}".encode(), b"--std=c++17"]
        table = (ctypes.c_char_p * len(options))(*options)
        failed = nvrtc.nvrtcCompileProgram(program, len(options), table)
        if failed:
            raise BackendUnavailable(
                f"the kernels cannot be compiled for compute capability {capability[0]}."
                f"{capability[1]}: {_text(nvrtc, failed)} {_log(nvrtc, program)}".rstrip()
                + "; update NVRTC, or use another device"
            )
        return _cubin(nvrtc, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def nvrtc_version() -> tuple[int, int]:
    """Version of the run-time compiler.

    Raises:
        BackendUnavailable: it is not there.
    """
    nvrtc, major, minor = _nvrtc(), ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


@cache
def _nvrtc() -> ctypes.CDLL:
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise BackendUnavailable(f"NVRTC, NVIDIA's run-time compiler, is not there; {_INSTALL}")


def _candidates() -> Iterator[str]:
    """Wheels of NVIDIA first, then what the system's loader finds."""
    for entry in sys.path:
        folder = Path(entry) / "nvidia"
        if folder.is_dir():
            found = [*folder.glob("*/lib/libnvrtc.so*"), *folder.glob("*/bin/**/nvrtc64_*_0.dll")]
            yield from sorted(str(path) for path in found)
    yield from _NAMES
    if name := find_library("nvrtc"):
        yield name


def _cubin(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    code = ctypes.create_string_buffer(size.value)
    _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))
    return code.raw


def _log(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(max(1, size.value))
    nvrtc.nvrtcGetProgramLog(program, text)
    lines = [line for line in text.value.decode(errors="replace").splitlines() if "error" in line]
    return lines[0] if lines else ""


def _text(nvrtc: ctypes.CDLL, code: int) -> str:
    return nvrtc.nvrtcGetErrorString(code).decode()


def _check(nvrtc: ctypes.CDLL, code: int) -> None:
    if code:
        raise BackendUnavailable(f"NVRTC failed: {_text(nvrtc, code)}; {_INSTALL}")
