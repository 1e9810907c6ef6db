"""Photographs from a folder, fitted as the product fits them: for calibration and for judging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hp_sdk.bundle import InputSpec
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.image import Pixels, load_image
from hp_sdk.preprocess import fit

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FEWEST = 4
MOST = 64


@dataclass(frozen=True, slots=True)
class Photos:
    """Network inputs (N, h, w, 3); what one half decides is judged on the other."""

    calibration: Pixels
    held_out: Pixels


def read_photos(folder: Path, spec: InputSpec, *, most: int = MOST) -> Photos:
    """Up to `most` photographs spread evenly over the sorted names below `folder`.

    Raises:
        ConfigError: no such folder, or too few pictures in it.
        InputError: a picture cannot be read.
    """
    files = list_photos(folder)
    count = min(len(files), most)
    chosen = [files[k * len(files) // count] for k in range(count)]
    images = np.stack([_network_input(path, spec) for path in chosen])
    return Photos(images[0::2], images[1::2])


def list_photos(folder: Path) -> list[Path]:
    """The pictures below `folder`, sorted.

    Raises:
        ConfigError: no such folder, or too few pictures in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"--calib {str(folder)!r} is no folder; give one of photographs")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(files) < FEWEST:
        raise ConfigError(
            f"--calib {str(folder)!r} holds {len(files)} pictures; int8 needs at least {FEWEST}, "
            f"better {MOST}, like those the model will see"
        )
    return files


def _network_input(path: Path, spec: InputSpec) -> Pixels:
    try:
        image = load_image(path)
    except InputError as exc:
        raise InputError(f"calibration picture: {exc}") from exc
    height, width = spec.size_hw
    return fit(image, spec)[0][0, :height, :width]
