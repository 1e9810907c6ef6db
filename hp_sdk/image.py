"""Any photo a caller may hold becomes (H, W, 3) uint8 RGB, or one clear error."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import ConfigError, InputError

Pixels: TypeAlias = NDArray[np.uint8]
Color: TypeAlias = Literal["rgb", "bgr"]

_SHOWN_BYTES = 4096
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_JPEG, _SCAN, _END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self) -> bytes:
        """The rest of the file."""
        ...


Source: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | Readable | NDArray[Any]
"""One photo; PIL images and anything else with `__array__` count as arrays."""


def load_image(source: Source | Any, *, color: Color | None = None) -> Pixels:
    """One photo as (H, W, 3) uint8 RGB, upright.

    Files and bytes know their own colours, and their EXIF orientation is applied.  Arrays are
    (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); alpha is dropped; uint8, uint16, or float in 0..1.
    An array that is already right is returned as it is, not copied.

    Args:
        source: path, bytes, open file, array, PIL image, or anything with `__array__`.
        color: channel order of an array: "rgb" (also if None) or "bgr", as OpenCV reads photos.

    Raises:
        InputError: no such file, not a picture, truncated, or an array of another shape or type.
        ConfigError: `color` is neither.
    """
    if color not in (None, "rgb", "bgr"):
        raise ConfigError(f"color is {color!r}; allowed are 'rgb' and 'bgr'")
    if isinstance(source, (str, PathLike)):
        path = Path(fspath(cast("str | PathLike[str]", source)))
        return _decode(_read_file(path), name=repr(str(path)))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(bytes(source), name=f"the {len(source)} bytes given")
    if isinstance(source, np.ndarray):
        return _from_array(source, bgr=color == "bgr")
    if _is_pil(source):
        return _from_pil(source)
    if isinstance(source, Readable):
        return _decode(_read_stream(source), name=repr(getattr(source, "name", "the open file")))
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source), bgr=color == "bgr")
    raise InputError(
        f"{type(source).__name__} is not a photo; give a path, bytes, an open binary file, "
        "an array (H, W, 3) or a PIL image"
    )


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise InputError(f"{str(path)!r} does not exist; check the path")
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give one photo, or its files as a list")
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc


def _read_stream(source: Readable) -> bytes:
    content = source.read()
    if not isinstance(content, bytes):
        raise InputError("the open file gives text; open it in binary mode, open(path, 'rb')")
    return content


def _decode(content: bytes, *, name: str) -> Pixels:
    if not content:
        raise InputError(f"{name} is empty (0 bytes); give a JPEG, PNG, WebP, BMP or TIFF picture")
    if _is_cut_jpeg(content):
        # OpenCV would fill the missing part with grey and say nothing.
        raise InputError(f"{name} is a truncated JPEG ({len(content)} bytes); fetch it again")
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise InputError(f"{name} cannot be decoded: {exc.err or exc}") from exc
    if pixels is None:
        raise InputError(
            f"{name} is not a readable picture: {_looks_like(content)}; "
            "give JPEG, PNG, WebP, BMP or TIFF"
        )
    return _rgb(pixels)


def _is_cut_jpeg(content: bytes) -> bool:
    # Inside the scan 0xFF is escaped, so an end marker after the last scan header is the real one.
    return content.startswith(_JPEG) and content.rfind(_END) < content.rfind(_SCAN)


def _looks_like(content: bytes) -> str:
    head = content[:_SHOWN_BYTES]
    if head.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer (run `git lfs pull`)"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "it is HEIC, which OpenCV does not read (convert it to JPEG)"
    if b"\0" not in head and _is_text(head):
        return "it is a text file"
    return f"unknown or damaged format, starting with {content[:8].hex(' ')}"


def _is_text(head: bytes) -> bool:
    # The cut may fall inside a character, so the last three bytes decide nothing.
    try:
        head[:-3].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_pil(source: object) -> bool:
    return type(source).__module__.split(".")[0] == "PIL" and hasattr(source, "convert")


def _from_pil(source: Any) -> Pixels:
    pixels = np.asarray(source.convert("RGB"))
    return np.ascontiguousarray(_upright(pixels, int(source.getexif().get(0x0112, 1))))


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the EXIF orientation 1..8 of a camera."""
    if orientation >= 5:  # rows and columns are swapped
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _from_array(array: NDArray[Any], *, bgr: bool) -> Pixels:
    _check_shape(array.shape)
    pixels = _as_uint8(array)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    pixels = pixels[..., :3]
    return _rgb(np.ascontiguousarray(pixels)) if bgr else np.ascontiguousarray(pixels)


def _check_shape(shape: tuple[int, ...]) -> None:
    if 0 in shape:
        raise InputError(f"array has shape {shape} and holds no pixel; give (H, W, 3)")
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        raise InputError(
            f"array has shape {shape}, which looks channel-first; give (H, W, 3), "
            "for example array.transpose(1, 2, 0)"
        )
    if len(shape) == 4:
        raise InputError(f"array has shape {shape}, which is a batch; give a list of photos")
    raise InputError(f"array has shape {shape}; allowed are (H, W), (H, W, 3) and (H, W, 4)")


def _as_uint8(array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"array is {array.dtype}; give uint8, uint16, or float in 0..1")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise InputError(
            f"array is {array.dtype} with values from {low:g} to {high:g}; "
            "give uint8, or float in 0..1"
        )
    return np.rint(array * 255).astype(np.uint8)


def _rgb(pixels: NDArray[Any]) -> Pixels:
    return cast("Pixels", cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
