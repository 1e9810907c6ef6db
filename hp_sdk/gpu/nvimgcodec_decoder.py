"""JPEG files decoded on the GPU: the only file of the package that imports nvImageCodec."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Self

from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu.decoder import HostDecoder
from hp_sdk.gpu.driver import count_gpus
from hp_sdk.image import MAX_PIXELS

_INSTALL = (
    'pip install "hp-sdk[nvimgcodec]" (CUDA 12: nvidia-nvimgcodec-cu12[nvjpeg]), '
    'or take the decoder "cpu"'
)
_JPEG, _END = b"\xff\xd8\xff", b"\xff\xd9"
_CHANNELS = (1, 3)
_OPTIONS = ":fancy_upsampling=1"  # colours between their samples, as the CPU's decoder has them


class NvImageCodecDecoder:
    """Whole JPEG files of one or three channels on the GPU, in one batch; all others on the CPU.

    So a file that is damaged, or that nvImageCodec does not take, ends as it does without a GPU:
    in the same photo or the same error.
    """

    name = "nvimgcodec"

    def __init__(self, codec: Any, index: int, threads: int | None = None) -> None:
        self._codec, self._host = codec, HostDecoder(threads)
        self._decoder: Any = codec.Decoder(
            device_id=index, max_num_cpu_threads=threads or 0, options=_OPTIONS
        )
        self._params = codec.DecodeParams(
            apply_exif_orientation=True, color_spec=codec.ColorSpec.SRGB
        )

    def decode(self, contents: Sequence[bytes]) -> list[Any]:
        """A photo for each file, in order: on the GPU, or an array on the host.

        Raises:
            InputError: a file is no picture; the message says which.
        """
        streams = [self._stream(content) for content in contents]
        taken = [place for place, stream in enumerate(streams) if stream is not None]
        found: list[Any] = [None] * len(contents)
        if taken:
            given = self._decoder.decode([streams[place] for place in taken], params=self._params)
            for place, photo in zip(taken, given, strict=True):
                found[place] = photo if _is_photo(photo) else None
        return self._completed(found, contents)

    def close(self) -> None:
        """Free the decoder; photos that it gave stay."""
        self._decoder = None
        self._host.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _stream(self, content: bytes) -> Any:
        """The file as nvImageCodec reads it; None if it is the CPU's."""
        if not content.startswith(_JPEG) or not content.rstrip(b"\0").endswith(_END):
            return None
        try:
            stream = self._codec.CodeStream(content)
            is_usual = stream.num_channels in _CHANNELS
            return stream if is_usual and stream.height * stream.width <= MAX_PIXELS else None
        except Exception:  # noqa: BLE001 - the CPU says what is wrong with it
            return None

    def _completed(self, found: list[Any], contents: Sequence[bytes]) -> list[Any]:
        rest = [place for place, photo in enumerate(found) if photo is None]
        names = [f"photo {place + 1} of {len(contents)}: " for place in rest]
        photos = self._host.decode([contents[place] for place in rest], names=names)
        for place, photo in zip(rest, photos, strict=True):
            found[place] = photo
        return found


def open_decoder(index: int, threads: int | None) -> NvImageCodecDecoder:
    """The decoder on one GPU.

    Raises:
        BackendUnavailable: it is not installed, or there is no such GPU.
    """
    if index >= count_gpus():
        raise BackendUnavailable(f"nvImageCodec needs an NVIDIA GPU, and there is no GPU {index}")
    return NvImageCodecDecoder(_runtime(), index, threads)


def _runtime() -> Any:
    try:
        return import_module("nvidia.nvimgcodec")
    except ImportError as exc:
        raise BackendUnavailable(f"nvImageCodec is not installed ({exc}); {_INSTALL}") from exc


def _is_photo(found: Any) -> bool:
    """Whether it is one that the fit kernel reads: None is what could not be decoded."""
    about = getattr(found, "__cuda_array_interface__", None)
    return about is not None and about["typestr"] == "|u1" and tuple(about["shape"])[2:] == (3,)
