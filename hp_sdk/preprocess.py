"""A photo is fitted into the network's input, and the way back is remembered."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hp_sdk.bundle import InputSpec
from hp_sdk.errors import ConfigError
from hp_sdk.image import Pixels


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the photo lies in the network's input; all sizes (height, width) in pixels.

    The photo fills rows 0..content_h and columns 0..content_w; the rest is padding.  Pixel
    centres lie at .5, so source column x is at (x + 0.5) * scale_x - 0.5 in the network's input.
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

    "letterbox" keeps the aspect ratio and pads right and below; "stretch" fills the input.
    Shrinking averages the covered area (INTER_AREA), enlarging interpolates linearly; both with
    pixel centres at one half.  A photo that already fits is passed on without a copy.

    Args:
        image: photo (H, W, 3) uint8 RGB, C-contiguous.
        spec: size, resize policy and padding of the bundle.
        content_scale: part of the input's sides that the photo may fill, above 0 up to 1.

    Raises:
        ConfigError: `content_scale` is outside (0, 1].
    """
    geometry = plan(image.shape[:2], spec, content_scale=content_scale)
    if geometry.source_hw == geometry.content_hw == geometry.network_hw:
        return image[np.newaxis], geometry
    canvas = np.empty((1, *spec.size_hw, 3), np.uint8)
    height, width = geometry.content_hw
    canvas[0, height:] = spec.pad_value
    canvas[0, :height, width:] = spec.pad_value
    _resize_into(canvas[0, :height, :width], image)
    return canvas, geometry


def plan(source_hw: tuple[int, ...], spec: InputSpec, *, content_scale: float = 1.0) -> Geometry:
    """Where a photo of this size will lie; see `fit`."""
    if not 0 < content_scale <= 1:
        raise ConfigError(f"content scale is {content_scale}; allowed is above 0, up to 1")
    scale_yx = [content_scale * net / own for net, own in zip(spec.size_hw, source_hw, strict=True)]
    if spec.resize == "letterbox":
        scale_yx = [min(scale_yx)] * 2
    height, width = (
        min(net, max(1, round(own * scale)))
        for own, scale, net in zip(source_hw, scale_yx, spec.size_hw, strict=True)
    )
    return Geometry((source_hw[0], source_hw[1]), spec.size_hw, (height, width))


def _resize_into(target: Pixels, image: Pixels) -> None:
    if target.shape == image.shape:
        target[:] = image
        return
    # INTER_AREA turns into something between nearest and linear where a side grows.
    shrinks = target.shape[0] <= image.shape[0] and target.shape[1] <= image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    height, width = target.shape[:2]
    resized = cv2.resize(image, (width, height), dst=target, interpolation=how)
    if not np.shares_memory(resized, target):
        target[:] = resized
