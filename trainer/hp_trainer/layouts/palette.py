"""Label maps that were saved as pictures: colours back to ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import DataError

Palette: TypeAlias = Sequence[tuple[int, int, int]]

_VOID = (224, 224, 192)  # VOC's colour of ignored pixels
_IGNORE = 255
_NEAR = 16  # distance in RGB that rounding and blending explain


def nearest_ids(
    colours: NDArray[np.uint8], palette: Palette, *, name: str = "picture"
) -> NDArray[np.uint8]:
    """Id of the nearest palette colour, (H, W, 3) RGB → (H, W); VOC's void colour is 255.

    Raises:
        DataError: most of what is painted is no colour of this palette.
    """
    packed = colours.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    shades, where, counts = np.unique(packed, return_inverse=True, return_counts=True)
    rgb = np.stack([shades >> 16, shades >> 8 & 255, shades & 255], axis=1)  # (S, 3)
    table = np.array([*palette, _VOID], np.int32)
    far = np.stack([((rgb - colour) ** 2).sum(axis=1) for colour in table])  # (Z + 1, S)
    painted = far[0] > _NEAR**2
    foreign = painted & (far.min(axis=0) > _NEAR**2)
    if 2 * counts[foreign].sum() > counts[painted].sum():
        example = ", ".join(map(str, rgb[np.argmax(np.where(foreign, counts, 0))]))
        raise DataError(f"{name} is painted in other colours than the palette, such as ({example})")
    ids = np.array([*range(len(palette)), _IGNORE], np.uint8)
    return ids[far.argmin(axis=0)][where.reshape(packed.shape)]
