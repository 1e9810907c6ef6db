"""The input sizes that a network takes."""

from __future__ import annotations

from hp_sdk.errors import ConfigError


def check_size(h: int, w: int, step: int = 32) -> None:
    """Raise `ConfigError` unless height and width are multiples of `step`."""
    if h % step or w % step or not h or not w:
        legal = [max(step, step * round(size / step)) for size in (h, w)]
        raise ConfigError(
            f"the network takes heights and widths that are multiples of {step}, not {h}x{w}; "
            f"the nearest is {legal[0]}x{legal[1]}"
        )
