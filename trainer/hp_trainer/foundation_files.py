"""The files that a foundation section names, each found and read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hp_sdk.errors import ModelNotFound
from hp_sdk.files import sha256_of
from hp_trainer.foundation_config import FoundationConfig
from hp_trainer.hub import locate
from hp_trainer.weight_files import WeightFile, load_any


@dataclass(slots=True)
class FoundationFiles:
    """Access to the files by the key that names them: sam, clip, text, merges."""

    config: FoundationConfig
    opened: dict[Path, WeightFile] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)

    def given(self, key: str) -> bool:
        """Whether the configuration names a file for that key."""
        return bool(getattr(self.config, key))

    def path(self, key: str) -> Path:
        """Where the file is.

        Raises:
            ConfigError: a hub id that may not be fetched.
            ModelNotFound: no such file.
        """
        path = locate(getattr(self.config, key), download=self.config.download)
        if not path.is_file():
            raise ModelNotFound(f"foundation.{key}: there is no file {path}")
        return path

    def read(self, key: str) -> WeightFile:
        """The tensors of the file, without running anything in it.

        Raises:
            ModelError: no weight file, damaged, or a format that can run programs.
        """
        path = self.path(key)
        if path not in self.opened:
            self.opened[path] = load_any(path)
        return self.opened[path]

    def digest(self, key: str) -> str:
        """SHA-256 of the file."""
        path = self.path(key)
        if path not in self.digests:
            self.digests[path] = sha256_of(path)
        return self.digests[path]
