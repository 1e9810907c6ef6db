"""One ONNX file, or two where one would be too large for protobuf's two gigabytes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from hp_export.observe import copy_of
from hp_sdk.bundle import Bundle
from hp_sdk.errors import ChecksumMismatch, CorruptArtifact
from hp_sdk.files import sha256_of, write_bytes

DATA_LIMIT_BYTES = 1_500_000_000
"""Models above this keep their weights in a second file."""
_LARGE = 1024
"""Tensors of fewer bytes stay in the first file."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a bundle, as its manifest lists it."""

    file: str
    sha256: str
    size_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return asdict(self)


def write_model(
    folder: Path, file: str, model: onnx.ModelProto, *, limit_bytes: int = DATA_LIMIT_BYTES
) -> list[StoredFile]:
    """Write `model`; the ONNX file first, then the one with its weights if there is one."""
    if model.ByteSize() <= limit_bytes:
        write_bytes(folder / file, model.SerializeToString())
        return [_stored(folder, file)]
    data = f"{file}.data"
    onnx.save(  # the call moves the weights out of the model it is given
        copy_of(model),
        folder / file,
        save_as_external_data=True,
        location=data,
        size_threshold=_LARGE,
    )
    return [_stored(folder, file), _stored(folder, data)]


def verify_data_files(bundle: Bundle) -> None:
    """Compare second files with the model card, which lists them.

    Raises:
        CorruptArtifact: a file is missing.
        ChecksumMismatch: a file has another content.
    """
    for entry in bundle.card.get("artifacts", {}).values():
        for stored in entry.get("data", []):
            path = bundle.root / Path(stored["file"]).name
            if not path.is_file():
                raise CorruptArtifact(
                    f"bundle {bundle.name!r} lacks its file {stored['file']!r}; fetch it again"
                )
            if sha256_of(path) != stored["sha256"]:
                raise ChecksumMismatch(f"{str(path)!r} is damaged; fetch the bundle again")


def _stored(folder: Path, file: str) -> StoredFile:
    path = folder / file
    return StoredFile(file, sha256_of(path), path.stat().st_size)
