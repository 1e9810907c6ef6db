#!/usr/bin/env bash
# Build hp_sdk._native for one Python, which needs nanobind, and put it beside hp_sdk/native.py:
#
#   cpp_bindings/python/build.sh [PYTHON]      default: python3
set -euo pipefail

bindings=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(command -v "${1:-python3}") || { echo "there is no ${1:-python3}; name a Python" >&2; exit 5; }
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
# Wheels put programs beside the interpreter, which need not be on the path.
PATH=$(dirname "$python"):$PATH

need() { "${@:2}" >/dev/null 2>&1 || { echo "hp_sdk._native needs $1" >&2; exit 5; }; }
need "CMake (apt install cmake, or pip install cmake)" command -v cmake
need "a C++ compiler (apt install g++)" command -v "${CXX:-c++}"
need "nanobind (pip install nanobind)" "$python" -m nanobind --cmake_dir
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
need "Python's headers (apt install python3-dev); there is no $header" test -f "$header"

build=$bindings/build-native/$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("SOABI"))')
mkdir -p "$build"
{ cmake -S "$bindings/python" -B "$build" -DPython_EXECUTABLE="$python" && cmake --build "$build"; } \
    >"$build/build.log" 2>&1 || {
    tail -n 40 "$build/build.log" >&2
    echo "hp_sdk._native could not be built; hp_sdk works without it" >&2
    exit 1
}
cd "$bindings/.." && "$python" -c '
from hp_sdk.native import find_accelerator
print("hp_sdk._native is", find_accelerator({}).state)'
