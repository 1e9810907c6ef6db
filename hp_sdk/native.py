"""The accelerator `hp_sdk._native`, where it was built; elsewhere NumPy and OpenCV do its work.

Built by `make native` in a checkout, it is used without being asked for, and HP_NATIVE=0 leaves it
out.  The answers are the same: what it has no answer for, or another one, it leaves to Python.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
SizeHw: TypeAlias = tuple[int, int]
GivenView: TypeAlias = tuple[NDArray[np.floating[Any]], SizeHw, SizeHw, SizeHw, bool]
"""Scores (K, h, w), then the geometry's source_hw, network_hw, content_hw, then `mirrored`."""

STAMP = 1
"""Raise it with the interface or the arithmetic; a module built for another is left out."""

MOST_THREADS = 8
"""More would take longer to begin than the largest photo takes."""

_log = logging.getLogger(__name__)


class Module(Protocol):
    """What cpp_bindings/python/native.cpp offers; False where nothing was written."""

    STAMP: int

    def label(
        self,
        views: Sequence[GivenView],
        are_logits: bool,  # noqa: FBT001
        threads: int,
        labels: Pixels,
        confidence: Pixels | None,
    ) -> bool:
        """Write labels (H, W), and the winner's probability times 255 if asked for."""
        ...

    def shrink(self, target: Pixels, photo: Pixels, threads: int) -> bool:
        """Write a photo (H, W, 3) to a smaller target (h, w, 3)."""
        ...


@dataclass(frozen=True, slots=True)
class Accelerator:
    """The module, or why there is none."""

    module: Module | None
    state: str
    is_stale: bool = False
    """It is there and cannot be used."""

    @property
    def name(self) -> str:
        """As a receipt names it."""
        return "numpy" if self.module is None else f"native {self.module.STAMP}"


def find_accelerator(
    environ: Mapping[str, str] = os.environ, load: Callable[[str], Any] = import_module
) -> Accelerator:
    """Import the module; one that does not fit is left out with a warning."""
    if environ.get("HP_NATIVE") == "0":
        return Accelerator(None, "left out, as HP_NATIVE=0 says")
    try:
        module = cast("Module", load("hp_sdk._native"))
    except ModuleNotFoundError:
        return Accelerator(None, "not built (make native, in a checkout, builds it)")
    except ImportError as exc:
        return _left_out(f"it cannot be loaded ({exc})")
    if getattr(module, "STAMP", None) != STAMP:
        return _left_out("it was built from other sources")
    return Accelerator(module, "in use")


def accelerator() -> Accelerator:
    """What this process uses."""
    return _accelerator


def label(views: Sequence[GivenView]) -> Pixels | None:
    """Labels (H, W) from all views of one photo; None where NumPy has to make them."""
    module = _accelerator.module
    if module is None:
        return None
    labels = np.empty(views[0][1], np.uint8)
    return labels if module.label(_float32(views), True, _threads(), labels, None) else None


def label_and_confidence(
    views: Sequence[GivenView], *, are_logits: bool
) -> tuple[Pixels, Pixels] | None:
    """Labels and confidence (H, W); None where NumPy has to make them."""
    module = _accelerator.module
    if module is None:
        return None
    both = np.empty(views[0][1], np.uint8), np.empty(views[0][1], np.uint8)
    return both if module.label(_float32(views), are_logits, _threads(), *both) else None


def shrink(target: Pixels, photo: Pixels) -> bool:
    """Average the areas of a photo (H, W, 3) that the pixels of `target` (h, w, 3) cover.

    False where OpenCV has to: sides that shrink by whole numbers are faster there.
    """
    module = _accelerator.module
    if module is None or not photo.flags.c_contiguous:
        return False
    return module.shrink(target, photo, _threads())


def _float32(views: Sequence[GivenView]) -> list[GivenView]:
    return [(np.ascontiguousarray(view[0], np.float32), *view[1:]) for view in views]


def _threads() -> int:
    """As many as OpenCV would take: `cv2.setNumThreads` rules both."""
    return min(cv2.getNumThreads(), MOST_THREADS)


def _left_out(why: str) -> Accelerator:
    state = f"left out: {why}; build it again with make native, or delete hp_sdk/_native.*"
    _log.warning("hp_sdk._native is %s", state)
    return Accelerator(None, state, is_stale=True)


_accelerator = find_accelerator()
