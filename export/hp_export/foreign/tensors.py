"""Weight files of others, read without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor

from hp_sdk.errors import CorruptArtifact, ModelError
from hp_trainer.checkpoint import FORMAT
from hp_trainer.weight_files import DAMAGE, WRAPPERS, load_any

PREFIX = "module."
"""Left by training on several devices."""
PICKLE = b"\x80"
"""First byte of Python pickles; torch before 1.6 wrote nothing else."""


def read_content(path: Path) -> Any:
    """What a file of torch (of any version) or safetensors holds.

    Raises:
        CorruptArtifact: the file is damaged or no weight file.
        ModelError: it holds more than tensors and plain values.
    """
    if path.suffix == ".safetensors":
        return load_any(path).tensors
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except pickle.UnpicklingError as exc:
        if _is_pickle(path):
            raise ModelError(_explain_unsafe(path)) from exc
        raise _damaged(path) from exc
    except DAMAGE as exc:
        raise _damaged(path) from exc


def is_own(content: object) -> bool:
    """Whether this project's trainer wrote it."""
    return isinstance(content, Mapping) and content.get("format") == FORMAT


def named_tensors(content: object) -> dict[str, Tensor]:
    """Name → tensor, floating ones in float32, unwrapped and without `module.`."""
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return {
        name.removeprefix(PREFIX): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == PICKLE or is_zipfile(path)


def _damaged(path: Path) -> CorruptArtifact:
    return CorruptArtifact(
        f"{path} is not a checkpoint or is damaged; train, download or copy it again"
    )


def _explain_unsafe(path: Path) -> str:
    return (
        f"{path} is a Python pickle that holds more than tensors, or is damaged: opening it would "
        "run whatever its author put inside. If you trust its origin, load it yourself and save "
        "only the tensors: torch.save(checkpoint['state_dict'], 'tensors.pth')"
    )
