"""Human parsing at run time: photo in, label map out.

    from hp_sdk import Parser
    result = Parser.load("cihp").predict("street.jpg")
    result.mask("hair")

Names are loaded when first used, so that the import itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ChecksumMismatch,
    ConfigError,
    CorruptArtifact,
    DataError,
    DeviceOutOfMemory,
    EngineIncompatible,
    ExportError,
    HpError,
    InputError,
    ModelError,
    ModelNotFound,
    ProviderFallback,
    QueueFull,
    SchemaMismatch,
    UnknownHead,
    VerificationFailed,
)

if TYPE_CHECKING:
    from hp_sdk.domains import Domain, domain_names, load_domain
    from hp_sdk.parser import Parser
    from hp_sdk.result import Receipt, Result

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "ChecksumMismatch",
    "ConfigError",
    "CorruptArtifact",
    "DataError",
    "DeviceOutOfMemory",
    "Domain",
    "EngineIncompatible",
    "ExportError",
    "HpError",
    "InputError",
    "ModelError",
    "ModelNotFound",
    "Parser",
    "ProviderFallback",
    "QueueFull",
    "Receipt",
    "Result",
    "SchemaMismatch",
    "UnknownHead",
    "VerificationFailed",
    "domain_names",
    "load_domain",
]

_LAZY = {
    "Domain": "hp_sdk.domains",
    "Parser": "hp_sdk.parser",
    "Receipt": "hp_sdk.result",
    "Result": "hp_sdk.result",
    "domain_names": "hp_sdk.domains",
    "load_domain": "hp_sdk.domains",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hp_sdk' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
