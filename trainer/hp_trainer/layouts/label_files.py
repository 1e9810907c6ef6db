"""Kinds of label files: which of them belong to one photograph, and how their ids are read."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import BackendUnavailable, DataError
from hp_sdk.png import read_labels
from hp_trainer.layouts.palette import Palette, nearest_ids

Ids: TypeAlias = NDArray[np.uint8]

_COLOURED = (2, 6)  # colour types RGB and RGBA in a PNG header


@dataclass(frozen=True, slots=True)
class LabelKind:
    """One way of storing label maps."""

    pattern: str
    """Name of a label file, `{}` is the id of its photograph; shown when one is missing."""
    read: Callable[[Sequence[Path], Palette | None], Ids]
    """All files of one photograph → ids (H, W); a palette allows pictures in its colours."""
    owner: Callable[[str], tuple[str, int]]
    """Name without suffix → (id of the photograph, how many files that one has)."""

    def index(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """File names by photograph; photographs that lack some of their files are left out."""
        suffix = Path(self.pattern).suffix
        found: dict[str, list[str]] = {}
        wanted: dict[str, int] = {}
        for name in sorted(n for n in names if n.endswith(suffix)):
            photo, wanted_files = self.owner(name.removesuffix(suffix))
            found.setdefault(photo, []).append(name)
            wanted[photo] = wanted_files
        return {p: tuple(files) for p, files in found.items() if len(files) == wanted[p]}


def own_name(stem: str) -> tuple[str, int]:
    """`0000002` → one file of the photograph of that name."""
    return stem, 1


def person_of(stem: str) -> tuple[str, int]:
    """`25_03_01` → first of three files of photograph 25."""
    photo, _, rest = stem.partition("_")
    count = rest.partition("_")[0]
    return photo, int(count) if count.isdecimal() else 1


def read_png(paths: Sequence[Path], palette: Palette | None) -> Ids:
    """Ids of a grey or indexed PNG; a coloured one only with a palette.

    Raises:
        InputError: unreadable, or coloured without leave.
    """
    path = paths[0]
    if not _is_coloured(path):
        return read_labels(path)
    if palette is None:
        raise DataError(
            f"{path} is a coloured picture; label maps hold ids (grey or indexed PNG). "
            "decode_colors = true takes the nearest colour of the domain's palette instead"
        )
    return nearest_ids(_colours(path), palette, name=str(path))


def read_persons(paths: Sequence[Path], palette: Palette | None) -> Ids:
    """One file per person, ids in the red channel; later persons are painted over earlier ones.

    Raises:
        InputError: a file is unreadable, or has another size than the first.
    """
    del palette  # the red channel already holds ids
    merged = _red(paths[0])
    for path in paths[1:]:
        person = _red(path)
        if person.shape != merged.shape:
            raise DataError(
                f"{path} is {person.shape[1]}x{person.shape[0]}, "
                f"{paths[0].name} {merged.shape[1]}x{merged.shape[0]}"
            )
        merged = np.where(person > 0, person, merged)
    return merged


def read_mat(paths: Sequence[Path], palette: Palette | None) -> Ids:
    """Variable `groundtruth` of a MATLAB file.

    Raises:
        BackendUnavailable: scipy is not installed.
        DataError: the file is damaged or holds something else.
    """
    del palette
    content = _load_mat(paths[0])
    if "groundtruth" not in content:
        there = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise DataError(f"{paths[0]} has no variable groundtruth; it has {there}")
    ids = np.asarray(content["groundtruth"])
    if ids.ndim != 2 or ids.dtype.kind not in "ui" or ids.size == 0 or ids.max() > 255:
        raise DataError(
            f"groundtruth of {paths[0]} is {ids.dtype} of shape {ids.shape}; "
            "a label map is (H, W) of whole numbers 0..255"
        )
    return ids.astype(np.uint8)


def _load_mat(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as exc:
        raise BackendUnavailable(
            f"{path} is a MATLAB file, which is read with scipy: pip install scipy"
        ) from exc
    # What scipy lets through on damaged files, found by damaging some.
    damage = (OSError, ValueError, TypeError, LookupError, NotImplementedError, zlib.error)
    try:
        return loadmat(path)
    except (*damage, MatReadError) as exc:
        raise DataError(f"{path} cannot be read as a MATLAB file: {exc}") from exc


def _is_coloured(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(26)
    except OSError:
        return False  # whoever reads it will say why
    return header[1:4] == b"PNG" and len(header) == 26 and header[25] in _COLOURED


def _colours(path: Path) -> Ids:
    """Pixels (H, W, 3) RGB."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{path} is a damaged PNG; make it again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _red(path: Path) -> Ids:
    return np.ascontiguousarray(_colours(path)[..., 0]) if _is_coloured(path) else read_labels(path)


PNG = LabelKind("{}.png", read_png, own_name)
MAT = LabelKind("{}.mat", read_mat, own_name)
PERSONS = LabelKind("{}_nn_mm.png", read_persons, person_of)
