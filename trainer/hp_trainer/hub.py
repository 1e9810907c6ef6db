"""A file of a hub repository, fetched only if the user asks for it."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from hp_sdk.errors import ConfigError, ModelNotFound

SCHEME = "hf:"
DEFAULT_FILE = "model.safetensors"


def locate(name: str, *, download: bool = False) -> Path:
    """A path as it is; `hf:<owner>/<repository>[/<file>]` fetched, or from the hub's own cache.

    Raises:
        ConfigError: downloads are not allowed, the package for them is missing, or no such id.
        ModelNotFound: the hub has no such file, or cannot be reached.
    """
    if not name.startswith(SCHEME):
        return Path(name).expanduser()
    owner, _, rest = name.removeprefix(SCHEME).partition("/")
    repository, _, file = rest.partition("/")
    if not (owner and repository):
        raise ConfigError(f"{name!r} is no hub id; write {SCHEME}<owner>/<repository>[/<file>]")
    if not download or os.environ.get("HP_OFFLINE", "0") not in ("", "0"):
        why = "HP_OFFLINE is set" if download else "foundation.download is not true"
        raise ConfigError(
            f"{name!r} is not downloaded: {why}; allow it, or fetch the file yourself and give "
            "its path"
        )
    return _fetch(f"{owner}/{repository}", file or DEFAULT_FILE)


def _fetch(repository: str, file: str) -> Path:
    try:
        hub = import_module("huggingface_hub")
    except ImportError as exc:
        raise ConfigError(
            f"{SCHEME}{repository} needs a package: pip install huggingface_hub, or fetch the "
            "file yourself and give its path"
        ) from exc
    try:
        return Path(hub.hf_hub_download(repository, file))
    except (OSError, ValueError, RuntimeError) as exc:  # what the package derives its errors from
        raise ModelNotFound(
            f"{file} of {SCHEME}{repository} cannot be fetched ({type(exc).__name__}); check the "
            "id and the connection, or give the path of a file"
        ) from exc
