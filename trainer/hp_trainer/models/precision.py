"""Where half precision would lose what matters: sampling positions, cosines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Computation on `like`'s device keeps the types it is given; shapes-only runs have none."""
    if like.is_meta:
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)
