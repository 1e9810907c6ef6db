"""Tensors of a TorchScript archive, read without running the program in it.

An archive is a zip of `code/` (the program), `data.pkl` (the tree of modules) and `data/<key>` (raw
storages). Only the tree is read, every class in it replaced by a plain dictionary.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Dotted name → tensor, as `state_dict()` of the scripted module would name them."""
    with ZipFile(path) as archive:
        tree = _TreeReader(archive).load()
    return dict(_named_tensors(tree, ""))


class _Module(dict[str, Any]):
    """Stands in for every class of the archive: keeps its attributes, does nothing."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.update(state)


class _TreeReader(pickle.Unpickler):
    """Unpickler that can make dictionaries and tensors and nothing else."""

    def __init__(self, archive: ZipFile) -> None:
        self.archive = archive
        member = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        self.root = member.removesuffix(".pkl")
        super().__init__(io.BytesIO(archive.read(member)))

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module_name == "torch" and global_name in STORAGES:
            return STORAGES[global_name]
        return _Module

    def persistent_load(self, pid: Any, /) -> Tensor:
        _, dtype, key, _, count = pid  # "storage", type, member, device, elements
        data = bytearray(self.archive.read(f"{self.root}/{key}"))
        if not count:  # frombuffer refuses what is empty
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(data, dtype=dtype, count=count)


def _rebuild(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _named_tensors(module: _Module, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in module.items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Module):
            found += _named_tensors(value, f"{prefix}{name}.")
    return found
