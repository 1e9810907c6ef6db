"""Photos handed over by DLPack, which some libraries have and the CUDA array interface not."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from hp_sdk.errors import InputError
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.dlpack import _Tensor, handed_over
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.ticket import Ask
from tests.gpu.host_engine import PLAIN, assert_same, photo, pipeline_of

CUDA, HOST = 2, 1


class Tensor:
    """An array in "device" memory of a library that speaks only DLPack."""

    def __init__(
        self,
        gpu: Gpu,
        values: np.ndarray,
        *,
        device: int = CUDA,
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> None:
        flat = np.ascontiguousarray(values)
        self.memory = gpu.allocator.allocate(flat.nbytes + offset)
        gpu.open_stream().upload(self.memory.pointer + offset, flat)
        code = {"u": 1, "f": 2}[flat.dtype.kind]
        sides = (ctypes.c_int64 * flat.ndim)(*flat.shape)
        steps = None if strides is None else (ctypes.c_int64 * flat.ndim)(*strides)
        self.device, self.streams = device, []
        self.tensor = _Tensor(
            self.memory.pointer, device, 0, flat.ndim, (code, 8 * flat.itemsize, 1)
        )
        self.tensor.shape = ctypes.cast(sides, ctypes.POINTER(ctypes.c_int64))
        if steps is not None:
            self.tensor.strides = ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64))
        self.tensor.byte_offset = offset
        self.kept = (sides, steps)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


@pytest.fixture
def gpu(fake_cuda: Any) -> Gpu:
    return Gpu(memory="driver")


@pytest.mark.parametrize("offset", [0, 64])
def test_a_photo_comes_by_dlpack_and_never_visits_the_host(gpu, fake_cuda, offset) -> None:
    image = photo(80, 120)
    source = Tensor(gpu, image, offset=offset)
    there = device_photo(source)
    assert there is not None
    assert (there.size_hw, there.strides) == ((80, 120), (360, 3, 1))
    assert source.streams == [1]  # the default stream waits for whoever writes the photo
    ups = fake_cuda.fake_copies_up()
    assert_same(pipeline_of(gpu).parse([there], Ask(heads=("cihp",), tta=PLAIN)), [image])
    assert fake_cuda.fake_copies_up() - ups == 2  # the two tables


def test_strides_of_dlpack_count_values_and_ours_bytes(gpu) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = handed_over(Tensor(gpu, values, strides=(1, 2, 6)))
    assert found is not None
    assert (found.shape, found.strides, found.typestr) == ((2, 3, 4), (4, 8, 24), "<f4")


def test_planes_by_dlpack_are_a_photo_too(gpu) -> None:
    image = photo(80, 120)
    there = device_photo(Tensor(gpu, image.transpose(2, 0, 1)))
    assert there is not None
    assert there.strides == (120, 1, 9600)
    assert_same(pipeline_of(gpu).parse([there], Ask(heads=("cihp",), tta=PLAIN)), [image])


def test_what_lies_on_the_host_is_read_as_always(gpu) -> None:
    assert device_photo(Tensor(gpu, photo(4, 4), device=HOST)) is None
    assert device_photo(np.zeros((4, 4, 3), np.uint8)) is None


def test_what_is_no_photo_or_not_handed_over_is_refused(gpu) -> None:
    with pytest.raises(InputError, match=r"a GPU array is <f4 \(4, 4, 3\)"):
        device_photo(Tensor(gpu, np.zeros((4, 4, 3), np.float32)))
    stubborn: Any = Tensor(gpu, photo(4, 4))
    stubborn.__class__ = type("Stubborn", (Tensor,), {"__dlpack__": _refuse})
    with pytest.raises(InputError, match=r"Stubborn on a GPU does not hand .* requires grad"):
        device_photo(stubborn)


def _refuse(_self: Any, *, stream: Any = None) -> Any:
    raise BufferError("it requires grad")
