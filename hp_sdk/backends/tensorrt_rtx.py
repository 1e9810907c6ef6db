"""TensorRT-RTX: the only file of the package that imports `tensorrt_rtx`."""

from __future__ import annotations

from types import ModuleType

from hp_sdk.backends.base import BackendOptions, Installed, importing
from hp_sdk.backends.tensorrt import TensorRtBackend, describe_runtime, open_engine
from hp_sdk.bundle import Artifact, Bundle

_INSTALL = "pip install tensorrt-rtx-cu13"


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> TensorRtBackend:
    """Open an engine of TensorRT-RTX; see `hp_sdk.backends.tensorrt.open_artifact`."""
    return open_engine(_runtime(), bundle, artifact, options)


def describe() -> Installed:
    """Version and GPUs.

    Raises:
        BackendUnavailable: TensorRT-RTX is not there, or broken.
    """
    return describe_runtime(_runtime())


def _runtime() -> ModuleType:
    with importing("tensorrt_rtx", "TensorRT-RTX", _INSTALL):
        import tensorrt_rtx  # pyright: ignore[reportMissingImports]
    return tensorrt_rtx
