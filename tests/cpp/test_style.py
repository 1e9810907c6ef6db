"""The C++ sources keep the house's rules."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def sources(repository):
    folder = repository / "cpp_bindings"
    kinds = ("include", "src", "tool", "fuzz", "testing", "python", "examples")
    files = [path for kind in kinds for path in (folder / kind).rglob("*.[ch]*")]
    found = [path for path in files if path.suffix in {".hpp", ".cpp", ".h", ".c"}]
    assert len(found) > 40
    return sorted(found)


def test_files_stay_below_400_lines(sources):
    lengths = {path.name: path.read_text("utf-8").count("\n") for path in sources}
    assert {name: count for name, count in lengths.items() if count >= 400} == {}


def test_each_runtime_is_included_by_one_file(sources):
    owners = {
        "onnxruntime_c_api.h": "ort.cpp",
        "openvino/": "openvino.cpp",
        "NvInfer.h": "tensorrt.cpp",
    }
    for header, owner in owners.items():
        users = [path.name for path in sources if f"#include <{header}" in path.read_text("utf-8")]
        assert users == [owner]


def test_headers_say_what_they_are_for(sources):
    for path in sources:
        if path.suffix == ".hpp":
            text = path.read_text("utf-8")
            assert re.match(r"// [A-Z0-9].+\n(//.*\n)*#pragma once\n", text), path.name


def test_sources_are_formatted(sources, repository):
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    clang_format = shutil.which("clang-format", path=programs)
    if clang_format is None:
        pytest.skip("needs clang-format (pip install clang-format)")
    command = [clang_format, "--dry-run", "--Werror", *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
