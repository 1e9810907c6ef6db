"""Scores of a video's frames, steadied over time; a scene cut starts anew.

With s for the steadied scores: s_t = share * s_(t-1) + (1 - share) * logits_t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import ConfigError
from hp_sdk.image import Pixels

Logits: TypeAlias = Mapping[str, Sequence[NDArray[np.floating[Any]]]]
"""Per head the logits (K, h, w) of each view."""

CUT = 30.0
"""Mean difference of two frames, in grey values of 0..255, from which they are two scenes."""
_THUMBNAIL_PX = 32


class Smoother:
    """Mixes the scores of each frame with those before; for one video, in order, one thread.

    Raises:
        ConfigError: `share`, how much of the scores so far stays, is outside 0 to below 1.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:  # also false for NaN
            raise ConfigError(f"smooth is {share}; allowed are 0 (not at all) to below 1")
        self.share = share
        self._last: Logits | None = None
        self._size_hw: tuple[int, ...] = ()
        self._thumbnail: NDArray[np.float32] | None = None

    def __str__(self) -> str:
        return f"scores smoothed over time with share {self.share:g}"

    def smooth(self, image: Pixels, logits: Logits) -> Logits:
        """The steadied logits of the next frame (H, W, 3) uint8 RGB."""
        if self._is_cut(image):
            self._last = None
        if self._last is not None:
            logits = {
                head: [self._mixed(*pair) for pair in zip(self._last[head], now, strict=True)]
                for head, now in logits.items()
            }
        self._last = logits
        return logits

    def _mixed(
        self, last: NDArray[np.floating[Any]], now: NDArray[np.floating[Any]]
    ) -> NDArray[np.float32]:
        mixed = np.float32(self.share) * last + np.float32(1 - self.share) * now
        return np.asarray(mixed, np.float32)

    def _is_cut(self, image: Pixels) -> bool:
        """Whether another scene, or another size, begins; remembers the frame."""
        small = cv2.resize(image, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
        now, last = small.astype(np.float32), self._thumbnail
        resized, self._size_hw = self._size_hw != image.shape[:2], image.shape[:2]
        self._thumbnail = now
        return resized or last is None or float(np.abs(now - last).mean()) > CUT
