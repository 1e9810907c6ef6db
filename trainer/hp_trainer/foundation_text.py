"""Where SCHNet's text features come from: a file, CLIP's text encoder, or the network as it is."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError
from hp_trainer.clip_text import CLIPText, text_shape
from hp_trainer.clip_tokenizer import read_tokenizer
from hp_trainer.foundation_files import FoundationFiles
from hp_trainer.foundation_layouts import PARTS, has_part, take_part
from hp_trainer.label_features import (
    LabelFeatures,
    cache_path,
    embed_labels,
    is_features,
    read_features,
    write_features,
)
from hp_trainer.models.schnet.text import TextFeatures
from hp_trainer.weights import ImportReport, plan_part

MERGES = (
    "bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP (the package open_clip_torch has it too), or "
    "merges.txt of a Hugging Face CLIP"
)
REMEDY = (
    f"set foundation.merges ({MERGES}), and foundation.text too if foundation.clip has no text "
    "encoder; or give text features made before as foundation.text (.npz, they lie under HP_HOME); "
    "or start from a checkpoint that holds them"
)

Found = tuple[Tensor | None, list[str]]
"""Features (Z, D), None to leave the network's; and what to report."""


def find_features(
    text: TextFeatures, files: FoundationFiles, domain: Domain, *, partial: bool = False
) -> Found:
    """Text features of one domain for a network, and the account of them.

    With `partial` a checkpoint may still bring what no file is named for.

    Raises:
        ConfigError: there is no source of them, or it is of other labels, prompts or sizes.
        ModelError: a file is missing, damaged or something else.
    """
    if domain.name not in text.names:
        raise ConfigError(
            f"text features for domain {domain.name!r}; the network has {', '.join(text.names)}"
        )
    if not (files.given("text") or files.given("merges")):
        return None, [_line(domain, _left(text, domain, partial=partial))]
    if files.given("text") and is_features(files.path("text")):
        found, lines = _from_file(files, domain)
    else:
        found, lines = _from_encoder(files, domain)
    if found.features.shape != text[domain.name].shape:
        raise ConfigError(
            f"the text features are {found.features.shape[1]} wide and the network's joint space "
            f"has {text.width} dimensions; take image and text encoder of the same CLIP, and fit "
            "model.text_width to it"
        )
    return found.features, lines


def _left(text: TextFeatures, domain: Domain, *, partial: bool) -> str:
    if bool(text[domain.name].any(-1).all()):
        return "kept, the network has them"
    if partial:
        return "none yet, a checkpoint must bring them"
    raise ConfigError(f"domain {domain.name!r} has no text features; {REMEDY}")


def _from_file(files: FoundationFiles, domain: Domain) -> tuple[LabelFeatures, list[str]]:
    path, prompts = files.path("text"), files.config.prompts
    found = read_features(path)
    _refuse_other_labels(found, domain, str(path))
    if found.prompts != prompts:
        raise ConfigError(
            f"{path} was made with the prompts {list(found.prompts)}, foundation.prompt is "
            f"{list(prompts)}; set foundation.prompt to the former, or give CLIP's text encoder"
        )
    return found, [_line(domain, f"{path.name} ({_counts(found)})")]


def _refuse_other_labels(found: LabelFeatures, domain: Domain, path: str) -> None:
    if found.names != domain.names:
        other = next((n for n in domain.names if n not in found.names), "their order")
        raise ConfigError(
            f"{path} holds text features of {len(found.names)} labels, domain {domain.name!r} has "
            f"{len(domain.names)} (first difference: {other}); give the file made for this domain, "
            "or CLIP's text encoder"
        )


def _from_encoder(files: FoundationFiles, domain: Domain) -> tuple[LabelFeatures, list[str]]:
    key, prompts = _encoder_key(files), files.config.prompts
    source = f"{files.digest(key)} {files.digest('merges')}"
    path = cache_path(domain, prompts, source)
    found, lines = _cached(path, domain), []
    told = f"from {path}"
    if found is None:
        features, lines = _embed(files, key, domain)
        found = LabelFeatures(domain.names, prompts, source, features)
        told = _keep(path, found)
    return found, [*lines, _line(domain, f"{_counts(found)}, {told}")]


def _encoder_key(files: FoundationFiles) -> str:
    if not files.given("merges"):
        raise ConfigError(
            "foundation.text names a text encoder, and foundation.merges, which its tokens are "
            f"made with, is empty; give {MERGES}"
        )
    key = "text" if files.given("text") else "clip"
    if not files.given(key):
        raise ConfigError(
            "foundation.merges is given and no text encoder; name its file as foundation.text"
        )
    if key == "clip" and not has_part(files.read(key).tensors, "text"):
        raise ModelError(
            f"{files.path(key)} has an image encoder and no text encoder; name a file with "
            f"{PARTS['text'].accepted} as foundation.text"
        )
    return key


def _embed(files: FoundationFiles, key: str, domain: Domain) -> tuple[Tensor, list[str]]:
    encoder, report = build_text_encoder(files, key)
    tokenizer = read_tokenizer(files.path("merges"), encoder.shape.vocabulary)
    return embed_labels(encoder, tokenizer, domain, files.config.prompts), str(report).splitlines()


def build_text_encoder(files: FoundationFiles, key: str) -> tuple[CLIPText, ImportReport]:
    """CLIP's text encoder with the weights of the file named by `key`.

    Raises:
        ModelError: there is none in the file, or its tensors do not fit together.
    """
    weights, part = take_part(files.read(key).tensors, "text"), PARTS["text"]
    with torch.device("meta"):  # random weights would cost time, and the run its random numbers
        encoder = CLIPText(text_shape(weights.tensors)).requires_grad_(False)
    plan = plan_part(part.title, weights.layout, encoder, weights.tensors, str, part.droppable)
    encoder.load_state_dict({k: v.float() for k, v in plan.values.items()}, assign=True)
    return encoder.eval(), plan.report


def _cached(path: Path, domain: Domain) -> LabelFeatures | None:
    """What is kept there; None where nothing usable is, and it is made anew."""
    if not path.is_file():
        return None
    try:
        found = read_features(path)
        _refuse_other_labels(found, domain, str(path))
    except (CorruptArtifact, ConfigError):
        return None
    return found


def _keep(path: Path, found: LabelFeatures) -> str:
    try:
        return f"kept in {write_features(path, found)}"
    except ConfigError as exc:
        return f"not kept for the next time: {exc}"


def _counts(found: LabelFeatures) -> str:
    return f"{len(found.names)} labels, {len(found.prompts)} prompts"


def _line(domain: Domain, told: str) -> str:
    return f"{'text':<12}  {domain.name}: {told}"
