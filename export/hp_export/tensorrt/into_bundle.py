"""Engines join a bundle: built from its ONNX file, verified with its golden sample, then listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from hp_export.tensorrt.child import Show
from hp_export.tensorrt.engines import build_engines, remove_engine, silent
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.replay import verify_engine
from hp_export.tensorrt.source import Source
from hp_sdk.bundle import Artifact, Bundle, read_bundle, verify_artifact, write_manifest
from hp_sdk.errors import BackendError, ConfigError, HpError


@dataclass(frozen=True, slots=True)
class Added:
    """What joined a bundle."""

    artifacts: tuple[Artifact, ...]
    verify: tuple[dict[str, Any], ...]
    """The new entries of the manifest; empty if nothing was verified."""


def add_engines(
    root: Path,
    options: EngineOptions,
    *,
    onnx_file: str | None = None,
    source: Source | None = None,
    verify: bool = True,
    progress: Show = silent,
) -> Added:
    """Build engines from the bundle's ONNX file (`onnx_file` if it has several), and list them.

    The manifest is written last: until then, and if anything fails, the bundle is what it was.

    Raises:
        HpError: as `build_engines` and `verify_engine` do; new engines are gone again.
    """
    bundle = read_bundle(root)
    origin = onnx_artifact(bundle, onnx_file)
    onnx_path = verify_artifact(bundle, origin)
    known = source if source is not None and source.sha256 == origin.sha256 else None
    listed = {artifact.file for artifact in bundle.artifacts}
    built = [
        replace(artifact, file=str(PurePosixPath(origin.file).with_name(artifact.file)))
        for artifact in build_engines(
            onnx_path,
            onnx_path.parent,
            options,
            source=known,
            precision_asked=origin.precision_asked,
            progress=progress,
        )
    ]
    try:
        entries = _verified(bundle, built, progress) if verify else []
        write_manifest(_with(bundle, built, entries), root)
    except BaseException:  # also an interruption
        for artifact in built:
            if artifact.file not in listed:
                remove_engine(root / artifact.file)
        raise
    return Added(tuple(built), tuple(entries))


def onnx_artifact(bundle: Bundle, file: str | None = None) -> Artifact:
    """The ONNX artifact to build from.

    Raises:
        ConfigError: there is none, or none of that name.
    """
    there = {a.file: a for a in bundle.artifacts if a.runtime == "onnx"}
    if not there:
        raise ConfigError(f"bundle {bundle.name!r} has no ONNX file to build an engine from")
    if file is None:
        return next(iter(there.values()))
    if file not in there:
        raise ConfigError(f"no ONNX file {file!r} in the bundle; it has {', '.join(there)}")
    return there[file]


def _verified(
    bundle: Bundle, artifacts: Sequence[Artifact], progress: Show
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for artifact in artifacts:
        progress(f"verifying {artifact.file}")
        try:
            entries += verify_engine(bundle, artifact)
        except HpError as exc:
            elsewhere = isinstance(exc, BackendError)
            hint = "; for another machine, write a kit (--defer) or use --no-verify"
            exc.args = (f"{exc} (nothing was added to the bundle){hint if elsewhere else ''}",)
            raise
    return entries


def _with(
    bundle: Bundle, artifacts: Sequence[Artifact], entries: Sequence[dict[str, Any]]
) -> Bundle:
    """The bundle with these artifacts; what it said of files of the same name is replaced."""
    new = {artifact.file for artifact in artifacts}
    kept = tuple(artifact for artifact in bundle.artifacts if artifact.file not in new)
    told = [entry for entry in bundle.verify if entry.get("artifact") not in new]
    return replace(bundle, artifacts=(*kept, *artifacts), verify=[*told, *entries])
