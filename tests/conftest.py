"""What every test shares: one thread per process, photos beside the checkout, spoken skips."""

import importlib.util
import os
import sys

# Before torch or numpy is imported: several workers on a few cores are faster with one thread each.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from types import ModuleType  # noqa: E402

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """Read `scripts/<name>.py` as a module, anew on every call."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos with labels, beside the checkout; never required."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            "real photos with labels are missing: put them into shared/data beside the repository"
        )
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, why_not in REQUIREMENTS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = why_not(config) if marked else None
        if reason:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_not_slow(config: pytest.Config) -> str | None:
    asked_for = "slow" in str(config.getoption("markexpr"))
    return None if asked_for else "a slow test was not asked for: run pytest with -m slow"


def _why_not_gpu(config: pytest.Config) -> str | None:
    from hp_sdk.gpu.driver import count_gpus

    return None if count_gpus() else "a CUDA device is missing: run on a machine with an NVIDIA GPU"


def _why_not_tensorrt(config: pytest.Config) -> str | None:
    found = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))
    return None if found else 'TensorRT is missing: pip install "hp-sdk[tensorrt]"'


REQUIREMENTS: dict[str, Callable[[pytest.Config], str | None]] = {
    "slow": _why_not_slow,
    "gpu": _why_not_gpu,
    "tensorrt": _why_not_tensorrt,
}
