"""Checkpoints of other projects, opened as if they were ours.

    FILE.pth          SCHP (LIP, ATR, PASCAL-Person-Part)    ─► family "schp"
    FOLDER            SegFormer in Hugging Face's layout     ─► family "segformer"
    anything else     refused by name

Nothing in a file is run: pickles that hold more than tensors are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hp_export.foreign import schp, segformer
from hp_export.foreign.fit import few
from hp_export.foreign.tensors import is_own, named_tensors, read_content
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ModelError
from hp_trainer.checkpoint import Checkpoint, read_checkpoint
from hp_trainer.weight_layouts import OTHER_NETWORKS

SUPPORTED = (
    "hp-export takes checkpoints of hp-train, SCHP checkpoints (LIP, ATR, PASCAL) and folders of "
    "SegFormer with config.json and model.safetensors"
)


def open_checkpoint(path: Path, *, domain: str | None = None) -> Checkpoint:
    """A checkpoint of this project or of another; see `open_foreign`.

    Raises:
        ModelError: missing, damaged, or of an unknown layout.
    """
    return open_foreign(path, domain=domain) or read_checkpoint(path)


def open_foreign(path: Path, *, domain: str | None = None) -> Checkpoint | None:
    """A checkpoint of another project; None if it is one of this project or does not exist.

    Args:
        path: a weight file, or a folder with `config.json`.
        domain: name or file of the label domain; default is what the checkpoint shows.

    Raises:
        CorruptArtifact: the file is damaged or no weight file.
        ModelError: an unsafe format or an unknown layout.
        ConfigError: the domain is unknown or has another number of classes.
    """
    if not path.exists():
        return None
    chosen = None if domain is None else load_domain(domain)
    if path.is_dir():
        return segformer.open_folder(path, chosen)
    content = read_content(path)
    if is_own(content):
        return None
    return _open_file(named_tensors(content), path, chosen)


def _open_file(tensors: Mapping[str, Tensor], path: Path, domain: Domain | None) -> Checkpoint:
    if schp.recognises(tensors):
        return schp.convert(tensors, path, domain)
    if segformer.recognises(tensors):
        raise ModelError(
            f"{path} holds the weights of SegFormer, whose shape and labels lie in config.json "
            "beside them; give the folder"
        )
    raise ModelError(f"{path} {_describe(tensors)}. {SUPPORTED}")


def _describe(tensors: Mapping[str, Tensor]) -> str:
    for other in OTHER_NETWORKS:
        if any(signature in tensors for signature in other.signatures):
            return f"holds {other.name}, which cannot be exported"
    if not tensors:
        return "holds no named tensors"
    return f"holds {len(tensors)} tensors of an unknown layout ({few(list(tensors))})"
