"""What TensorRT says: into our log at DEBUG, and its last errors kept for ours."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from hp_sdk.errors import BackendError, DeviceOutOfMemory

_log = logging.getLogger("hp_sdk.tensorrt")
_NO_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "cudaerrormemoryallocation")
_KEPT = 8


def new_log(trt: Any) -> Any:
    """A logger for one runtime, with `failure(what)` to make an error of what went wrong last."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            _log.debug("%s", msg)

        def reason(self) -> str:
            lines = [line.strip() for text in self.errors for line in text.splitlines()]
            return next(filter(None, lines), "TensorRT does not say why")

        def lacks_memory(self) -> bool:
            said = " ".join(self.errors).lower()
            return any(sign in said for sign in _NO_MEMORY)

        def failure(self, what: str) -> BackendError:
            kind = DeviceOutOfMemory if self.lacks_memory() else BackendError
            error = kind(f"{what}: {self.reason()}")
            self.errors.clear()
            return error

    return Log()
