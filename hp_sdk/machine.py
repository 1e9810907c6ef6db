"""What this machine is: processor, memory, graphics; read, never changed."""

from __future__ import annotations

import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
"""What makes a network fast on x86, as Linux names it."""
ARM_FLAGS = ("asimd", "asimddp", "i8mm", "bf16", "sve")
"""The same on ARM."""

_SMI_QUERY = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")
_SMI_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the network would run."""

    python: str
    executable: str
    system: str
    processor: str
    cores: int
    """That this process may use."""
    core_quota: float | None
    """Share of them that a container is allowed, in cores."""
    flags: dict[str, bool] | None
    memory_bytes: int | None
    """Of the machine, or of the container if that is less."""
    memory_free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics:
    """NVIDIA GPUs, and who says so."""

    source: str = ""
    """"nvidia-smi", "CUDA driver library", or nothing if neither is there."""
    driver: str = ""
    gpus: tuple[str, ...] = ()
    problem: str = ""


def read_machine(root: Path = Path("/")) -> Machine:
    """This machine; `root` is where `proc` and `sys` lie."""
    fields = _fields(root / "proc" / "cpuinfo")
    memory = {name: 1024 * _number(text) for name, text in _fields(root / "proc/meminfo").items()}
    sizes = [memory.get("MemTotal"), _limit(root / "sys/fs/cgroup/memory.max")]
    known = [size for size in sizes if size is not None]
    bits = 8 * struct.calcsize("P")
    return Machine(
        python=f"{platform.python_version()} ({platform.python_implementation()}, {bits} bit)",
        executable=sys.executable,
        system=f"{platform.platform()} {platform.machine()}",
        processor=fields.get("model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        core_quota=_core_quota(root / "sys/fs/cgroup/cpu.max"),
        flags=_flags(fields),
        memory_bytes=min(known) if known else _physical_memory(),
        memory_free_bytes=memory.get("MemAvailable"),
    )


def find_nvidia(
    which: Callable[[str], str | None] = shutil.which, timeout_s: float = _SMI_TIMEOUT_S
) -> Graphics | None:
    """What nvidia-smi says; None if there is no nvidia-smi."""
    program = which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *_SMI_QUERY], capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return Graphics(source="nvidia-smi", problem=f"nvidia-smi does not answer: {exc}")
    lines = _filled_lines(done.stdout)
    if done.returncode or not lines:
        said = (lines or _filled_lines(done.stderr) or ["it says nothing"])[0]
        return Graphics(source="nvidia-smi", problem=f"nvidia-smi finds no GPU: {said}")
    return _graphics([[part.strip() for part in line.split(",")] for line in lines])


def _filled_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _graphics(rows: Sequence[Sequence[str]]) -> Graphics:
    """One row (name, driver, memory in MiB) per GPU."""
    gpus = tuple(f"{row[0]}, {_number(row[-1]) / 1024:.0f} GiB" for row in rows)
    return Graphics(source="nvidia-smi", driver=rows[0][1] if len(rows[0]) > 1 else "", gpus=gpus)


def _fields(path: Path) -> dict[str, str]:
    """`name : value` lines of the first block."""
    pairs = (line.partition(":") for line in _text(path).partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found[0]) if found else 0


def _flags(fields: dict[str, str]) -> dict[str, bool] | None:
    for key, wanted in (("flags", FLAGS), ("Features", ARM_FLAGS)):
        if key in fields:
            there = fields[key].split()
            return {flag: flag in there for flag in wanted}
    return None


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _core_quota(path: Path) -> float | None:
    parts = _text(path).split()
    if len(parts) != 2 or not parts[0].isdecimal() or not parts[1].isdecimal():
        return None
    return int(parts[0]) / int(parts[1])


def _limit(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
