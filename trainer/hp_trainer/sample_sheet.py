"""Photographs, truth and predictions side by side: what scores do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hp_sdk.files import write_bytes
from hp_sdk.overlay import paint_labels
from hp_trainer.config import EvalConfig
from hp_trainer.evaluate import Predictor, labelled_domain, open_list

TILE_PX = 192
GAP_PX = 4


def write_sample_sheet(path: Path, predict: Predictor, entry: EvalConfig, count: int) -> Path:
    """Write a PNG with one row per photograph: photo, truth, prediction, each 192 px high.

    The first `count` images of the list, so that sheets of one run can be compared.
    """
    photos, rng = open_list(entry), np.random.default_rng(0)
    palette = labelled_domain(photos).palette
    rows = []
    for index in range(min(count, len(photos))):
        image, labels = photos.load(index, rng)
        maps = (next(iter(labels.values())), predict(image))
        rows.append([image, *(paint_labels(labels, palette) for labels in maps)])
    sheet = stack_rows([[_tile(picture) for picture in row] for row in rows])
    done, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert done
    write_bytes(path, png.tobytes())
    return path


def _tile(picture: np.ndarray) -> np.ndarray:
    """The picture inside a white square."""
    scale = TILE_PX / max(picture.shape[:2])
    h, w = (max(1, round(side * scale)) for side in picture.shape[:2])
    small = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA)
    tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    top, left = (TILE_PX - h) // 2, (TILE_PX - w) // 2
    tile[top : top + h, left : left + w] = small
    return tile


def stack_rows(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Equal tiles (h, w, 3) as one picture with white gaps."""
    padded = [
        [np.pad(t, ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255) for t in row]
        for row in rows
    ]
    return np.concatenate([np.concatenate(row, 1) for row in padded], 0)
