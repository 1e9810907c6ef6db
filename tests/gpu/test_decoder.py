"""Picture files decoded for the GPU: by a stand-in for nvImageCodec, or by the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from hp_sdk.errors import BackendUnavailable, ConfigError, InputError
from hp_sdk.gpu import nvimgcodec_decoder
from hp_sdk.gpu.decoder import DECODERS, decoded, open_decoder
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.ticket import Ask
from hp_sdk.image import load_image
from tests.gpu.host_engine import PLAIN, OnDevice, assert_same, photo, pipeline_of


def file_of(image: np.ndarray, kind: str = ".jpg") -> bytes:
    return cv2.imencode(kind, image[..., ::-1])[1].tobytes()


class Stream:
    """nvImageCodec's view of a file that has not been decoded."""

    def __init__(self, content: bytes) -> None:
        if b"riddle" in content:
            raise RuntimeError("unsupported code stream")
        self.content = content
        self.num_channels = 4 if b"CMYK" in content else 3
        self.height = self.width = 1 << 15 if b"huge" in content else 64


class Codec:
    """The module nvImageCodec, whose GPU is the host."""

    CodeStream = Stream
    ColorSpec = SimpleNamespace(SRGB="srgb")

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.batches = gpu, []
        self.about: dict[str, Any] = {}

    def DecodeParams(self, *, apply_exif_orientation: bool, color_spec: str) -> Any:
        return (apply_exif_orientation, color_spec)

    def Decoder(self, *, device_id: int, max_num_cpu_threads: int, options: str) -> Any:
        self.about = {"device_id": device_id, "threads": max_num_cpu_threads, "options": options}
        return SimpleNamespace(decode=self._decode)

    def _decode(self, streams: Sequence[Stream], *, params: Any) -> list[Any]:
        assert params == (True, "srgb")
        self.batches.append(len(streams))
        return [
            None
            if b"fails" in stream.content
            else OnDevice(self.gpu, load_image(stream.content), None)
            for stream in streams
        ]


@pytest.fixture
def gpu(fake_cuda: Any) -> Gpu:
    return Gpu(memory="driver")


@pytest.fixture
def codec(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Codec:
    found = Codec(gpu)
    monkeypatch.setattr(nvimgcodec_decoder, "_runtime", lambda: found)
    return found


def remark(content: bytes, text: bytes) -> bytes:
    """The same JPEG with a comment."""
    return content[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + content[2:]


def test_jpeg_files_become_photos_on_the_gpu_in_one_batch(gpu, codec, fake_cuda) -> None:
    files = [file_of(photo(60 + i, 80, seed=i)) for i in range(3)]
    with open_decoder(device=0) as decoder:
        assert decoder.name == "nvimgcodec"
        photos = decoder.decode(files)
    assert codec.batches == [3]
    assert codec.about["device_id"] == 0
    there: list[Any] = [device_photo(each) for each in photos]
    assert [each.size_hw for each in there] == [(60, 80), (61, 80), (62, 80)]
    ups = fake_cuda.fake_copies_up()
    answers = pipeline_of(gpu).parse(there, Ask(heads=("cihp",), tta=PLAIN))
    assert fake_cuda.fake_copies_up() - ups == 2  # the two tables, no photo
    assert_same(answers, [load_image(file) for file in files])


@pytest.mark.parametrize("text", [b"fails", b"riddle", b"CMYK", b"huge"])
def test_what_the_gpu_does_not_decode_the_cpu_does(gpu, codec, text) -> None:
    odd = remark(file_of(photo(40, 30)), text)
    files = [file_of(photo(50, 60)), odd, file_of(photo(20, 30), ".png")]
    with open_decoder("nvimgcodec") as decoder:
        on_gpu, second, third = decoder.decode(files)
    assert device_photo(on_gpu) is not None
    assert np.array_equal(second, load_image(odd))
    assert np.array_equal(third, photo(20, 30))


def test_a_damaged_file_is_the_error_it_is_without_a_gpu(gpu, codec) -> None:
    whole = file_of(photo(50, 60))
    with open_decoder() as decoder:
        with pytest.raises(InputError, match=r"photo 2 of 3: .*truncated JPEG"):
            decoder.decode([whole, whole[: len(whole) // 2], whole])
        with pytest.raises(InputError, match=r"photo 1 of 1: .*text"):
            decoder.decode([b"<no picture at all>"])


def test_without_nvimagecodec_the_cpu_decodes_the_same_photos(fake_cuda, monkeypatch) -> None:
    def missing(_name: str) -> Any:
        raise ModuleNotFoundError("No module named 'nvidia.nvimgcodec'")

    monkeypatch.setattr(nvimgcodec_decoder, "import_module", missing)
    files = [file_of(photo(40, 30, seed=i)) for i in range(5)]
    with open_decoder(threads=2) as decoder:
        assert decoder.name == "cpu"
        for found, file in zip(decoder.decode(files), files, strict=True):
            assert np.array_equal(found, load_image(file))
    with pytest.raises(BackendUnavailable, match="pip install"):
        open_decoder("nvimgcodec")


def test_a_gpu_that_is_not_there_decodes_nothing(codec) -> None:
    with pytest.raises(BackendUnavailable, match="no GPU 3"):
        open_decoder("nvimgcodec", device=3)
    with pytest.raises(ConfigError, match=r"no decoder 'dali'; there are auto, nvimgcodec, cpu"):
        open_decoder("dali")
    assert list(DECODERS)[-1] == "cpu"


def test_files_of_a_stream_are_decoded_batch_by_batch(gpu, codec, tmp_path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(file_of(photo(30, 40)))
    with open_decoder() as decoder:
        photos = list(decoded([path, str(path), path.read_bytes()] * 2, decoder, batch_size=4))
        assert codec.batches == [4, 2]
        assert len(photos) == 6
        with pytest.raises(InputError, match=r"cannot read .*none\.jpg"):
            list(decoded([tmp_path / "none.jpg"], decoder))


def test_the_names_that_are_used_are_nvimagecodecs_own() -> None:
    codec = pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    stream = codec.CodeStream(file_of(photo(50, 60)))
    assert (stream.num_channels, stream.height, stream.width) == (3, 50, 60)
    params = codec.DecodeParams(apply_exif_orientation=True, color_spec=codec.ColorSpec.SRGB)
    assert params.apply_exif_orientation
    for name in ("device_id", "max_num_cpu_threads", "options"):
        assert f"{name}:" in codec.Decoder.__init__.__doc__
    assert hasattr(codec.Image, "__cuda_array_interface__")
