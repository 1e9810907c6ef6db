"""Compiles the C++ files of this folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hp_sdk.gpu.layouts import SOURCES

COMPILER = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")


def build(source: str, folder: Path, *options: str) -> Path:
    """Compile one C++ file of this folder to a shared library."""
    if COMPILER is None:
        pytest.skip("no C++ compiler: install g++ to run the GPU path on the CPU")
    library = folder / f"{source}.so"
    command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{SOURCES}", *options]
    path = Path(__file__).with_name(source)
    subprocess.run([*command, str(path), "-o", str(library)], check=True, timeout=120)
    return library
