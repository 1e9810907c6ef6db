"""One ONNX file, or two where one would be too large for protobuf's two gigabytes."""

from __future__ import annotations

from pathlib import Path

import onnx

from hp_export.weights import save_apart
from hp_sdk.bundle import DataFile
from hp_sdk.files import sha256_of, write_bytes

DATA_LIMIT_BYTES = 1_500_000_000
"""Models above this keep their weights in a second file."""
_LARGE = 1024
"""Tensors of no more bytes stay in the first file."""


def write_model(
    folder: Path, file: str, model: onnx.ModelProto, *, limit_bytes: int = DATA_LIMIT_BYTES
) -> list[DataFile]:
    """Write `model`; the ONNX file first, then the one with its weights if there is one."""
    if model.ByteSize() <= limit_bytes:
        write_bytes(folder / file, model.SerializeToString())
        return [_stored(folder, file)]
    data = f"{file}.data"
    save_apart(model, folder / file, larger_than=_LARGE)
    return [_stored(folder, file), _stored(folder, data)]


def _stored(folder: Path, file: str) -> DataFile:
    path = folder / file
    return DataFile(file=file, sha256=sha256_of(path), size_bytes=path.stat().st_size)
