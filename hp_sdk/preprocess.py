"""A photo is fitted into the network's input, and the way back is remembered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hp_sdk import native
from hp_sdk.bundle import InputSpec
from hp_sdk.errors import ConfigError
from hp_sdk.image import Pixels
from hp_sdk.windows import canvas_hw

LARGEST_SCALE = 4.0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the photo lies in the network's input; all sizes (height, width) in pixels.

    The photo fills rows 0..content_h and columns 0..content_w; the rest is padding.  Pixel
    centres lie at .5, so source column x is at (x + 0.5) * scale_x - 0.5 in the network's input.
    Where the photo is larger than the input, `network_hw` is that of a canvas which windows of the
    input's size cover.
    """

    source_hw: tuple[int, int]
    network_hw: tuple[int, int]
    content_hw: tuple[int, int]

    @property
    def scale_yx(self) -> tuple[float, float]:
        """Network pixels per source pixel."""
        return (
            self.content_hw[0] / self.source_hw[0],
            self.content_hw[1] / self.source_hw[1],
        )


def fit(image: Pixels, spec: InputSpec, *, content_scale: float = 1.0) -> tuple[Pixels, Geometry]:
    """The network's input (1, h, w, 3) uint8 RGB for a photo (H, W, 3), and the way back.

    "letterbox" keeps the aspect ratio and pads right and below; "stretch" fills the input;
    "shortest-side" keeps the aspect ratio and covers it.  Where the photo exceeds the input, the
    answer is a canvas that windows of the input's size cover (`hp_sdk.windows`).
    Shrinking averages the covered area (INTER_AREA), enlarging interpolates linearly; both with
    pixel centres at one half.  A photo that already fits is passed on without a copy.

    Args:
        image: photo (H, W, 3) uint8 RGB, C-contiguous.
        spec: size, resize policy and padding of the bundle.
        content_scale: size of the photo, times what the policy says; above 0, up to 4.

    Raises:
        ConfigError: `content_scale` is outside (0, 4].
    """
    geometry = plan(image.shape[:2], spec, content_scale=content_scale)
    if geometry.source_hw == geometry.content_hw == geometry.network_hw:
        return image[np.newaxis], geometry
    canvas = np.empty((1, *geometry.network_hw, 3), np.uint8)
    height, width = geometry.content_hw
    canvas[0, height:] = spec.pad_value
    canvas[0, :height, width:] = spec.pad_value
    _resize_into(canvas[0, :height, :width], image)
    return canvas, geometry


def plan(source_hw: tuple[int, ...], spec: InputSpec, *, content_scale: float = 1.0) -> Geometry:
    """Where a photo of this size will lie; see `fit`."""
    if not 0 < content_scale <= LARGEST_SCALE:
        raise ConfigError(
            f"content scale is {content_scale}; allowed is above 0, up to {LARGEST_SCALE:g}"
        )
    scale_yx = _SCALES[spec.resize](spec, (source_hw[0], source_hw[1]))
    height, width = (
        max(1, round(content_scale * own * scale))
        for own, scale in zip(source_hw, scale_yx, strict=True)
    )
    network_hw = canvas_hw((height, width), spec)
    return Geometry((source_hw[0], source_hw[1]), network_hw, (height, width))


def _stretch(spec: InputSpec, source_hw: tuple[int, int]) -> tuple[float, float]:
    return spec.size_hw[0] / source_hw[0], spec.size_hw[1] / source_hw[1]


def _letterbox(spec: InputSpec, source_hw: tuple[int, int]) -> tuple[float, float]:
    scale = min(_stretch(spec, source_hw))
    return scale, scale


def _shortest_side(spec: InputSpec, source_hw: tuple[int, int]) -> tuple[float, float]:
    longest = spec.longest_px or 4 * max(spec.size_hw)
    scale = min(max(_stretch(spec, source_hw)), longest / max(source_hw))
    return scale, scale


_SCALES = {"stretch": _stretch, "letterbox": _letterbox, "shortest-side": _shortest_side}
"""Resize policy → pixels of the content per pixel of the photo, (y, x)."""


def _resize_into(target: Pixels, image: Pixels) -> None:
    if target.shape == image.shape:
        target[:] = image
        return
    # INTER_AREA turns into something between nearest and linear where a side grows.
    shrinks = target.shape[0] <= image.shape[0] and target.shape[1] <= image.shape[1]
    if shrinks and native.shrink(target, image):
        return
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    height, width = target.shape[:2]
    resized = cv2.resize(image, (width, height), dst=target, interpolation=how)
    if not np.shares_memory(resized, target):
        target[:] = resized
