"""The structs of pixels.h and kernels.cu as NumPy types, field for field."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SOURCES = Path(__file__).parent
"""Folder of pixels.h and kernels.cu."""

PHOTO = np.dtype(
    [
        ("data", np.uint64),
        ("row", np.int64),
        ("column", np.int64),
        ("channel", np.int64),
        ("height", np.int32),
        ("width", np.int32),
    ],
    align=True,
)
PLACE = np.dtype([("content_h", np.int32), ("content_w", np.int32), ("pad", np.int32)], align=True)
VIEW = np.dtype(
    [
        ("scores", np.uint64),
        ("order", np.uint64),
        ("plane", np.int64),
        ("rows", np.int32),
        ("columns", np.int32),
        ("stride", np.int32),
        ("content_h", np.int32),
        ("content_w", np.int32),
        ("mirrored", np.int32),
    ],
    align=True,
)
FIT_TASK = np.dtype([("photo", PHOTO), ("place", PLACE)], align=True)
LABEL_TASK = np.dtype(
    [
        ("labels", np.uint64),
        ("confidence", np.uint64),
        ("margin", np.uint64),
        ("height", np.int32),
        ("width", np.int32),
        ("first_view", np.int32),
        ("num_views", np.int32),
        ("num_classes", np.int32),
        ("are_logits", np.int32),
    ],
    align=True,
)
MAX_VIEWS = 16
"""Views of one photo that `label_pixel` takes."""
