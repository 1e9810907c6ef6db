"""Engines that were built before, under `HP_HOME/engines`; the least used go when it is full."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hp_export.tensorrt.lock import locked, locked_if_free
from hp_sdk.errors import ModelError
from hp_sdk.files import sha256_of, write_bytes, write_folder
from hp_sdk.manifest import read_json
from hp_sdk.models import home

ENGINE = "model.engine"
FACTS = "facts.json"

Build = Callable[[Path], dict[str, Any]]
"""Writes the engine to a path; what is known of it."""


@dataclass(frozen=True, slots=True)
class EngineCache:
    """A folder of engines, each under a key that names everything it depends on."""

    root: Path
    limit_bytes: int

    @classmethod
    def at_home(cls, limit_bytes: int) -> EngineCache:
        """The cache under `HP_HOME`."""
        return cls(home() / "engines", limit_bytes)

    def fetch(
        self, key: str, build: Build, *, waiting: Callable[[str], object]
    ) -> tuple[bytes, dict[str, Any], bool]:
        """An engine, what is known of it, and whether it was there already.

        Of several processes that ask for the same key, one builds and the others wait for it.

        Raises:
            ConfigError: the cache cannot be written to.
        """
        with locked(self.root / f"{key}.lock", waiting=waiting):
            if found := self._read(key):
                return *found, True
            facts = self._build(key, build)
            content = (self.root / key / ENGINE).read_bytes()
        self._shrink(keep=key)
        return content, facts, False

    def _read(self, key: str) -> tuple[bytes, dict[str, Any]] | None:
        """An intact entry; a damaged one counts as absent and is built again."""
        folder = self.root / key
        try:
            facts = read_json(folder / FACTS)
            content = (folder / ENGINE).read_bytes()
        except (ModelError, OSError):
            return None
        if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
            return None
        with contextlib.suppress(OSError):
            os.utime(folder / FACTS)  # used now
        return content, facts

    def _build(self, key: str, build: Build) -> dict[str, Any]:
        self._clear(key)
        with write_folder(self.root / key, marker=FACTS) as folder:
            facts = build(folder / ENGINE)
            facts = facts | {"sha256": sha256_of(folder / ENGINE)}
            write_bytes(folder / FACTS, json.dumps(facts, indent=1).encode())
        return facts

    def _clear(self, key: str) -> None:
        """Remove a damaged entry, and what a process left that was killed while it built."""
        for folder in (self.root / key, *self.root.glob(f".{key}.*.tmp")):
            shutil.rmtree(folder, ignore_errors=True)

    def _shrink(self, *, keep: str) -> None:
        """Delete the engines unused for longest until the rest fits; one in use is passed over."""
        entries = [path.parent for path in self.root.glob(f"[!.]*/{FACTS}")]
        sizes = {entry: _size(entry) for entry in entries}
        excess = sum(sizes.values()) - self.limit_bytes
        for entry in sorted(entries, key=_last_use):
            if excess <= 0:
                return
            if entry.name == keep and self.limit_bytes:
                continue
            with locked_if_free(self.root / f"{entry.name}.lock") as free:
                if free:
                    shutil.rmtree(entry, ignore_errors=True)
                    excess -= sizes[entry]


def cache_key(values: Mapping[str, Any]) -> str:
    """A short name for everything that decides about an engine; plain JSON values only."""
    text = json.dumps(dict(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _last_use(folder: Path) -> float:
    with contextlib.suppress(OSError):
        return (folder / FACTS).stat().st_mtime
    return 0.0
