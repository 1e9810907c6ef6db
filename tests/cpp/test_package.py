"""The installed library is found by CMake and pkg-config; its manual is a program that works."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("onnxruntime_only", "environment"),
]


@pytest.fixture(scope="module")
def installed(builder, built, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix")
    builder.run("--install", str(built), "--prefix", str(prefix))
    return prefix


@pytest.fixture(scope="module")
def consumer(repository):
    return repository / "cpp_bindings" / "examples" / "consumer"


def areas(program: Path, model: str) -> dict[str, int]:
    done = subprocess.run([str(program), model], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: int(area) for name, area in re.findall(r"(\S+) (\d+) px\n", done.stdout)}


def test_the_manual_is_the_consumer_example(repository, consumer):
    header = (repository / "cpp_bindings" / "include" / "hp" / "parser.hpp").read_text("utf-8")
    comment = [line for line in header.splitlines() if line.startswith("//")]
    code = [line[7:] for line in comment if line.startswith("//     ") or line == "//"]
    manual = "\n".join(code).strip() + "\n"
    program = (consumer / "main.cpp").read_text("utf-8").partition("\n")[2]
    assert manual == program
    assert program.count("\n") <= 25


def test_a_consumer_builds_with_cmake_and_runs(builder, installed, consumer, tmp_path, bundle_copy):
    build = str(tmp_path / "build")
    prefix = f"-DCMAKE_PREFIX_PATH={installed}"
    builder.run("-S", str(consumer), "-B", build, *builder.generator, prefix)
    builder.run("--build", build)
    found = areas(tmp_path / "build" / "consumer", str(bundle_copy))
    assert found == areas(tmp_path / "build" / "consumer", "cihp")


def test_a_consumer_builds_with_pkg_config(installed, consumer, tmp_path):
    pkg_config = shutil.which("pkg-config")
    if pkg_config is None:
        pytest.skip("needs pkg-config (apt install pkg-config)")
    folder = next(installed.rglob("hp_sdk.pc")).parent
    environment = os.environ | {"PKG_CONFIG_PATH": str(folder)}
    flags = subprocess.run(
        [pkg_config, "--cflags", "--libs", "hp_sdk"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert flags.returncode == 0, flags.stderr
    words = shlex.split(flags.stdout)
    libraries = [word[2:] for word in words if word.startswith("-L")]
    program = tmp_path / "consumer"
    command = ["c++", "-std=c++17", str(consumer / "main.cpp"), *words, "-o", str(program)]
    command += [f"-Wl,-rpath,{library}" for library in libraries]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    areas(program, "cihp")


def test_the_headers_name_no_runtime(repository):
    headers = sorted((repository / "cpp_bindings" / "include").rglob("*.h*"))
    assert len(headers) >= 7
    for header in headers:
        included = set(re.findall(r"#include <([^>]+)>", header.read_text("utf-8")))
        assert not {name for name in included if re.search("ort|onnx|openvino|nlohmann|cv", name)}


def test_the_library_shows_only_its_interface(built):
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm (apt install binutils)")
    listed = subprocess.run(
        [nm, "-DC", "--defined-only", str(built / "libhp_sdk.so")], capture_output=True, text=True
    )
    names = [line.split(" ", 2)[2] for line in listed.stdout.splitlines()]
    ours = [name for name in names if re.search(r"\bhp(::|_)", name)]
    assert any(name.startswith("hp::Parser::load") for name in ours)
    assert not [name for name in ours if re.search("nlohmann|ov::|Ort", name)]
