"""TensorRT engines on an NVIDIA GPU: the only file of the package that imports `tensorrt`.

`tensorrt_rtx.py` does the same for TensorRT-RTX; both run engines by one path (`hp_sdk.gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from hp_sdk.backends.base import (
    Absent,
    BackendOptions,
    Facts,
    Installed,
    importing,
)
from hp_sdk.backends.on_device import DeviceBackend, gpu_index, open_pipeline
from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import ConfigError, EngineIncompatible
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.driver import NoDriver, count_gpus
from hp_sdk.gpu.engine_file import read_origin
from hp_sdk.gpu.trt_engine import TrtEngine

_INSTALL = 'pip install "hp-sdk[tensorrt]"'


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> TensorRtBackend:
    """Open an engine of a bundle, or one of its siblings that fits this GPU.

    Raises:
        BackendUnavailable: TensorRT, the driver or the GPU asked for is not there.
        EngineIncompatible: no engine is for this TensorRT and GPU; says how to build one.
        ConfigError: an option TensorRT does not have.
        CorruptArtifact: the file is missing.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: the engine is not what the manifest describes.
    """
    return open_engine(_runtime(), bundle, artifact, options)


def describe() -> Installed:
    """Version and GPUs.

    Raises:
        BackendUnavailable: TensorRT is not there, or broken.
    """
    return describe_runtime(_runtime())


class TensorRtBackend(DeviceBackend):
    """An engine of TensorRT or TensorRT-RTX on one GPU."""

    title: ClassVar[str] = "TensorRT"


def open_engine(
    trt: ModuleType, bundle: Bundle, artifact: Artifact, options: BackendOptions
) -> TensorRtBackend:
    """The same as `open_artifact`, with either module."""
    _refuse_foreign_options(options)
    try:
        gpu = Gpu(gpu_index(options.device or "cuda"))
    except NoDriver as exc:
        raise Absent(f"TensorRT needs an NVIDIA GPU: {exc}") from exc
    try:
        chosen, engine = _fitting(trt, gpu, bundle, artifact, options.cache_dir)
        pipeline = open_pipeline(gpu, engine, bundle, chosen)
    except BaseException:
        gpu.close()
        raise
    facts = Facts(
        version=str(trt.__version__),
        artifact=f"{chosen.file} sha256:{chosen.sha256[:12]}",
        precision=chosen.precision_found,
        batch_min=engine.batch_min,
        batch_opt=engine.batch_opt,
        batch_max=engine.batch_max,
        notes=options.notes,
    )
    return TensorRtBackend(chosen.runtime, pipeline, facts)


def describe_runtime(trt: ModuleType) -> Installed:
    """The same as `describe`, with either module."""
    devices = tuple(f"cuda:{index}" for index in range(count_gpus()))
    return Installed(version=str(trt.__version__), listed=devices, devices=devices)


def _runtime() -> ModuleType:
    with importing("tensorrt", "TensorRT", _INSTALL):
        import tensorrt  # pyright: ignore[reportMissingImports]
    return tensorrt


def _refuse_foreign_options(options: BackendOptions) -> None:
    for name in ("providers", "session_options", "num_threads"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} is for other runtimes; TensorRT takes device")


def _fitting(
    trt: ModuleType, gpu: Gpu, bundle: Bundle, artifact: Artifact, cache_dir: Path | None
) -> tuple[Artifact, TrtEngine]:
    """The first engine that is for this GPU: the one asked for, then those of equal precision."""
    refusals: list[EngineIncompatible] = []
    for candidate in (artifact, *_siblings(bundle, artifact)):
        try:
            return candidate, _opened(trt, gpu, bundle, candidate, cache_dir)
        except EngineIncompatible as exc:
            refusals.append(exc)
    raise refusals[0]


def _siblings(bundle: Bundle, artifact: Artifact) -> Iterator[Artifact]:
    for other in bundle.artifacts:
        alike = (other.runtime, other.precision_found, other.heads, other.size_hw)
        mine = (artifact.runtime, artifact.precision_found, artifact.heads, artifact.size_hw)
        if alike == mine and other != artifact:
            yield other


def _opened(
    trt: ModuleType, gpu: Gpu, bundle: Bundle, artifact: Artifact, cache_dir: Path | None
) -> TrtEngine:
    path = verify_artifact(bundle, artifact)
    major, minor = gpu.context.capability
    kept = f"{artifact.sha256[:16]}-{trt.__version__}-sm{major}{minor}.kernels"
    return TrtEngine(
        trt,
        path.read_bytes(),
        origin=read_origin(path, bundle.root),
        capability=f"{major}.{minor}",
        cache_file=None if cache_dir is None else cache_dir / "tensorrt" / kept,
    )
