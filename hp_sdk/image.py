"""Any photo a caller may hold becomes (H, W, 3) uint8 RGB, or one clear error."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.device_array import AnyArray
from hp_sdk.errors import ConfigError, InputError

Pixels: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = Literal["rgb", "bgr"]

MAX_PIXELS = 2**28  # of a picture file: 16,384 x 16,384, 0.8 GB as RGB; OpenCV's own end is 2**30
MAX_BYTES = 2**31 - 1  # of a picture file; OpenCV's decoders count bytes in 32 bits

_Value = TypeVar("_Value")
_CHUNK_BYTES = 2**20
_SHOWN_BYTES, _SHOWN_NAME = 4096, 200
_CHANNELS = (1, 3, 4)
_ORIENTATION, _WIDTH, _HEIGHT = 274, 256, 257  # TIFF tags, also in EXIF


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """The next `size` bytes, or fewer; none at the end."""
        ...


Source: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | Readable | AnyArray
"""One photo; PIL images, torch tensors and anything else with `__array__` count as arrays."""


def load_image(source: Source | Any, *, color: Color | None = None) -> Pixels:
    """One photo as (H, W, 3) uint8 RGB, upright.

    Files and bytes know their own colours, and their EXIF orientation is applied.  Of an animated
    GIF, WebP or PNG the first frame is taken (of a PIL animation, the frame it stands at).  Arrays
    are (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); torch tensors are (C, H, W) too, and so they are
    read where both fit.  Values are uint8, uint16, or float in 0..1.  Alpha is dropped; colours
    behind it stay, except in TIFF, whose decoder has multiplied them by it.
    An array that is already right is returned as it is, not copied.

    Args:
        source: path, bytes, open file, array, tensor, PIL image, or anything with `__array__`.
        color: channel order of an array: "rgb" (also if None) or "bgr", as OpenCV reads photos.

    Raises:
        InputError: no such file, not a picture, truncated, larger than `MAX_PIXELS`, or an array
            of another shape or type.
        ConfigError: `color` is neither.
    """
    if color not in (None, "rgb", "bgr"):
        raise ConfigError(f"color is {color!r}; allowed are 'rgb' and 'bgr'")
    bgr = color == "bgr"
    if isinstance(source, (str, PathLike)):
        return _from_file(fsdecode(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return decode_image(bytes(source), name=f"the content given ({len(source)} bytes)")
    if isinstance(source, np.ndarray):
        return _from_array(source, bgr=bgr)
    if _is_a(source, "PIL.Image", "Image"):
        return _from_pil(source)
    if isinstance(source, Readable):
        name = repr(getattr(source, "name", "the open file"))
        return decode_image(_read_stream(source, name=name), name=name)
    if hasattr(source, "__array__"):
        return _from_array(_as_array(source), what=type(source).__name__, bgr=bgr)
    raise InputError(
        f"{type(source).__name__} is not a photo; give a path, bytes, an open binary file, "
        "an array (H, W, 3), a torch tensor (3, H, W) or a PIL image"
    )


def decode_image(content: bytes, *, name: str) -> Pixels:
    """The picture in the bytes of a file as (H, W, 3) uint8 RGB, upright; `name` is for errors.

    Raises:
        InputError: it is no picture, damaged, truncated or larger than `MAX_PIXELS`.
    """
    if not content:
        raise InputError(f"{name} is empty (0 bytes, or read to its end before); give {_ALLOWED}")
    kind = _format_of(content)
    if kind is None:
        raise InputError(
            f"{name} is not a readable picture: {looks_like(content)}; give {_ALLOWED}"
        )
    _check_pixels(_header_says(kind.size_hw, content), name)
    if kind.is_cut and kind.is_cut(content):
        raise InputError(f"{name} is a truncated {kind.name} ({len(content)} bytes); get it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | kind.flags)
    except (cv2.error, MemoryError) as exc:
        raise InputError(f"{name} cannot be decoded: {getattr(exc, 'err', exc)}") from exc
    if pixels is None:
        raise InputError(
            f"{name} is a damaged {kind.name}, or of a sort that OpenCV {cv2.__version__} does not "
            "read; save it again as JPEG or PNG"
        )
    _check_pixels(pixels.shape[:2], name)
    upright = _upright(_as_uint8(pixels, name), _header_says(kind.orientation, content) or 1)
    return _rgb(np.ascontiguousarray(upright))


def looks_like(head: bytes) -> str:
    """What the first bytes of a file that is no picture say it is: "it is a web page"."""
    head = head[:_SHOWN_BYTES]
    for pattern, what in _STRANGERS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return what
    # The cut may fall inside a character, so the last three bytes decide nothing.
    if b"\0" not in head and len(head.decode("utf-8", "ignore").encode()) >= len(head) - 3:
        return "it is a text file"
    return f"unknown or damaged format, starting with {head[:8].hex(' ')}"


def _from_file(given: str) -> Pixels:
    name = repr(given if len(given) <= _SHOWN_NAME else f"{given[:_SHOWN_NAME]}...")
    try:
        path = Path(given)
        if "\0" not in given and path.is_dir():
            raise InputError(f"{name} is a folder; give one photo, or its files as a list")
        with path.open("rb") as file:
            content = _read_stream(file, name=name)
    except FileNotFoundError as exc:
        raise InputError(f"{name} does not exist; check the path") from exc
    except InputError:
        raise
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read {name}: {getattr(exc, 'strerror', exc) or exc}") from exc
    return decode_image(content, name=name)


def _read_stream(stream: Readable, *, name: str) -> bytes:
    """Everything in the stream, or the first of it where that is no picture."""
    content = bytearray()
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            if not isinstance(chunk, (bytes, bytearray)):
                raise ValueError(f"it gives {type(chunk).__name__}, not bytes")
            content += chunk
            if len(content) > MAX_BYTES:
                raise InputError(f"{name} is longer than {MAX_BYTES} bytes; give one photo")
            if len(content) >= _SHOWN_BYTES and _format_of(content) is None:
                break  # may be a film of many gigabytes
    except InputError:
        raise
    except (OSError, ValueError, TypeError) as exc:
        raise InputError(f"cannot read {name}: {exc}; open it in binary mode, 'rb'") from exc
    return bytes(content)


def _is_a(source: object, module: str, name: str) -> bool:
    """Whether it is of a class of a package that this file must not import."""
    return any((each.__module__, each.__name__) == (module, name) for each in type(source).__mro__)


def _from_pil(source: Any) -> Pixels:
    file = getattr(source, "filename", "")
    name = repr(file) if file else "the PIL image"
    # Pillow clips 16 bits instead of scaling them, and wants alpha kept beside a palette.
    deep = source.mode.startswith(("I", "F"))
    mode = "RGBA" if "transparency" in source.info else "RGB"
    try:
        pixels = np.asarray(source if deep else source.convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError) as exc:
        raise InputError(f"{name} cannot be read by Pillow: {exc}") from exc
    try:
        orientation = int(source.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError, struct.error):
        orientation = 1  # damaged EXIF beside good pixels, as file decoders see it
    return np.ascontiguousarray(_upright(_from_array(pixels, what=name), orientation))


def _as_array(source: Any) -> NDArray[Any]:
    try:
        if not _is_a(source, "torch", "Tensor"):
            return np.asarray(source)
        tensor = source.detach().cpu()
        # numpy has no bfloat16.
        array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (RuntimeError, TypeError, ValueError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InputError(f"{type(source).__name__} does not turn into an array: {reason}") from exc
    channels_first = array.ndim == 3 and array.shape[0] in _CHANNELS
    return array.transpose(1, 2, 0) if channels_first else array  # (H, W, C)


def _from_array(array: NDArray[Any], *, what: str = "array", bgr: bool = False) -> Pixels:
    _check_shape(array.shape, what)
    pixels = _as_uint8(array, what)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    pixels = np.ascontiguousarray(pixels[..., :3])
    return _rgb(pixels) if bgr else pixels


def _check_shape(shape: tuple[int, ...], what: str) -> None:
    given = f"{what} has shape {shape}"
    if 0 in shape:
        raise InputError(f"{given} and holds no pixel; give (H, W, 3)")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS):
        return
    if len(shape) == 3 and shape[0] in _CHANNELS:
        raise InputError(f"{given}, which looks channel-first; give array.transpose(1, 2, 0)")
    if len(shape) == 4:
        raise InputError(f"{given}, which is a batch; give a list of photos")
    raise InputError(f"{given}; allowed are (H, W), (H, W, 3) and (H, W, 4)")


def _as_uint8(array: NDArray[Any], what: str) -> Pixels:
    if array.dtype == np.uint8:
        return array
    if np.issubdtype(array.dtype, np.uint16):  # of either byte order
        to_8_bits = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
        return to_8_bits[array]
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{what} is {array.dtype}; give uint8, uint16, or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise InputError(
            f"{what} is {array.dtype} with values from {low:g} to {high:g}; "
            "give uint8, or float in 0..1"
        )
    return np.rint(array * 255).astype(np.uint8)


def _rgb(pixels: Pixels) -> Pixels:
    return cast("Pixels", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation 1..8 of a camera; any other is none."""
    if orientation in (5, 6, 7, 8):  # rows and columns are swapped
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_pixels(size_hw: tuple[int, ...] | None, name: str) -> None:
    if size_hw and size_hw[0] * size_hw[1] > MAX_PIXELS:
        raise InputError(
            f"{name} has {size_hw[1]} x {size_hw[0]} pixels; at most {MAX_PIXELS} are read: "
            "make it smaller, or give it as an array"
        )


def _format_of(content: bytes | bytearray) -> _Format | None:
    return next((kind for kind in _FORMATS if re.match(kind.signature, content, re.DOTALL)), None)


def _header_says(read: Callable[[bytes], _Value] | None, content: bytes) -> _Value | None:
    """What is to be known before decoding; None if the header does not say, or is damaged."""
    try:
        return read(content) if read else None
    except (struct.error, ValueError, LookupError, OverflowError):
        return None


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Code and place of each marker of the picture itself: not its thumbnail's, nor a trailer's."""
    at = 2
    while found := _JPEG_MARKER.search(content, at):
        yield found[1][0], found.end()
        if found[1] == b"\xd9" or found.end() + 2 > len(content):
            return
        at = found.end() + struct.unpack_from(">H", content, found.end())[0]


def _jpeg_is_cut(content: bytes) -> bool:
    # Older OpenCV fills what is missing with grey and says nothing.
    return all(code != 0xD9 for code, _ in _jpeg_markers(content))


def _jpeg_hw(content: bytes) -> tuple[int, ...]:
    frames = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
    at = next((at for code, at in _jpeg_markers(content) if code in frames), len(content))
    return struct.unpack_from(">HH", content, at + 3)


def _png_is_cut(content: bytes) -> bool:
    # OpenCV would reserve what a chunk claims to hold, up to 4 GB, before it looks for it.
    at = 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        at += 12 + length
        if kind == b"IEND":
            return at > len(content)
    return True


def _webp_is_cut(content: bytes) -> bool:
    return len(content) < 8 + struct.unpack_from("<I", content, 4)[0]


def _webp_hw(content: bytes) -> tuple[int, ...]:
    start, stop, bits, mask, plus = _WEBP_SIZES[content[12:16]]
    size = int.from_bytes(content[start:stop], "little")
    return (size >> bits & mask) + plus, (size & mask) + plus


def _webp_orientation(content: bytes) -> int:
    at = 12
    while content[at : at + 4] != b"EXIF":
        (length,) = struct.unpack_from("<I", content, at + 4)  # runs past the end if there is none
        at += 8 + length + length % 2
    return _tiff_tags(content[at + 8 :].removeprefix(b"Exif\0\0")).get(_ORIENTATION, 1)


def _avif_hw(content: bytes) -> tuple[int, ...]:
    found = re.finditer(rb"ispe....(.{4})(.{4})", content, re.DOTALL)  # of alpha and tiles, too
    return max((int.from_bytes(size[2]), int.from_bytes(size[1])) for size in found)


def _avif_orientation(content: bytes) -> int:
    turn, mirror = (re.search(box + b"(.)", content, re.DOTALL) for box in (b"irot", b"imir"))
    mirrored = (4, 5, 2, 7), (2, 7, 4, 5)  # top to bottom, left to right
    return (mirrored[mirror[1][0] & 1] if mirror else (1, 8, 3, 6))[turn[1][0] & 3 if turn else 0]


def _tiff_hw(content: bytes) -> tuple[int, ...]:
    tags = _tiff_tags(content)
    return tags[_HEIGHT], tags[_WIDTH]


def _tiff_tags(content: bytes) -> dict[int, int]:
    """Whole numbers of the first directory of a TIFF, BigTIFF or EXIF block."""
    order = "<" if content[:2] == b"II" else ">"
    big = b"+" in content[2:4]
    word, first, step, value = ("Q", 8, 20, 12) if big else ("I", 4, 12, 8)
    (start,) = struct.unpack_from(order + word, content, first)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
    entries = range(start + (8 if big else 2), len(content) - step + 1, step)[: min(count, 4096)]
    tags: dict[int, int] = {}
    for at in entries:
        tag, kind = struct.unpack_from(f"{order}HH", content, at)
        tags[tag] = struct.unpack_from(order + _TIFF_TYPES.get(kind, "B"), content, at + value)[0]
    return tags


@dataclass(frozen=True, slots=True)
class _Format:
    """How to know a picture file, and what its header says."""

    name: str
    signature: bytes
    size_hw: Callable[[bytes], tuple[int, ...]]
    is_cut: Callable[[bytes], bool] | None = None
    orientation: Callable[[bytes], int] | None = None  # where OpenCV does not apply it
    flags: int = 0


def _at(place: int, layout: str) -> Callable[[bytes], tuple[int, ...]]:
    """Reader of (width, height) at a fixed place; gives (height, width)."""
    return lambda content: tuple(map(abs, struct.unpack_from(layout, content, place)))[::-1]


_ALLOWED = "a JPEG, PNG, WebP, GIF, BMP or TIFF picture"
_AS_STORED, _DEEP = cv2.IMREAD_IGNORE_ORIENTATION, cv2.IMREAD_ANYDEPTH
_JPEG_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
_TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}
_WEBP_SIZES = {  # first and last byte, bits between width and height, mask, what is left out
    b"VP8 ": (26, 30, 16, 0x3FFF, 0),
    b"VP8L": (21, 25, 14, 0x3FFF, 1),
    b"VP8X": (24, 30, 24, 0xFFFFFF, 1),
}
_FORMATS = (
    _Format("JPEG", rb"\xff\xd8\xff", _jpeg_hw, _jpeg_is_cut),
    _Format("PNG", rb"\x89PNG\r\n\x1a\n", _at(16, ">II"), _png_is_cut, flags=_DEEP),
    _Format("WebP", rb"RIFF....WEBP", _webp_hw, _webp_is_cut, _webp_orientation, _AS_STORED),
    _Format("GIF", rb"GIF8[79]a", _at(6, "<HH")),
    _Format("BMP", rb"BM.{12}\x0c\0\0\0", _at(18, "<HH")),
    _Format("BMP", rb"BM.{12}[\x28\x34\x38\x40\x6c\x7c]\0\0\0", _at(18, "<ii")),
    _Format("TIFF", rb"II[*+]\0|MM\0[*+]", _tiff_hw, flags=_DEEP),
    _Format("AVIF", rb"....ftyp.{0,28}avi[fs]", _avif_hw, None, _avif_orientation, _AS_STORED),
)
_STRANGERS = (
    (rb"version https://git-lfs\.github\.com/spec", "it is a Git LFS pointer (run `git lfs pull`)"),
    (rb"\s*(<!doctype html|<html)", "it is a web page"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "it is HEIC, which OpenCV does not read"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "it is JPEG XL, which OpenCV does not read"),
    (rb"....ftyp|RIFF....AVI |\x1a\x45\xdf\xa3", "it is a video; its frames are photos"),
    (rb"%PDF-", "it is a PDF document"),
    (rb"PK\x03\x04|\x1f\x8b", "it is an archive; unpack it first"),
)
