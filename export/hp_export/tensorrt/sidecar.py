"""What stands beside an engine: `model.engine.json`; the engine itself stays raw."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hp_sdk import __version__
from hp_sdk.errors import SchemaMismatch
from hp_sdk.files import write_bytes
from hp_sdk.manifest import read_json

SCHEMA = "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """Where an engine comes from, and where it runs."""

    file: str
    sha256: str
    size_bytes: int
    runtime: str
    version: str
    """Of TensorRT, all four numbers."""
    compute_capabilities: tuple[str, ...]
    """Empty for a portable engine."""
    gpu: str
    """The GPU it was built on, where that decides; else empty."""
    system: str
    typing: str
    """strong: the types are the graph's; weak: TensorRT 8.6 chose among those the graph allows."""
    tf32: bool
    profile: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Input → min, opt, max → shape."""
    outputs: Mapping[str, Mapping[str, Any]]
    layers: int
    source: Mapping[str, Any]
    """`source.Source.to_dict()` and the file's name: census, opset, sha256 of the ONNX file."""
    options: Mapping[str, Any]
    """`options.EngineOptions.to_dict()`."""
    build_s: float
    built_utc: str
    hp_sdk: str = __version__

    @property
    def rebuild(self) -> str:
        """The command that builds it again from the bundle it came from."""
        batch = ":".join(map(str, self.options["batch"]))
        words = ["python -m hp_export.tensorrt BUNDLE", f"--format {self.runtime}"]
        words += [f"--batch {batch}"]
        if self.compute_capabilities and self.runtime == "tensorrt-rtx":
            words.append(f"--compute-capability {'+'.join(self.compute_capabilities)}")
        return " ".join(words)


def this_system() -> str:
    """Operating system and processor, which an engine is bound to."""
    return f"{platform.system()} {platform.machine()}"


def sidecar_path(engine: Path) -> Path:
    """Where the sidecar of an engine lies."""
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine: Path, sidecar: Sidecar) -> Path:
    """Write it beside the engine; its path."""
    values = {"schema": SCHEMA, **asdict(sidecar), "rebuild": sidecar.rebuild}
    text = json.dumps(values, indent=1, ensure_ascii=False)
    return write_bytes(sidecar_path(engine), f"{text}\n".encode())


def read_sidecar(engine: Path) -> Sidecar | None:
    """The sidecar of an engine, or None if there is none.

    Raises:
        CorruptArtifact: it is not JSON.
        SchemaMismatch: it is of a newer schema, or a key is missing.
    """
    path = sidecar_path(engine)
    if not path.is_file():
        return None
    values = read_json(path)
    schema = str(values.pop("schema", ""))
    values.pop("rebuild", None)
    if schema.split(".")[0] != SCHEMA.split(".")[0]:
        raise SchemaMismatch(
            f"{str(path)!r} has schema {schema!r}; this release reads {SCHEMA.split('.')[0]}.x"
        )
    for key in [key for key, value in values.items() if isinstance(value, list)]:
        values[key] = tuple(values[key])
    try:
        return Sidecar(**values)
    except TypeError as exc:
        raise SchemaMismatch(f"{str(path)!r} cannot be read ({exc}); build it again") from exc
