"""Weight files of other projects, opened without running anything that is in them.

first bytes ─► zip with code/ ────► TorchScript ─┐
               zip with data.pkl ─► torch ───────┤
               length and `{` ────► safetensors ─┼─► unwrap ─► prefixes ─► float32 ─► WeightFile
               pickle, tar ─► only with trust ───┘

A pickle is a program: whoever opens one runs what its author wrote.
"""

from __future__ import annotations

import pickle
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from hp_sdk.errors import CorruptArtifact, ModelError, ModelNotFound
from hp_trainer.torchscript import read_torchscript

WRAPPERS = ("state_dict", "model", "blobs")
"""Keys under which projects put the tensors (`blobs` is Caffe2's)."""

PREFIXES = ("module.", "backbone.")
"""Dropped when every name starts with them."""

LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number that files of torch before 1.6 start with."""

NEEDS_TRUST = {
    "torch-legacy": "a file of torch before 1.6, which is a Python pickle",
    "tar": "a tar archive of torch before 0.1.10, which holds Python pickles",
    "pickle": "a Python pickle",
}

NOT_WEIGHTS = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
    b"<": "a web page; the download went wrong, get the file again",
}

DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    BadZipFile,
    struct.error,
    tarfile.TarError,
    zlib.error,
    pickle.UnpicklingError,
)
"""What the readers raise on bytes that are not what they claim to be."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """Named tensors of one file, floating ones in float32, on the CPU."""

    tensors: dict[str, Tensor]
    format: str
    """torch, torchscript, safetensors, torch-legacy, tar or pickle."""
    notes: tuple[str, ...] = ()
    """What was unwrapped, dropped or cast on the way."""


def load_any(path: Path, *, trust: bool = False) -> WeightFile:
    """Read the weights of any common format.

    `trust` permits formats that can run programs while they are opened.

    Raises:
        ModelNotFound: no such file.
        ModelError: the format needs `trust`, or a package that is not installed.
        CorruptArtifact: not a weight file, or damaged.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no weight file {path}")
    kind, content = _read(path, trust=trust)
    notes: list[str] = []
    tensors = _tensors(_unwrap(content, notes), notes)
    if not tensors:
        raise CorruptArtifact(f"{path} holds no named tensors; it is not a weight file")
    return WeightFile(_as_float32(_without_prefixes(tensors, notes), notes), kind, tuple(notes))


def _read(path: Path, *, trust: bool) -> tuple[str, Any]:
    readers = TRUSTED_READERS if trust else READERS
    try:
        kind = _format(path)
        if kind not in readers:
            raise ModelError(_explain_trust(path, NEEDS_TRUST[kind]))
        return kind, readers[kind](path)
    except DAMAGE as exc:
        raise CorruptArtifact(
            f"{path} cannot be read as a weight file, it is damaged or incomplete; download or "
            f"copy it again ({type(exc).__name__})"
        ) from exc


def _explain_trust(path: Path, what: str) -> str:
    return (
        f"{path} is {what}: opening it runs whatever program its author put inside, with your "
        "rights. If you know where it comes from, allow that with trust=True; otherwise use a "
        "safetensors file, or a state_dict written by torch.save of torch 1.6 or newer"
    )


def _format(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PK\x03\x04"):
        return _zip_format(path)
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(LEGACY_TORCH):
        return "torch-legacy"
    if head.startswith((b"\x80", b"(dp")):  # protocol 2 and newer; a dictionary in protocol 0
        return "pickle"
    if head[7:9] == b"\0{":  # eight bytes of length, then JSON
        return "safetensors"
    hint = next((text for start, text in NOT_WEIGHTS.items() if head.startswith(start)), None)
    raise CorruptArtifact(f"{path} is {hint or 'no weight file of a known format'}")


def _zip_format(path: Path) -> str:
    with ZipFile(path) as archive:
        members = [name.partition("/")[2] for name in archive.namelist()]
    if "data.pkl" not in members:
        raise CorruptArtifact(f"{path} is a zip archive without weights (no data.pkl)")
    scripted = "constants.pkl" in members or any(name.startswith("code/") for name in members)
    return "torchscript" if scripted else "torch"


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        if not objects:
            raise
        what = f"a torch file with more than tensors in it ({', '.join(sorted(objects)[:3])})"
        raise ModelError(_explain_trust(path, what)) from exc


def _read_torch_trusted(path: Path) -> Any:
    try:  # most trusted files hold nothing that has to be run
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        return torch.load(path, map_location="cpu", weights_only=False)


def _read_pickle_trusted(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")  # noqa: S301 - the caller trusts the file


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as exc:
        raise ModelError(
            f'{path} needs the package safetensors: pip install "hp-sdk[train]"'
        ) from exc
    try:
        return load_file(path)
    except SafetensorError as exc:
        raise ValueError(str(exc)) from exc


READERS: dict[str, Callable[[Path], Any]] = {
    "torch": _read_torch,
    "torchscript": read_torchscript,
    "safetensors": _read_safetensors,
}
TRUSTED_READERS: dict[str, Callable[[Path], Any]] = READERS | {
    "torch": _read_torch_trusted,
    "torch-legacy": _read_torch_trusted,
    "tar": _read_torch_trusted,
    "pickle": _read_pickle_trusted,
}


def _unwrap(content: Any, notes: list[str]) -> Mapping[Any, Any]:
    while isinstance(content, Mapping):
        key = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if key is None:
            return content
        notes.append(f"tensors under {key!r}")
        content = content[key]
    return {}


def _tensors(content: Mapping[Any, Any], notes: list[str]) -> dict[str, Tensor]:
    converted = {str(name): _tensor(value) for name, value in content.items()}
    tensors = {name: tensor for name, tensor in converted.items() if tensor is not None}
    if others := len(content) - len(tensors):
        notes.append(f"{others} entries that are no tensors left out")
    return tensors


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        return torch.tensor(value.astype(value.dtype.newbyteorder("=")))
    return None


def _without_prefixes(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            notes.append(f"prefix {prefix!r} dropped")
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _as_float32(tensors: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    others = Counter(
        str(tensor.dtype).removeprefix("torch.")
        for tensor in tensors.values()
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    )
    notes += [f"{count} tensors cast from {dtype} to float32" for dtype, count in others.items()]
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
