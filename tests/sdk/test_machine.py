"""The machine is told as far as it tells itself, and no further."""

import os
import sys

import pytest

from hp_sdk.machine import Graphics, find_nvidia, read_machine


@pytest.fixture
def linux(tmp_path):
    """The root of a small Linux: what it says of itself, by path."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return read_machine(tmp_path)

    return write


def test_a_container_is_told_by_its_limits(linux):
    told = linux(
        {
            "proc/cpuinfo": "model name\t: Fast\nflags\t\t: fpu avx2 amx_int8\n\nmodel name\t: S\n",
            "proc/meminfo": "MemTotal:  8388608 kB\nMemAvailable:  1048576 kB\n",
            "sys/fs/cgroup/memory.max": "2147483648\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
        }
    )

    assert told.processor == "Fast"
    assert told.flags is not None
    assert {flag for flag, is_there in told.flags.items() if is_there} == {"avx2", "amx_int8"}
    assert (told.memory_bytes, told.memory_free_bytes) == (2 * 2**30, 2**30)
    assert told.core_quota == 1.5


def test_a_machine_without_limits_or_proc_is_told_as_far_as_it_goes(linux):
    without = linux({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})

    assert without.core_quota is None
    assert without.flags is None
    assert without.cores >= 1


def smi(folder, body):
    program = folder / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(0o755)
    return lambda name: str(program)


@pytest.mark.skipif(os.name == "nt", reason="needs scripts that can be run")
def test_nvidia_smi_is_read_and_its_complaint_is_kept(tmp_path):
    assert find_nvidia(lambda name: None) is None

    found = find_nvidia(smi(tmp_path, "print('NVIDIA H200, 580.95.05, 143771')"))
    assert found == Graphics(
        source="nvidia-smi", driver="580.95.05", gpus=("NVIDIA H200, 140 GiB",)
    )

    found = find_nvidia(smi(tmp_path, "print('NVIDIA-SMI has failed'); raise SystemExit(9)"))
    assert found is not None
    assert (found.gpus, found.problem) == ((), "nvidia-smi finds no GPU: NVIDIA-SMI has failed")

    found = find_nvidia(smi(tmp_path, "import time; time.sleep(30)"), timeout_s=0.2)
    assert found is not None
    assert "does not answer" in found.problem
