"""Learned positions on another grid than the one they were trained on.

The stored tables never change; a copy of the size in use is made where it is needed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

INTERPOLATIONS = ("bicubic", "bilinear")


def resize_positions(table: Tensor, grid_hw: tuple[int, int], mode: str) -> Tensor:
    """Absolute positions (1, a, b, D) → (1, *grid_hw, D); the very same tensor if it fits.

    Half-pixel centres, no antialias: with it, PyTorch changes the bicubic kernel.
    """
    if table.shape[1:3] == grid_hw:
        return table
    planes = table.permute(0, 3, 1, 2)
    resized = functional.interpolate(planes, size=grid_hw, mode=mode, align_corners=False)
    return resized.permute(0, 2, 3, 1)


def gather_relative(table: Tensor, size: int) -> Tensor:
    """Relative positions (2s-1, d) → one vector per (query, key) of a line, (size, size, d).

    A table of another length is interpolated first. A table that is gathered already (three axes)
    is returned as it is.
    """
    if table.ndim == 3:
        return table
    if len(table) != 2 * size - 1:
        line = table.T[None]  # (1, d, 2s-1)
        table = functional.interpolate(line, size=2 * size - 1, mode="linear")[0].T
    index = torch.as_tensor(_offsets(size), device=table.device)
    return table.index_select(0, index).reshape(size, size, -1)


@cache
def _offsets(size: int) -> np.ndarray:
    """Row of the table for every (query, key), flattened (size²,): key 0 is farthest behind."""
    line = np.arange(size)
    return (line[:, None] - line[None, :] + size - 1).reshape(-1)
