"""An ONNX file becomes engines: described, looked up in the cache, built, written with sidecars."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hp_export.tensorrt.cache import EngineCache, cache_key
from hp_export.tensorrt.child import DESCRIBE_TIMEOUT_S, Show, run_worker
from hp_export.tensorrt.job import Job, Library
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.sidecar import Sidecar, sidecar_path, this_system, write_sidecar
from hp_export.tensorrt.source import Source, read_source
from hp_sdk.bundle import Artifact
from hp_sdk.errors import BackendUnavailable, ConfigError, CorruptArtifact
from hp_sdk.files import write_bytes


def silent(_text: str) -> None:
    """Progress that nobody sees."""


def build_engines(
    onnx_path: Path,
    folder: Path,
    options: EngineOptions,
    *,
    source: Source | None = None,
    precision_asked: str | None = None,
    progress: Show = silent,
) -> tuple[Artifact, ...]:
    """Write one engine and its sidecar for each target into `folder`; entries for the manifest.

    An entry's `file` is relative to `folder`.  `progress` is given lines for a terminal, such as
    `hp_sdk.cli.progress.status_line` shows.  `source` spares reading the ONNX file (and onnx).
    If a target fails, the engines of this call that were new are gone again.

    Raises:
        ModelNotFound: there is no ONNX file.
        CorruptArtifact: it is none, or not the one that `source` describes.
        ConfigError: an option that this TensorRT, GPU or ONNX file does not allow.
        BackendUnavailable: TensorRT is not installed, or needs a GPU that is not there.
        ExportError: TensorRT refuses the graph, crashes, or takes too long.
    """
    source = source or read_source(onnx_path)
    source.profile(options.batch)
    library = describe_library(options.runtime, progress)
    targets = [_checked(library, target) for target in options.targets()]
    written: list[Path] = []
    artifacts: list[Artifact] = []
    try:
        for target in targets:
            job = Job(onnx_path, source, options, library, target)
            path = folder / job.file_name
            new = not path.exists()
            artifacts.append(_write(job, path, precision_asked or source.precision, progress))
            written += [path] if new else []
    except BaseException:  # also an interruption
        for path in written:
            remove_engine(path)
        raise
    return tuple(artifacts)


def describe_library(runtime: str, progress: Show = silent) -> Library:
    """What is installed, asked in a child process.

    Raises:
        BackendUnavailable: it is not installed, or cannot be loaded.
        ExportError: it crashes when it is loaded.
    """
    told = run_worker(
        {"action": "describe", "runtime": runtime},
        what=f"starting {runtime}",
        timeout_s=DESCRIBE_TIMEOUT_S,
        show=progress,
    )
    return Library(**{**told, "runtime": runtime, "capabilities": tuple(told["capabilities"])})


def remove_engine(path: Path) -> None:
    """Delete an engine and its sidecar."""
    for file in (path, sidecar_path(path)):
        file.unlink(missing_ok=True)


def _checked(library: Library, target: tuple[str, ...]) -> tuple[str, ...]:
    """The target, or what it means where only the GPU at hand counts."""
    here = (library.gpu["capability"],) if library.gpu else ()
    title = f"{library.runtime} {library.version}"
    if library.capabilities:
        if unknown := [each for each in target if each not in library.capabilities]:
            raise ConfigError(
                f"{title} builds no engine for compute capability {unknown[0]}; it knows "
                f"{', '.join(library.capabilities)}; for other GPUs use --format tensorrt there"
            )
        return target
    if not here:
        raise BackendUnavailable(
            f"{title} builds on the GPU that the engine is for, and none is here; write a kit "
            "for that machine instead (--defer)"
        )
    if target not in ((), here):
        raise ConfigError(
            f"{title} builds for the GPU at hand only, which has compute capability {here[0]}, "
            f"not {'+'.join(target)}"
        )
    return here


def _write(job: Job, path: Path, precision_asked: str, progress: Show) -> Artifact:
    """Engine and sidecar; the engine appears last, so that one without a sidecar is foreign."""
    content, facts = _fetch(job, progress)
    sidecar = _sidecar(job, path, content, facts)
    beside = sidecar_path(path)
    before = beside.read_bytes() if beside.is_file() else None
    try:
        write_sidecar(path, sidecar)
        write_bytes(path, content)
    except BaseException:
        _restore(beside, before)
        raise
    smallest, usual, largest = job.options.batch
    height, width = job.source.shape[:2]
    return Artifact(
        runtime=job.options.runtime,
        file=path.name,
        sha256=sidecar.sha256,
        size_bytes=sidecar.size_bytes,
        heads=job.source.heads,
        precision_asked=precision_asked,
        precision_found=job.source.precision,
        batch_min=smallest,
        batch_opt=usual,
        batch_max=largest,
        size_hw=(height, width),
        opset=job.source.opset,
        outputs=job.source.outputs,
    )


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_bytes(path, content)


def _fetch(job: Job, progress: Show) -> tuple[bytes, dict[str, Any]]:
    """From the cache, where another process may be building it right now, or built."""
    cache = EngineCache.at_home(job.options.cache_bytes)
    what = f"building {job.onnx_path.name} for {job.options.runtime} {job.place}"
    content, facts, _found = cache.fetch(
        job.key,
        _builder(job, what, cache.root, progress),
        waiting=lambda holder: progress(f"{what}: {holder} is at it, waiting"),
    )
    return content, facts


def _builder(job: Job, what: str, root: Path, progress: Show) -> Callable[[Path], dict[str, Any]]:
    def build(engine: Path) -> dict[str, Any]:
        # Timings are worth keeping where tactics are timed: on the GPU that the engine is for.
        timings = root / f"timings-{_timings_key(job)}" if job.gpu else None
        request = job.request(engine, timings)
        facts = run_worker(request, what=what, timeout_s=job.options.timeout_s, show=progress)
        if not engine.is_file() or not engine.stat().st_size:
            raise CorruptArtifact(f"{what}: TensorRT says that it is done, but wrote no engine")
        return facts | {"built_utc": datetime.now(UTC).isoformat(timespec="seconds")}

    return build


def _timings_key(job: Job) -> str:
    return cache_key({"version": job.library.version, "gpu": job.gpu, "target": job.target})


def _sidecar(job: Job, path: Path, content: bytes, facts: Mapping[str, Any]) -> Sidecar:
    return Sidecar(
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        runtime=job.options.runtime,
        version=str(facts["version"]),
        compute_capabilities=job.target,
        gpu=job.gpu,
        system=this_system(),
        typing="strong" if job.library.strongly_typed else "weak",
        tf32=job.options.tf32,
        profile={
            name: {key: tuple(shape) for key, shape in shapes.items()}
            for name, shapes in job.source.profile(job.options.batch).items()
        },
        outputs=facts["outputs"],
        layers=int(facts["layers"]),
        source={"file": job.onnx_path.name, **job.source.to_dict()},
        options=job.options.to_dict(),
        build_s=float(facts["build_s"]),
        built_utc=str(facts["built_utc"]),
    )
