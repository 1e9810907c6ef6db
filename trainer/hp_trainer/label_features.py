"""Text features of a label domain, made by CLIP's text encoder and kept in a small file.

    label ─ in each prompt ─ tokens ─ CLIPText ─ length 1 ─┐
                                  mean over the prompts ─◄─┘─ length 1 ─► one row of (Z, D)

A file says which labels and prompts its rows are of, and of which weights they came.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hp_sdk.domains import Domain
from hp_sdk.errors import CorruptArtifact, ModelNotFound
from hp_sdk.files import write_bytes
from hp_sdk.models import home
from hp_trainer.clip_text import CLIPText
from hp_trainer.clip_tokenizer import CLIPTokenizer
from hp_trainer.foundation_config import LABEL
from hp_trainer.weight_files import DAMAGE


@dataclass(frozen=True, slots=True)
class LabelFeatures:
    """One unit vector per class, and what it was made of."""

    names: tuple[str, ...]
    prompts: tuple[str, ...]
    source: str
    """Digest of the text encoder's file and of the merges."""
    features: Tensor
    """(Z, D) float32."""


def spoken(label: str) -> str:
    """A label as it is said: `left-arm` is "left arm"."""
    return label.replace("-", " ").replace("_", " ")


@torch.no_grad()
def embed_labels(
    encoder: CLIPText, tokenizer: CLIPTokenizer, domain: Domain, prompts: Sequence[str]
) -> Tensor:
    """Directions of a domain's labels, (Z, D) of length 1: the mean of those of its prompts."""
    total = torch.zeros(domain.num_classes, encoder.shape.joint)
    for prompt in prompts:
        texts = [prompt.replace(LABEL, spoken(name)) for name in domain.names]
        ids = tokenizer.tokens(texts, encoder.shape.context)
        longest = int(ids.argmax(-1).max()) + 1  # nothing after the end token counts
        total += functional.normalize(encoder(ids[:, :longest]), dim=-1)
    return functional.normalize(total, dim=-1)


def cache_path(domain: Domain, prompts: Sequence[str], source: str) -> Path:
    """Where under `HP_HOME` the features of these labels, prompts and weights are kept."""
    key = hashlib.sha256(json.dumps([domain.names, list(prompts), source]).encode()).hexdigest()
    return home() / "text-features" / f"{domain.name}-{key[:16]}.npz"


def write_features(path: Path, found: LabelFeatures) -> Path:
    """Write whole or not at all.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=found.features.numpy(),
        names=np.array(found.names),
        prompts=np.array(found.prompts),
        source=np.array(found.source),
    )
    return write_bytes(path, buffer.getvalue())


def is_features(path: Path) -> bool:
    """Whether a file looks like one of `write_features`, by its content."""
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return "features.npy" in archive.namelist()


def read_features(path: Path) -> LabelFeatures:
    """Read what `write_features` wrote.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: damaged, or something else.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file of text features {path}")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            found = LabelFeatures(
                names=tuple(content["names"].tolist()),
                prompts=tuple(content["prompts"].tolist()),
                source=str(content["source"]),
                features=torch.from_numpy(content["features"].astype(np.float32)),
            )
        if found.features.shape[:-1] != (len(found.names),):
            raise ValueError(f"{tuple(found.features.shape)} for {len(found.names)} names")
    except DAMAGE as exc:
        raise CorruptArtifact(
            f"{path} cannot be read as text features, it is damaged or something else; make it "
            f"anew from CLIP's text encoder ({type(exc).__name__})"
        ) from exc
    return found
