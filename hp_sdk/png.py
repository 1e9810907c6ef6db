"""Label maps as PNG files: one byte a pixel, the id, with a palette so that viewers show colours.

OpenCV can neither write a palette nor read the ids behind one (it answers with colours), so the
palette is put in and taken out here, and OpenCV sees a grey picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.domain_file import VOID
from hp_sdk.errors import InputError
from hp_sdk.files import write_bytes

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _INDEXED = 0, 3
_COLOURS = ("grey", "", "RGB", "indexed", "grey with alpha", "", "RGBA")


def write_labels(
    path: str | Path, labels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]
) -> Path:
    """Write ids (H, W) uint8 as an indexed PNG; `palette` holds one RGB colour per id.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    height, width = labels.shape
    rows = np.zeros((height, width + 1), np.uint8)  # each row starts with its filter, 0 = none
    rows[:, 1:] = labels
    # Ids beyond the palette would make the file invalid.
    count = max(len(palette), int(labels.max()) + 1)
    colours = [*palette, *[VOID] * (count - len(palette))]
    content = (
        _SIGNATURE
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, _INDEXED, 0, 0, 0))
        + _chunk(b"PLTE", np.array(colours, np.uint8).tobytes())
        + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + _chunk(b"IEND", b"")
    )
    return write_bytes(Path(path), content)


def read_labels(path: str | Path) -> NDArray[np.uint8]:
    """The ids (H, W) uint8 of an indexed or grey PNG; the palette is ignored.

    Raises:
        InputError: the file is missing, damaged or holds colours instead of ids.
    """
    try:
        content = Path(path).read_bytes()
        depth, colour = _header(content)
        grey = b"".join(_as_grey(kind, body) for kind, body in _chunks(content))
    except (OSError, ValueError, struct.error) as exc:
        raise InputError(f"cannot read {str(path)!r} as a label PNG: {exc}") from exc
    if colour not in (_GREY, _INDEXED) or depth > 8:
        raise InputError(
            f"{str(path)!r} is a {depth}-bit {_COLOURS[colour]} PNG; "
            "label maps are indexed or grey, 8 bits at most: save the ids, not colours"
        )
    image = cv2.imdecode(np.frombuffer(_SIGNATURE + grey, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2:
        raise InputError(f"{str(path)!r} is a damaged PNG; make it again")
    # The decoder spreads 1, 2 and 4 bit greys over 0..255.
    return (image // (255 // (2**depth - 1))).astype(np.uint8)


def _header(content: bytes) -> tuple[int, int]:
    if not content:
        raise ValueError("the file is empty")
    if not content.startswith(_SIGNATURE):
        raise ValueError("it is not a PNG")
    depth, colour = struct.unpack(">BB", content[24:26])
    if colour >= len(_COLOURS) or depth not in (1, 2, 4, 8, 16):
        raise ValueError("the header is damaged")
    return depth, colour


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError("the file is truncated")
        yield kind, body
        if kind == b"IEND":
            return
        at += 12 + size
    raise ValueError("the file is truncated")


def _as_grey(kind: bytes, body: bytes) -> bytes:
    """The chunk of the same picture without its palette; ids and greys are stored alike."""
    if kind == b"IHDR":
        return _chunk(kind, body[:9] + bytes([_GREY]) + body[10:])
    return _chunk(kind, body) if kind in (b"IDAT", b"IEND") else b""


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
