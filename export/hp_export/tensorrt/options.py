"""What is asked of a TensorRT build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hp_sdk.errors import ConfigError

RUNTIMES = ("tensorrt", "tensorrt-rtx")
"""`Artifact.runtime` of an engine, and the name of the format."""

GIB = 1 << 30
_CAPABILITIES = re.compile(r"\d{1,2}\.\d(\+\d{1,2}\.\d)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to build engines; a value that is not allowed raises ConfigError."""

    runtime: str = "tensorrt-rtx"
    batch: tuple[int, int, int] = (1, 8, 16)
    """Smallest, usual and largest batch."""
    compute_capabilities: tuple[str, ...] = ()
    """One engine for each entry; "8.0+8.9" is one engine for two.  Empty is one engine: portable
    with TensorRT-RTX, for the GPU at hand with classic TensorRT."""
    workspace_bytes: int = 4 * GIB
    optimization_level: int | None = None
    """0 (quick to build) to 5 (quick to run); None is the library's default."""
    tf32: bool = False
    """Whether float32 arithmetic may be rounded to TF32; the graph says float32, so normally no."""
    timeout_s: float = 3600.0
    """For one engine."""
    cache_bytes: int = 5 * GIB
    """What the engine cache may hold; 0 keeps nothing."""

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"runtime is {self.runtime!r}; allowed is {' or '.join(RUNTIMES)}")
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise ConfigError(f"batch is {self.batch}; allowed is 1 <= min <= opt <= max")
        if self.workspace_bytes <= 0 or self.timeout_s <= 0 or self.cache_bytes < 0:
            raise ConfigError("workspace_bytes and timeout_s must be above 0, cache_bytes from 0")
        if self.optimization_level not in (None, 0, 1, 2, 3, 4, 5):
            raise ConfigError(f"optimization_level is {self.optimization_level}; allowed is 0 to 5")
        for entry in self.compute_capabilities:
            if not _CAPABILITIES.fullmatch(entry):
                raise ConfigError(f"compute capability is {entry!r}; write it like 8.0 or 8.0+8.9")

    def targets(self) -> tuple[tuple[str, ...], ...]:
        """Compute capabilities of each engine; an empty tuple where none were asked for."""
        return tuple(tuple(e.split("+")) for e in self.compute_capabilities) or ((),)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineOptions:
        """The opposite of `to_dict`, also after a way through JSON.

        Raises:
            ConfigError: a key or value that is not known here.
        """
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        try:
            return cls(**{**values, **lists})
        except TypeError as exc:
            raise ConfigError(f"build options cannot be read: {exc}") from exc
