"""What can go wrong, as a tree; every class carries the exit code of the commands.

A message is one sentence: what was given, what is allowed, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class HpError(Exception):
    """Root of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(HpError, ValueError):
    """A picture, array or name from the caller is unusable."""

    exit_code: ClassVar[int] = 3


class DataError(InputError):
    """A dataset on disk is incomplete or contradicts itself."""


class ConfigError(HpError, ValueError):
    """An option or a configuration file holds a value that is not allowed."""

    exit_code: ClassVar[int] = 2


class ModelError(HpError):
    """A model is missing or its files are damaged."""

    exit_code: ClassVar[int] = 4


class ModelNotFound(ModelError):
    """No bundle of that name or at that path."""


class ChecksumMismatch(ModelError):
    """A file of the bundle is not the file the manifest describes."""


class CorruptArtifact(ModelError):
    """A file of the bundle cannot be read as what it claims to be."""


class SchemaMismatch(ModelError):
    """The manifest is of a version or shape this release does not read."""


class UnknownHead(ModelError):
    """The bundle has no head of that name."""


class BackendError(HpError):
    """A runtime or its hardware is missing or failed."""

    exit_code: ClassVar[int] = 5


class BackendUnavailable(BackendError):
    """The runtime is not installed, or the device is not there."""


class ProviderFallback(BackendError):
    """The runtime silently chose another device than the one asked for."""


class EngineIncompatible(BackendError):
    """The engine was built for another version or GPU."""


class DeviceOutOfMemory(BackendError):
    """The device has too little free memory for this batch or size."""


class QueueFull(BackendError):
    """Too many photos wait already; try again later, or somewhere else."""


class ExportError(HpError):
    """A checkpoint could not be turned into an artifact."""

    exit_code: ClassVar[int] = 6


class VerificationFailed(ExportError):
    """The artifact's answers differ from the network's."""
