"""One process at a time: a lock that the operating system releases when its holder dies.

So a lock file that a crash left behind is no lock: nobody holds it, and the next one takes it.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from hp_sdk.errors import ConfigError

_TICK_S = 0.1
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_Descriptor = int

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: _Descriptor) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(descriptor: _Descriptor) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, *, waiting: Callable[[str], object]) -> Generator[None]:
    """Hold the lock file `path` inside the block; wait for it as long as it takes.

    `waiting` is told, again and again, which process holds it.

    Raises:
        ConfigError: the folder cannot be written to, or its file system has no locks.
    """
    while (descriptor := _attempt(path)) is None:
        waiting(_holder(path))
        time.sleep(_TICK_S)
    try:
        yield
    finally:
        _release(path, descriptor)


@contextmanager
def locked_if_free(path: Path) -> Generator[bool]:
    """Whether the lock could be had at once; it is held inside the block if so."""
    descriptor = _attempt(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(path, descriptor)


def _attempt(path: Path) -> _Descriptor | None:
    """The lock, or None while somebody else holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as exc:
        raise ConfigError(f"cannot write {str(path)!r}: {exc.strerror or exc}") from exc
    try:
        _take(descriptor)
    except OSError as exc:
        os.close(descriptor)
        if exc.errno in _BUSY:
            return None
        raise ConfigError(
            f"{str(path)!r} cannot be locked ({exc.strerror}); set HP_HOME to a local folder"
        ) from exc
    if not _is_still(path, descriptor):  # its last holder removed it between open and lock
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()}".encode())
    return descriptor


def _is_still(path: Path, descriptor: _Descriptor) -> bool:
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: _Descriptor) -> None:
    try:
        path.unlink(missing_ok=True)  # while it is held: nobody can have taken it
    except OSError:  # Windows keeps open files; the lock itself ends with the descriptor
        pass
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"
