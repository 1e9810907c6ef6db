"""Kernels compiled at run time, for every GPU generation, without a GPU."""

from __future__ import annotations

import pytest

from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu import compiler


@pytest.fixture
def nvrtc() -> tuple[int, int]:
    try:
        return compiler.nvrtc_version()
    except BackendUnavailable as exc:
        pytest.skip(f"kernels cannot be compiled here: {exc}")


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_every_kernel_compiles_for_every_generation(nvrtc, capability) -> None:
    if capability == (12, 0) and nvrtc < (12, 8):
        pytest.skip(f"NVRTC {nvrtc} is older than Blackwell; install NVRTC 12.8 or later")
    code = compiler.compile_kernels(capability)
    assert code.startswith(b"\x7fELF")
    assert all(name.encode() in code for name in compiler.KERNELS)


def test_an_unknown_gpu_is_refused_in_one_line(nvrtc) -> None:
    with pytest.raises(BackendUnavailable, match=r"compute capability 1\.1: .*another device"):
        compiler.compile_kernels((1, 1))


def test_a_machine_without_the_compiler_is_told_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(compiler, "_candidates", lambda: iter(["no-such-library.so"]))
    compiler._nvrtc.cache_clear()
    with pytest.raises(BackendUnavailable, match="nvidia-cuda-nvrtc"):
        compiler.compile_kernels((9, 0))
    compiler._nvrtc.cache_clear()
