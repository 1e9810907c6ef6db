"""How long a video file says it is: MP4 and QuickTime, AVI, Matroska and WebM."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO


def missing_bytes(path: Path) -> int:
    """How much shorter the file is than its own header says; 0 where it does not say."""
    with path.open("rb") as file:
        head = file.read(8)
        file.seek(0)
        try:
            said = next((length(file) for sign, length in _LENGTHS if re.match(sign, head)), 0)
        except struct.error:
            said = 0
    return max(0, said - path.stat().st_size)


def _riff_length(file: BinaryIO) -> int:
    return 8 + struct.unpack("<4xI", file.read(8))[0]


def _mp4_length(file: BinaryIO) -> int:
    """Where the last of the boxes ends: each starts with its length and a name of four letters."""
    end = 0
    while len(head := file.read(16)) >= 8:
        size, kind = struct.unpack_from(">I4s", head)
        if size == 1:
            (size,) = struct.unpack_from(">8xQ", head)
        if size < 8 or not kind.isalpha():
            break
        end += size
        file.seek(end)
    return end


def _matroska_length(file: BinaryIO) -> int:
    """Where the segment ends, which is the element after the header."""
    head = file.read(64)
    at = 4
    at += sum(_vint(head, at))
    at += 4
    width, size = _vint(head, at)
    return 0 if size == 2 ** (7 * width) - 1 else at + width + size  # all ones: not known


def _vint(head: bytes, at: int) -> tuple[int, int]:
    """Width in bytes, and value, of a number whose leading zero bits tell its width."""
    (first,) = struct.unpack_from("B", head, at)
    width = 9 - first.bit_length()
    digits = int.from_bytes(head[at : at + width])
    return width, digits & (2 ** (7 * width) - 1)


_LENGTHS = (
    (rb"RIFF", _riff_length),
    (rb"(?s)....(ftyp|moov|mdat|free|skip|wide)", _mp4_length),
    (rb"\x1a\x45\xdf\xa3", _matroska_length),
)
