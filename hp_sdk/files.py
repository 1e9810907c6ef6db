"""Files that appear whole or not at all: written beside the target, then renamed.

A reader never sees half a file, and a failed write leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hp_sdk.errors import ConfigError


def write_bytes(path: Path, content: bytes) -> Path:
    """Write one file; missing parent folders are made.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def write_folder(target: Path, *, marker: str = "bundle.json") -> Iterator[Path]:
    """Yield an empty folder beside `target`; it becomes `target` if the block succeeds.

    An older `target` is replaced only if it is empty or holds the file `marker`, so that a
    mistyped path never deletes somebody's folder.

    Raises:
        ConfigError: `target` is something else, or its parent cannot be written to.
    """
    _refuse_foreign(target, marker)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        )
    except OSError as exc:
        raise _unwritable(target, exc) from exc
    try:
        yield temporary
        _publish(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> Path:
    """Delete a folder so that nobody finds half of it; its path.

    Raises:
        ConfigError: it cannot be deleted.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.old.") as aside:
            path.rename(Path(aside) / path.name)
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise ConfigError(f"cannot delete {str(path)!r}: {reason}; close what uses it") from exc
    return path


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_foreign(target: Path, marker: str) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"{str(target)!r} is a file; give the name of a folder")
    if any(target.iterdir()) and not (target / marker).is_file():
        raise ConfigError(
            f"{str(target)!r} exists and holds no {marker}; give a new or an empty folder"
        )


def _publish(temporary: Path, target: Path) -> None:
    try:
        temporary.chmod(0o777 & ~_umask())
        _swap(temporary, target)
    except OSError as exc:
        raise _unwritable(target, exc) from exc


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    # rename() replaces only an empty folder, so the old one steps aside first.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.old.") as aside:
        old = target.rename(Path(aside) / target.name)
        try:
            temporary.rename(target)
        except OSError:
            old.rename(target)
            raise


def _umask() -> int:
    # mkstemp and mkdtemp are private (0600, 0700); what we publish follows the user's umask.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, exc: OSError) -> ConfigError:
    reason = exc.strerror or str(exc)
    return ConfigError(f"cannot write {str(path)!r}: {reason}; choose a folder you may write to")
