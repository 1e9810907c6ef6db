"""Label maps made visible: flat colours, or tinted over the photo with thin outlines."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]

_VOID = (224, 224, 192)  # VOC's colour of ignored pixels


def paint_labels(labels: Pixels, palette: Palette) -> Pixels:
    """Each id in its colour, (H, W, 3) uint8 RGB."""
    return _lut(palette)[labels]


def blend_labels(photo: Pixels, labels: Pixels, palette: Palette, alpha: float) -> Pixels:
    """The photo with every part tinted, parts outlined dark and the figure light.

    `photo` (H, W, 3) uint8 RGB; `labels` (H, W) uint8; `alpha` in 0..1.  The background stays
    as it is.
    """
    tinted = np.asarray(
        cv2.addWeighted(photo, 1 - alpha, paint_labels(labels, palette), alpha, 0), np.uint8
    )
    parts = labels > 0
    tinted[~parts] = photo[~parts]
    width = max(1, round(max(labels.shape) / 700))
    inner = _edges(labels, width)
    outer = _edges(parts.astype(np.uint8), width)
    out = _draw(tinted, inner, shade=0, strength=0.55 * min(1.0, 2 * alpha))
    return _draw(out, outer, shade=255, strength=0.9 * min(1.0, 2 * alpha))


def _lut(palette: Palette) -> Pixels:
    lut = np.full((256, 3), _VOID, np.uint8)
    lut[: len(palette)] = palette
    return lut


def _edges(labels: Pixels, width: int) -> Pixels:
    """Soft lines (H, W) uint8, about `width` pixels wide, where neighbouring ids differ."""
    edges = np.zeros(labels.shape, np.uint8)
    edges[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    edges[1:][labels[1:] != labels[:-1]] = 255
    if width > 1:
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        edges = np.asarray(cv2.dilate(edges, pen), np.uint8)
    # A slight blur hides the staircase of the label map.
    return np.asarray(cv2.GaussianBlur(edges, (0, 0), 0.6 * width), np.uint8)


def _draw(image: Pixels, lines: Pixels, *, shade: int, strength: float) -> Pixels:
    at = np.nonzero(lines)
    weight = lines[at][:, None] * np.float32(strength / 255)
    drawn = image.copy()
    drawn[at] = (image[at] + (shade - image[at].astype(np.float32)) * weight + 0.5).astype(np.uint8)
    return drawn
