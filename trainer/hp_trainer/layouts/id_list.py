"""Lists of image ids: always text, because `0000002` and `2` are different files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from hp_sdk.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_COLUMNS = re.compile(r"[\s,;]")


def read_ids(root: Path, split: str) -> list[str]:
    """Ids of `<root>/<split>.txt`, one a line.

    Raises:
        DataError: no such list, or an empty one.
    """
    path = root / f"{split}.txt"
    if not path.is_file():
        lists = ", ".join(sorted(p.stem for p in root.glob("*.txt"))) or "none"
        raise DataError(f"{root} has no list {split}.txt; lists there: {lists}")
    return _filled(path, path.read_text("utf-8").splitlines())


def read_column(path: Path, *, digits: int = 0) -> list[str]:
    """Ids in the first column of a .txt or .csv list, bare or as the path of the image.

    Args:
        path: lines like `0000002`, `"0000002",3` or `/images/0000002.jpg /labels/0000002.png`.
        digits: length of the numeric ids; those that lost leading zeros get them back.

    Raises:
        DataError: the list is empty.
    """
    lines = path.read_text("utf-8-sig").splitlines()
    return [
        name.zfill(digits) if name.isdecimal() else name
        for name in map(_first_id, _filled(path, lines))
    ]


def held_out(ids: Iterable[str], count: int, *, seed: int) -> tuple[str, ...]:
    """`count` ids by chance; the same on every machine and with every version of Python."""

    def lot(name: str) -> bytes:
        return sha256(f"{seed}/{name}".encode()).digest()

    return tuple(sorted(sorted(ids, key=lot)[:count]))


def _first_id(line: str) -> str:
    name = _COLUMNS.split(line, maxsplit=1)[0].strip("\"'").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def _filled(path: Path, lines: Iterable[str]) -> list[str]:
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{path} lists no image")
    return ids
