"""Where a TensorRT engine file may run, as the sidecar beside it tells (`model.engine.json`)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from hp_sdk.errors import EngineIncompatible
from hp_sdk.manifest import Section, read_json

_REBUILD = "python -m hp_export.tensorrt BUNDLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What built an engine; empty where nobody says."""

    name: str
    version: str = ""
    compute_capabilities: tuple[str, ...] = ()
    system: str = ""
    rebuild: str = _REBUILD

    def refused(self, why: str) -> EngineIncompatible:
        """The error for an engine that does not run here, with what helps."""
        return EngineIncompatible(
            f"engine {self.name!r} does not run here: {why}; build it again on this machine: "
            f"{self.rebuild}"
        )


def read_origin(engine: Path, bundle: Path) -> Origin:
    """What the sidecar says; the least possible if there is none.

    Raises:
        CorruptArtifact: it is not JSON.
        SchemaMismatch: a value in it is not what it should be.
    """
    beside = engine.with_name(f"{engine.name}.json")
    at = _REBUILD.replace("BUNDLE", str(bundle))
    if not beside.is_file():
        return Origin(name=engine.name, rebuild=at)
    told = Section(read_json(beside), where=str(beside))
    rebuild = told.text("rebuild") if told.has("rebuild") else _REBUILD
    return Origin(
        name=engine.name,
        version=told.text("version"),
        compute_capabilities=told.texts("compute_capabilities"),
        system=told.text("system") if told.has("system") else "",
        rebuild=rebuild.replace("BUNDLE", str(bundle)),
    )


def check_origin(origin: Origin, *, version: str, capability: str | None) -> None:
    """Compare with what is here; `capability` such as "9.0", None if the library checks that.

    Raises:
        EngineIncompatible: another TensorRT, GPU or system; with the command that builds it again.
    """
    here = f"{platform.system()} {platform.machine()}"
    if origin.version and origin.version != version:
        raise origin.refused(f"TensorRT {origin.version} wrote it, and {version} is installed")
    if origin.system and origin.system != here:
        raise origin.refused(f"it is for {origin.system}, and this is {here}")
    known = origin.compute_capabilities
    if capability is not None and known and capability not in known:
        raise origin.refused(
            f"it is for compute capability {', '.join(known)}, and this GPU has {capability}"
        )
