"""What is asked of an export, and the bundle as far as that and the checkpoint decide it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hp_export.graph import output_name
from hp_export.model_file import DATA_LIMIT_BYTES
from hp_export.precision import check_precision
from hp_export.sides import check_flip_pairs
from hp_export.strip import choose_heads
from hp_export.tensorrt.options import EngineOptions
from hp_export.to_onnx import OPSET, OPSETS
from hp_sdk.bundle import Bundle, HeadSpec, InputSpec
from hp_sdk.errors import ConfigError, CorruptArtifact
from hp_trainer.checkpoint import Checkpoint

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is asked of an export."""

    heads: tuple[str, ...] | None = None
    """Heads in this order; None takes all."""
    size_hw: Size | None = None
    """Network input; None takes the checkpoint's."""
    more_sizes_hw: tuple[Size, ...] = ()
    """Further input sizes, with artifacts of their own in the same bundle."""
    batch: tuple[int, int, int] = (1, 8, 16)
    """Smallest, usual and largest batch."""
    precisions: tuple[str, ...] = ("fp32",)
    """One artifact each; the first is the one that is opened unless another is asked for."""
    e2e: bool = False
    """Also artifacts that answer labels and confidence."""
    calib: Path | None = None
    """Folder of photographs, for int8 and for judging."""
    engines: tuple[EngineOptions, ...] = ()
    """TensorRT engines to build from every ONNX file."""
    verify_engines: bool = True
    """Replay the golden sample on the engines, which needs their GPU."""
    opset: int = OPSET
    data_limit_bytes: int = DATA_LIMIT_BYTES
    name: str | None = None
    """Name of the bundle; None takes the folder's."""
    version: str = "1.0.0"
    license: str = "unstated"
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])


def check_options(options: ExportOptions) -> None:
    """Refuse early what would be refused late.

    Raises:
        ConfigError: a precision or opset that this version does not write.
    """
    for precision in options.precisions:
        check_precision(precision, has_photos=options.calib is not None)
    if options.opset not in OPSETS:
        raise ConfigError(
            f"opset is {options.opset}; this version writes {' or '.join(map(str, OPSETS))}"
        )


def sizes_of(plan: Bundle, options: ExportOptions) -> list[Size]:
    """The input sizes of a bundle, the main one first."""
    return list(dict.fromkeys((plan.input.size_hw, *options.more_sizes_hw)))


def plan_bundle(checkpoint: Checkpoint, target: Path, options: ExportOptions) -> Bundle:
    """The bundle as far as it is known before the artifacts exist.

    Raises:
        UnknownHead: a head the checkpoint does not have.
        CorruptArtifact: the checkpoint does not say how its input is prepared.
        VerificationFailed: a flip pair contradicts the names of the parts.
    """
    domains = {domain.name: domain for domain in checkpoint.domains}
    heads = choose_heads(checkpoint, options.heads)
    for head in heads:
        check_flip_pairs(domains[head])
    return Bundle(
        root=target,
        name=options.name or target.resolve().name,
        family=checkpoint.family,
        version=options.version,
        license=options.license,
        card=dict(options.card) | {"checkpoint": _provenance(checkpoint)},
        input=_input_spec(checkpoint.input, options.size_hw),
        heads={head: HeadSpec(domains[head], output_name(head)) for head in heads},
        artifacts=(),
    )


def _input_spec(values: Mapping[str, Any], size_hw: tuple[int, int] | None) -> InputSpec:
    try:
        height, width = size_hw or values["size_hw"]
        return InputSpec(
            size_hw=(int(height), int(width)),
            resize=values["resize"],
            pad_value=values["pad_value"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            **_windows(values, (int(height), int(width))),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptArtifact(
            f"the checkpoint does not say how its input is prepared ({exc}); train it again"
        ) from exc


def _windows(values: Mapping[str, Any], size_hw: Size) -> dict[str, Any]:
    """How a photo larger than the input is read; a stride fits the size it was chosen for only."""
    found: dict[str, Any] = {}
    if values.get("stride_hw") is not None and tuple(values["size_hw"]) == size_hw:
        down, right = values["stride_hw"]
        found["stride_hw"] = int(down), int(right)
    if values.get("longest_px") is not None:
        found["longest_px"] = int(values["longest_px"])
    return found


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which weights these are: a digest of the shipping tensors, and how long they trained."""
    digest = hashlib.sha256()
    for key in sorted(checkpoint.model):
        digest.update(key.encode())
        flat = checkpoint.model[key].detach().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return {"weights_sha256": digest.hexdigest(), "step": checkpoint.train.get("step")}
