"""Picture files become photos: on the GPU where nvImageCodec is installed, else in threads.

    from hp_sdk.gpu.decoder import decoded, open_decoder
    with open_decoder() as decoder, Parser.load("BUNDLE", device="cuda") as parser:
        for result in parser.stream(decoded(files, decoder, batch_size=32), batch_size=32):
            ...

A photo decoded on the GPU enters the fit kernel where it lies; its `Result.image` is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

from hp_sdk.errors import BackendUnavailable, ConfigError, InputError
from hp_sdk.image import Pixels, load_image


class Decoder(Protocol):
    """Decodes picture files, many at once; a `with` statement closes it."""

    name: str

    def decode(self, contents: Sequence[bytes]) -> list[Any]:
        """A photo for each file, in order, upright RGB: an array, or one on the GPU.

        Raises:
            InputError: a file is no picture; the message says which.
        """
        ...

    def close(self) -> None:
        """Free it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class HostDecoder:
    """OpenCV in several threads."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hp-decode")

    def decode(
        self, contents: Sequence[bytes], *, names: Sequence[str] | None = None
    ) -> list[Pixels]:
        """An array (H, W, 3) for each file, in order; `names` begin the messages of errors.

        Raises:
            InputError: a file is no picture; the message says which.
        """
        total = len(contents)
        names = names or [f"photo {number} of {total}: " for number in range(1, total + 1)]
        return list(self._pool.map(_one, contents, names))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_decoder(name: str = "auto", *, device: int = 0, threads: int | None = None) -> Decoder:
    """The first decoder that works, or the one asked for.

    Args:
        name: "auto" or a name of `DECODERS`.
        device: which of the visible GPUs.
        threads: of the decoding that the CPU does; None leaves the choice to Python.

    Raises:
        ConfigError: no such decoder.
        BackendUnavailable: it is not installed, or finds no GPU.
    """
    if name != "auto":
        if name not in DECODERS:
            raise ConfigError(f"no decoder {name!r}; there are auto, {', '.join(DECODERS)}")
        return DECODERS[name](device, threads)
    *others, last = DECODERS.values()
    for opener in others:
        try:
            return opener(device, threads)
        except BackendUnavailable:
            continue
    return last(device, threads)


def decoded(
    sources: Iterable[bytes | str | PathLike[str]], decoder: Decoder, *, batch_size: int = 32
) -> Iterator[Any]:
    """Photos of files (content or path), in order, decoded in batches; for `Parser.stream`.

    Raises:
        InputError: a file cannot be read or is no picture.
    """
    waiting = iter(sources)
    while batch := [_content(source) for source in islice(waiting, batch_size)]:
        yield from decoder.decode(batch)


def _one(content: bytes, name: str) -> Pixels:
    try:
        return load_image(content)
    except InputError as exc:
        raise InputError(f"{name}{exc}") from exc


def _content(source: bytes | str | PathLike[str]) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read {str(source)!r}: {exc.strerror or exc}") from exc


def _open_nvimgcodec(device: int, threads: int | None) -> Decoder:
    return import_module("hp_sdk.gpu.nvimgcodec_decoder").open_decoder(device, threads)


def _open_cpu(device: int, threads: int | None) -> Decoder:
    del device
    return HostDecoder(threads)


Opener: TypeAlias = Callable[[int, int | None], Decoder]
DECODERS: dict[str, Opener] = {"nvimgcodec": _open_nvimgcodec, "cpu": _open_cpu}
"""In the order in which "auto" tries them; the last needs nothing."""
