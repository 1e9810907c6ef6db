"""The input sizes that a network takes."""

from __future__ import annotations

from torch import Tensor

from hp_sdk.errors import ConfigError


def check_size(image: Tensor, step: int) -> None:
    """Raise `ConfigError` unless height and width of (N, 3, H, W) are multiples of `step`."""
    h, w = int(image.shape[2]), int(image.shape[3])
    if h % step or w % step or not h or not w:
        legal = [max(step, step * round(size / step)) for size in (h, w)]
        raise ConfigError(
            f"the network takes heights and widths that are multiples of {step}, not {h}x{w}; "
            f"the nearest is {legal[0]}x{legal[1]}"
        )
