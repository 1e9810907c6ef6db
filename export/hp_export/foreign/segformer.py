"""A folder of SegFormer in Hugging Face's layout.

    config.json                  shape, id2label
    model.safetensors            or pytorch_model.bin
    preprocessor_config.json     size, mean, std; ImageNet's at 512x512 if it is not there

Names of tensors are those on disk, which every version of `transformers` writes and reads, so the
package itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hp_export.foreign.fit import check_classes, renamed, require_fit
from hp_export.foreign.tensors import named_tensors, read_content
from hp_sdk.domain_file import kebab
from hp_sdk.domains import Domain, domain_names, load_domain
from hp_sdk.errors import ConfigError, CorruptArtifact, InputError, ModelError
from hp_sdk.manifest import read_json
from hp_trainer.checkpoint import Checkpoint, input_description
from hp_trainer.models.segformer import SegFormer, SegFormerConfig

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ARCHITECTURE = "SegformerForSemanticSegmentation"
REQUIRED = {"hidden_act": "gelu", "num_channels": 3}
"""Settings of config.json that this network has built in."""
SIDE = 512
"""Of the input, where no preprocessor_config.json says another."""

RENAMES = (
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", r"stages.\1.embed."),
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stages.\1.embed_norm."),
    (r"^segformer\.encoder\.layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"^segformer\.encoder\.block\.(\d)\.", r"stages.\1.blocks."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.sr\.", ".attention.reduce."),
    (r"\.attention\.self\.layer_norm\.", ".attention.norm."),
    (r"\.attention\.self\.", ".attention."),
    (r"\.attention\.output\.dense\.", ".attention.out."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    (r"^decode_head\.linear_c\.(\d)\.proj\.", r"projections.\1."),
    (r"^decode_head\.linear_fuse\.", "fuse.0."),
    (r"^decode_head\.batch_norm\.", "fuse.1."),
)

SIDES = {"left": "right", "l": "r"}
"""Words that tell a part from its mirror image."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are SegFormer's tensors."""
    return "segformer.encoder.patch_embeddings.0.proj.weight" in tensors


def open_folder(folder: Path, domain: Domain | None = None) -> Checkpoint:
    """The checkpoint in our terms; the domain is a bundled one if its labels are.

    Raises:
        ModelError: no SegFormer for segmentation, or weights that do not fit config.json.
        CorruptArtifact: a file that cannot be read.
        ConfigError: labels that make no domain.
    """
    values = _read_config(folder)
    domain = domain or _domain(values, folder)
    tensors = named_tensors(read_content(_weights(folder)))
    classes = tensors.get("decode_head.classifier.bias", torch.empty(0))
    check_classes(domain, len(classes))
    config = _network_config(values, folder)
    model = renamed(tensors, (*RENAMES, (r"^decode_head\.classifier\.", f"heads.{domain.name}.")))
    with torch.device("meta"):
        require_fit(str(folder), SegFormer(config, (domain,)), model)
    return Checkpoint(
        family="segformer",
        config=asdict(config),
        domains=(domain,),
        model=model,
        input=_input(folder),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"the folder {folder} holds no config.json; give a folder of SegFormer")
    values = read_json(path)
    kind = values.get("model_type")
    if kind != "segformer" or ARCHITECTURE not in values.get("architectures", [ARCHITECTURE]):
        raise ModelError(
            f"{path} describes {values.get('architectures') or kind!r}; of Hugging Face folders "
            f"hp-export takes {ARCHITECTURE}"
        )
    for key, expected in REQUIRED.items():
        if values.get(key, expected) != expected:
            raise ModelError(f"{path}: {key} is {values[key]!r}; only {expected!r} can be exported")
    return values


def _network_config(values: Mapping[str, Any], folder: Path) -> SegFormerConfig:
    try:
        return SegFormerConfig(
            depths=tuple(values["depths"]),
            widths=tuple(values["hidden_sizes"]),
            attention_heads=tuple(values["num_attention_heads"]),
            reductions=tuple(values["sr_ratios"]),
            patches=tuple(values["patch_sizes"]),
            strides=tuple(values["strides"]),
            mlp_ratios=tuple(values["mlp_ratios"]),
            decoder=int(values["decoder_hidden_size"]),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptArtifact(
            f"{folder / 'config.json'} lacks the shape of the network ({exc}); download it again"
        ) from exc


def _weights(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    there = ", ".join(sorted(path.name for path in folder.iterdir()))
    raise ModelError(f"{folder} holds no {' or '.join(WEIGHTS)}, only {there}; download them")


def _domain(values: Mapping[str, Any], folder: Path) -> Domain:
    labels = values.get("id2label")
    if not isinstance(labels, Mapping) or set(labels) != {str(k) for k in range(len(labels))}:
        raise ConfigError(
            f"{folder / 'config.json'} has no id2label that counts from 0; name the label domain"
        )
    names = [str(labels[str(k)]) for k in range(len(labels))]
    for known in map(load_domain, domain_names()):
        if _same_labels(known, names):
            return known
    title = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return Domain.from_dict({"names": names, "flip_pairs": flip_pairs(names)}, name=title)


def _same_labels(domain: Domain, names: list[str]) -> bool:
    try:
        return len(names) == domain.num_classes and names == [
            name for k, name in enumerate(names) if domain.index(name) == k
        ]
    except InputError:
        return False


def flip_pairs(names: list[str]) -> list[list[int]]:
    """Ids of names that differ only in `left` and `right`, or `l` and `r`."""
    ids = {kebab(name): k for k, name in enumerate(names)}
    mirrored = {
        k: ids.get("-".join(SIDES.get(word, word) for word in name.split("-")), k)
        for name, k in ids.items()
    }
    return [[a, b] for a, b in mirrored.items() if a != b]


def _input(folder: Path) -> dict[str, Any]:
    """As SegFormer's own image processor: stretched to size, scaled, normalised."""
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    size = values.get("size", SIDE)
    given = (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)
    sides = [side for side in given if isinstance(side, int)]
    if len(sides) != 2:
        raise ConfigError(f"{path}: size is {size!r}; expected height and width")
    description = input_description((sides[0], sides[1]), "stretch")
    return description | _statistics(values)


def _statistics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std in 0..255: (x·scale - mean) / std is (x - mean/scale) / (std/scale)."""
    scale = float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0
    if not values.get("do_normalize", True):
        return {"mean": [0.0] * 3, "std": [1 / scale] * 3}
    given = {"mean": values.get("image_mean"), "std": values.get("image_std")}
    return {key: [float(v) / scale for v in value] for key, value in given.items() if value}
