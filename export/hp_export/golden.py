"""The golden sample: a picture and the labels that the network gave; `replay` runs it anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hp_export.agreement import TOLERANCES
from hp_export.probes import figure
from hp_export.verify import Reference
from hp_sdk.files import sha256_of, write_bytes
from hp_sdk.image import Pixels

FILE = "golden/golden.npz"
GOLDEN_AGREEMENT = {name: t.label_agreement for name, t in TOLERANCES.items()} | {"int8": 0.9}
"""Precision → part of the golden labels it must give; int8 is calibrated on photographs, and the
golden picture is drawn."""


def write_golden(
    folder: Path,
    reference: Reference,
    size_hw: tuple[int, int],
    precisions: Sequence[str] = ("fp32",),
) -> dict[str, Any]:
    """Write `golden/golden.npz`: `image` (h, w, 3) and `labels.<head>` (h, w), all uint8.

    Labels are the network's own: its logits resized to the image in torch, then argmax.
    """
    image = figure(size_hw)
    arrays: dict[str, Pixels] = {"image": image}
    for head, logits in reference(image[np.newaxis]).items():
        large = functional.interpolate(
            torch.from_numpy(logits), size=size_hw, mode="bilinear", align_corners=False
        )
        arrays[f"labels.{head}"] = large[0].argmax(0).to(torch.uint8).numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path = write_bytes(folder / FILE, buffer.getvalue())
    return {
        "file": FILE,
        "sha256": sha256_of(path),
        "tolerance_label_agreement": GOLDEN_AGREEMENT[precisions[0]],
        "tolerances": {precision: GOLDEN_AGREEMENT[precision] for precision in precisions},
    }
