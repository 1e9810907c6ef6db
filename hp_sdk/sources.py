"""What a caller names becomes single photos: files, folders, patterns, videos, cameras, URLs."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any
from urllib.parse import unquote

from hp_sdk.errors import InputError
from hp_sdk.image import Color, Pixels, Readable, decode_image, load_image
from hp_sdk.video import Video, open_camera, open_video

PICTURES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"]
    # Nobody's photos are passed over in silence: loading these may say that they cannot be read.
    + [".avif", ".heic", ".heif"]
)
"""Endings that make a file of a folder a photo."""
VIDEOS = frozenset(
    [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"]
)
"""Endings that make a file a video."""

STDIN = "-"
_SHOWN_NAME = 200
URL_BYTES = 64 * 2**20
URL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Item:
    """One photo, not loaded yet.

    `name` says which it is, in messages; `stem` is a file name for what is made of it; `time_ms`
    is when a frame of a video is shown.  Load it once: a stream cannot be read twice.
    """

    name: str
    stem: str
    open: Callable[[], Pixels] = field(repr=False)
    time_ms: float | None = None
    video: Path | None = None
    """A whole video, where videos are not to be taken apart; `load` gives its first frame."""

    def load(self) -> Pixels:
        """The photo as (H, W, 3) uint8 RGB, upright.

        Raises:
            InputError: it cannot be read; the message names it.
        """
        try:
            return self.open()
        except InputError as exc:
            shown = self.name[:_SHOWN_NAME]
            if shown in str(exc):
                raise
            raise InputError(f"{shown}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    color: Color | None = None
    allow_url: bool = False
    stdin: Readable | None = None
    ignore: tuple[str, ...] = ()
    whole_videos: bool = False


def photo(source: Any, *, name: str = "the photo", color: Color | None = None) -> Item:
    """Whatever `load_image` takes, as one item; no folder, pattern or video is looked into."""
    stem = re.sub(r"\W+", "-", name).strip("-")
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        stem = Path(name).stem
    return Item(name, stem, partial(load_image, source, color=color))


def expand(
    source: Any,
    *,
    color: Color | None = None,
    allow_url: bool = False,
    stdin: Readable | None = None,
    ignore: Iterable[str] = (),
    whole_videos: bool = False,
) -> Iterator[Item]:
    """Every photo that `source` stands for, one by one; none is read before `Item.load`.

    * a file: that photo, or every frame of a video (`VIDEOS`);
    * a folder: its own photos (`PICTURES`) in natural order (2 before 10), without hidden files
      and without folders inside; `"folder/**/*.jpg"` goes deep;
    * a pattern such as `"photos/*.png"`, unless a file of that very name exists: every photo and
      video that fits;
    * a number: the frames of that camera, without end;
    * "http://..." or "https://...", if allowed: the picture there, at most `URL_BYTES`;
    * a list, tuple or any other iterable of these, of items, arrays, images, bytes, open files.
      An iterator is asked for its next element only when that is due;
    * anything else `load_image` takes: that photo.

    Inside a list or an iterator, an element that stands for nothing becomes an item whose `load`
    raises, so that the others still finish; a video that breaks off ends with such an item, too.
    Only frames are decoded while you iterate, one after the other: make no list of a video.

    Args:
        source: see above.
        color: channel order of arrays, "rgb" (also if None) or "bgr"; files know their own.
        allow_url: fetch URLs.  Any address this computer can reach is fetched, also inside its own
            network: do not switch it on for names that strangers type.
        stdin: open binary file that "-" stands for; None if "-" is a name like any other.
        ignore: endings of file names that folders and patterns pass over.
        whole_videos: make a video file one item, whose `video` is its path.

    Raises:
        InputError: `source` itself stands for nothing, at once; the message says what was looked
            for.
    """
    options = _Options(
        color=color,
        allow_url=allow_url,
        stdin=stdin,
        ignore=tuple(ignore),
        whole_videos=whole_videos,
    )
    if is_many(source):
        return _each(source, options)
    return _one(source, "the photo", options)


def fetch(url: str, *, timeout_s: float = URL_TIMEOUT_S, max_bytes: int = URL_BYTES) -> bytes:
    """The picture file behind an http or https address.

    Raises:
        InputError: no connection, no answer in time, an error, something that is no picture, or
            more than `max_bytes`; or HP_OFFLINE is set.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request

    if os.environ.get("HP_OFFLINE", "0") not in ("", "0"):
        raise InputError(f"{url} is not fetched: HP_OFFLINE is set; give a file")
    try:
        request = Request(url, headers={"User-Agent": "hp-sdk", "Accept": "image/*"})
        with _browser().open(request, timeout=timeout_s) as answer:
            return _body(answer, url, deadline_s=monotonic() + timeout_s, max_bytes=max_bytes)
    except HTTPError as exc:
        exc.close()
        raise InputError(f"{url} answers {exc.code} {exc.reason}; check the address") from exc
    except InputError:
        raise
    except (OSError, HTTPException, ValueError) as exc:
        reason = getattr(exc, "reason", exc)
        raise InputError(f"{url} cannot be fetched: {reason or type(exc).__name__}") from exc


def is_many(source: Any) -> bool:
    """Whether `source` is a list or another iterable of sources, not one of them."""
    if isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Readable)):
        return False
    return isinstance(source, Iterable) and not hasattr(source, "__array__")


def _each(sources: Iterable[Any], options: _Options) -> Iterator[Item]:
    total = f" of {len(sources)}" if isinstance(sources, (list, tuple)) else ""
    for number, source in enumerate(sources, start=1):
        is_path = isinstance(source, (str, os.PathLike))
        name = os.fsdecode(source) if is_path else f"photo {number}{total}"
        try:
            yield from _one(source, name, options)
        except InputError as exc:
            yield _broken(name, f"photo-{number}", exc)


def _one(source: Any, name: str, options: _Options) -> Iterator[Item]:
    if isinstance(source, Item):
        return iter([source])
    if isinstance(source, Integral) and not isinstance(source, bool):
        return _frames(open_camera(int(source)), f"camera {source}", f"camera-{source}")
    if isinstance(source, (str, os.PathLike)):
        return _named(os.fsdecode(source), options)
    return iter([photo(source, name=name, color=options.color)])


def _named(text: str, options: _Options) -> Iterator[Item]:
    if text == STDIN and options.stdin is not None:
        return iter([Item("<stdin>", "stdin", partial(load_image, options.stdin))])
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        return iter([_remote(text, options)])
    path = Path(text)
    if text and _exists(path):
        return _folder(path, options) if path.is_dir() else _file(path, options)
    if glob.has_magic(text):
        return _pattern(text, options)
    raise InputError(
        f"{text[:_SHOWN_NAME]!r} does not exist; give a photo, a video, a folder or a pattern "
        "such as 'in/*.jpg'"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as exc:  # a name too long, a folder not ours
        text = repr(str(path)[:_SHOWN_NAME])
        raise InputError(f"cannot look for {text}: {exc.strerror or exc}") from exc


def _file(path: Path, options: _Options) -> Iterator[Item]:
    if path.suffix.lower() not in VIDEOS:
        return iter([photo(path)])
    if options.whole_videos:
        return iter([Item(str(path), path.stem, partial(_first_frame, path), video=path)])
    return _frames(open_video(path), str(path), path.stem)


def _first_frame(path: Path) -> Pixels:
    with open_video(path) as video:
        frame = video.read()
    if frame is None:
        raise InputError(f"{str(path)!r} holds no frame that can be decoded; get it again")
    return frame.image


def _folder(folder: Path, options: _Options) -> Iterator[Item]:
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as exc:
        raise InputError(f"cannot list {str(folder)!r}: {exc.strerror or exc}") from exc
    found = _chosen(files, PICTURES, options)
    if not found:
        raise InputError(
            f"folder {str(folder)!r} holds no photo ({_listed(PICTURES)}); folders inside it are "
            f"not searched, {str(folder / '**' / '*')!r} does that"
        )
    return (photo(path) for path in found)


def _pattern(text: str, options: _Options) -> Iterator[Item]:
    # Path.glob takes no absolute pattern.
    matches = [Path(match) for match in glob.glob(text, recursive=True)]  # noqa: PTH207
    found = _chosen(matches, PICTURES | VIDEOS, options)
    if not found:
        count = f"{len(matches)} names, no photo or video" if matches else "nothing"
        raise InputError(f"{text!r} fits {count} ({_listed(PICTURES | VIDEOS)}); check the pattern")
    return _each_file(found, options)


def _each_file(paths: list[Path], options: _Options) -> Iterator[Item]:
    for path in paths:
        try:
            yield from _file(path, options)
        except InputError as exc:
            yield _broken(str(path), path.stem, exc)


def _chosen(paths: list[Path], endings: frozenset[str], options: _Options) -> list[Path]:
    return sorted(
        (
            path
            for path in paths
            if path.suffix.lower() in endings
            and not path.name.lower().endswith(options.ignore)
            and _is_file(path)
        ),
        key=_natural_order,
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return True  # loading it says what is wrong


def _natural_order(path: Path) -> tuple[list[str | int], str]:
    """Numbers in names count as numbers; the name itself decides between "a1" and "A01"."""
    words = re.split(r"([0-9]+)", str(path).lower())
    return [int(word) if i % 2 else word for i, word in enumerate(words)], str(path)


def _listed(endings: frozenset[str]) -> str:
    return ", ".join(sorted(endings))


def _frames(video: Video, name: str, stem: str) -> Iterator[Item]:
    with video:
        while frame := video.read():
            yield Item(
                f"{name} frame {frame.index}",
                f"{stem}-{frame.index:06}",
                partial(_as_is, frame.image),
                frame.time_ms,
            )
        if video.problem:
            yield _broken(name, f"{stem}-end", InputError(video.problem))


def _as_is(image: Pixels) -> Pixels:
    return image


def _broken(name: str, stem: str, error: InputError) -> Item:
    def fail() -> Pixels:
        raise error

    return Item(name, stem, fail)


def _remote(url: str, options: _Options) -> Item:
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url} cannot be fetched; only http and https are known: give a file")
    if not options.allow_url:
        raise InputError(
            f"{url} is an address, and fetching was not allowed; pass allow_url=True, or save the "
            "picture and give the file"
        )
    stem = PurePosixPath(unquote(re.split("[?#]", url)[0])).stem
    return Item(url, re.sub(r"[^\w.-]+", "-", stem) or "photo", lambda: _fetched(url))


def _fetched(url: str) -> Pixels:
    return decode_image(fetch(url), name=url)


def _browser() -> Any:
    """Opens http and https and nothing else, also where a server sends us on to another address."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _body(answer: Any, url: str, *, deadline_s: float, max_bytes: int) -> bytes:
    kind = answer.headers.get_content_type() if "Content-Type" in answer.headers else "image/*"
    if not kind.startswith("image/") and kind not in _UNSPECIFIC:
        raise InputError(
            f"{url} answers with {kind}, not a picture; give the picture's own address"
        )
    said = int(answer.headers.get("Content-Length") or 0)
    _check_length(said, url, max_bytes)
    content = bytearray()
    while chunk := answer.read1(2**16):
        content += chunk
        _check_length(len(content), url, max_bytes)
        if monotonic() > deadline_s:
            raise InputError(f"{url} is too slow; save the picture and give the file")
    if len(content) < said:
        raise InputError(f"{url} breaks off after {len(content)} of {said} bytes; try again")
    return bytes(content)


def _check_length(length: int, url: str, max_bytes: int) -> None:
    if length > max_bytes:
        raise InputError(f"{url} is larger than {max_bytes} bytes; save it and give the file")


_UNSPECIFIC = ("application/octet-stream", "binary/octet-stream")
