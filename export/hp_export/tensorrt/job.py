"""One engine to be built: its name, its key in the cache, the request to the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hp_export.tensorrt.cache import cache_key
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.sidecar import this_system
from hp_export.tensorrt.source import Source

_KEY_VERSION = 1
"""Counts up when the same options would give another engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """An installed TensorRT, as its own process tells."""

    runtime: str
    version: str
    strongly_typed: bool
    capabilities: tuple[str, ...]
    """That can be asked for; empty where only the GPU at hand counts."""
    gpu: Mapping[str, str]
    """name and capability; empty without a GPU."""


@dataclass(frozen=True, slots=True)
class Job:
    """One engine to be built."""

    onnx_path: Path
    source: Source
    options: EngineOptions
    library: Library
    target: tuple[str, ...]
    """Compute capabilities; empty for a portable engine."""

    @property
    def place(self) -> str:
        """The target in a file name: sm80, sm80-sm89, portable."""
        return "-".join(f"sm{each.replace('.', '')}" for each in self.target) or "portable"

    @property
    def file_name(self) -> str:
        """What is inside, in the name: precision (once), batches, version, target."""
        stem, precision = self.onnx_path.stem, self.source.precision
        told = stem if precision in stem.split(".") else f"{stem}.{precision}"
        batch = "-".join(map(str, self.options.batch))
        version = f"{self.options.runtime}-{self.library.version}"
        return f"{told}.b{batch}.{version}.{self.place}.engine"

    @property
    def key(self) -> str:
        """Of the engine cache."""
        options = self.options
        return cache_key(
            {
                "key": _KEY_VERSION,
                "graph": self.source.graph_sha256,
                "precision": self.source.precision,
                "profile": self.source.profile(options.batch),
                "runtime": options.runtime,
                "version": self.library.version,
                "target": self.target,
                "gpu": self.gpu,
                "system": this_system(),
                "workspace_bytes": options.workspace_bytes,
                "optimization_level": options.optimization_level,
                "tf32": options.tf32,
            }
        )

    @property
    def gpu(self) -> str:
        """The GPU's name where the engine is tuned on it."""
        return "" if self.library.capabilities else self.library.gpu.get("name", "")

    def request(self, engine: Path, timings: Path | None) -> dict[str, Any]:
        """What the worker is asked."""
        asked = () if not self.library.capabilities else self.target
        return {
            "action": "build",
            "runtime": self.options.runtime,
            "onnx": str(self.onnx_path.resolve()),
            "engine": str(engine.resolve()),
            "profile": self.source.profile(self.options.batch),
            "compute_capabilities": list(asked),
            "workspace_bytes": self.options.workspace_bytes,
            "optimization_level": self.options.optimization_level,
            "tf32": self.options.tf32,
            "weak_flags": list(self.source.weak_flags),
            "timing_cache": None if timings is None else str(timings.resolve()),
        }
