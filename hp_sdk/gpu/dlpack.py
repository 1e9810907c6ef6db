"""Arrays on a GPU as they are handed over: by the CUDA array interface, or by DLPack."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hp_sdk.errors import InputError
from hp_sdk.gpu.driver import LEGACY_STREAM

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode, as NumPy writes it


@dataclass(frozen=True, slots=True)
class Handed:
    """Device memory of somebody else; `strides` in bytes."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    typestr: str
    """As NumPy writes it, such as "|u1"."""
    owner: Any
    """Keeps the memory alive."""
    stream: int = LEGACY_STREAM
    """Handle of the stream that writes it."""


def handed_over(source: Any) -> Handed | None:
    """An array that lies on an NVIDIA GPU; None for anything else.

    Raises:
        InputError: it is one, but its library does not hand it over.
    """
    try:
        found: Mapping[str, Any] = source.__cuda_array_interface__
    except (AttributeError, RuntimeError):  # torch raises for tensors on the host
        return _by_dlpack(source)
    shape = tuple(int(side) for side in found["shape"])
    strides = found.get("strides") or _contiguous(shape, int(found["typestr"][2:]))
    return Handed(
        int(found["data"][0]),
        shape,
        tuple(int(stride) for stride in strides),
        str(found["typestr"]),
        source,
        found.get("stream") or LEGACY_STREAM,
    )


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _by_dlpack(source: Any) -> Handed | None:
    if not hasattr(source, "__dlpack_device__"):
        return None
    if int(source.__dlpack_device__()[0]) not in (_CUDA, _CUDA_MANAGED):
        return None
    try:
        capsule = source.__dlpack__(stream=LEGACY_STREAM)  # which then waits for what writes it
        tensor = _tensor_in(capsule)
    except Exception as exc:
        raise InputError(
            f"{type(source).__name__} on a GPU does not hand its memory over by DLPack: {exc}"
        ) from exc
    return _read(tensor, capsule)


def _tensor_in(capsule: Any) -> _Tensor:
    # Not renamed: a capsule that nobody took frees the array when it goes, and so it is the owner.
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return _Tensor.from_address(get(capsule, b"dltensor"))


def _read(tensor: _Tensor, capsule: Any) -> Handed:
    size, lanes = tensor.dtype.bits // 8, tensor.dtype.lanes
    kind = _KINDS.get(tensor.dtype.code, "V") if lanes == 1 else "V"
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = _contiguous(shape, size)
    if tensor.strides:
        strides = tuple(size * tensor.strides[i] for i in range(tensor.ndim))
    pointer = (tensor.data or 0) + tensor.byte_offset
    typestr = f"{'|' if size == 1 else '<'}{kind}{size}"
    return Handed(pointer, shape, strides, typestr, capsule)


def _contiguous(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    strides = [size]
    for side in shape[:0:-1]:
        strides.append(strides[-1] * side)
    return tuple(reversed(strides))
