"""The command keeps freed memory; a program that calls it does not change."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from hp_export.memory import keep_freed_memory
kept = {keep}
before = None
for _ in range(20):
    block = bytearray(64 << 20)
    for i in range(0, len(block), 4096):
        block[i] = 1
    del block
    if before is None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str) -> tuple[str, int]:
    code = CODE.format(keep=keep)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, count = told.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs malloc of glibc")
def test_freed_memory_is_not_asked_for_again() -> None:
    kept, few = faults("keep_freed_memory()")
    assert kept == "True"
    _, many = faults("None")
    assert few < many / 2
