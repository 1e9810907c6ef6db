"""A checkpoint becomes a bundle: traced, stored, verified, and only then visible on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hp_export.census import MANIFEST_KEY, Census, take_census
from hp_export.golden import replay_golden, write_golden
from hp_export.graph import HeadGraph, fold_batch_norm, output_name
from hp_export.precision import apply_precision, check_precision
from hp_export.strip import StripReport, bare_network, choose_heads, strip_report
from hp_export.to_onnx import OPSET, stamp, to_onnx
from hp_export.verify import RUNTIME, Reference, verify
from hp_sdk.bundle import (
    Artifact,
    Bundle,
    HeadSpec,
    InputSpec,
    manifest_dict,
    read_bundle,
    write_folder,
    write_manifest,
)
from hp_sdk.errors import CorruptArtifact
from hp_sdk.files import write_bytes
from hp_trainer.checkpoint import Checkpoint

ARTIFACT = "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is asked of an export."""

    heads: tuple[str, ...] | None = None
    """Heads in this order; None takes all."""
    size_hw: tuple[int, int] | None = None
    """Network input; None takes the checkpoint's."""
    batch: tuple[int, int, int] = (1, 8, 16)
    """Smallest, usual and largest batch."""
    precision: str = "fp32"
    opset: int = OPSET
    name: str | None = None
    """Name of the bundle; None takes the folder's."""
    version: str = "1.0.0"
    license: str = "unstated"
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did."""

    bundle: Bundle
    census: Census
    strip: StripReport

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        census = self.census.to_dict()
        del census["metadata"]  # the manifest again
        return {
            "bundle": str(self.bundle.root),
            "name": self.bundle.name,
            "heads": list(self.bundle.heads),
            "artifacts": manifest_dict(self.bundle)["artifacts"],
            "verify": self.bundle.verify,
            "census": census,
            "strip": self.strip.to_dict(),
        }


def export_bundle(
    checkpoint: Checkpoint, target: Path, options: ExportOptions | None = None
) -> ExportReport:
    """Write the bundle folder `target`, or nothing at all.

    Raises:
        UnknownHead: a head the checkpoint does not have.
        ConfigError: a size, precision or opset that is not allowed, or `target` cannot be written.
        ExportError: the network cannot be traced.
        VerificationFailed: the artifact's answers differ from the network's.
    """
    options = options or ExportOptions()
    check_precision(options.precision)
    plan = _plan(checkpoint, target, options)
    network = bare_network(checkpoint)
    reference = Reference(network, tuple(plan.heads), mean=plan.input.mean, std=plan.input.std)
    with write_folder(target) as folder:
        # The golden sample comes first: the plain network refuses a bad size more clearly.
        golden = write_golden(folder, reference, plan.input.size_hw, options.precision)
        graph = build_graph(network, tuple(plan.heads), plan.input)
        model = to_onnx(graph, plan.input.size_hw, opset=options.opset, batch_max=options.batch[2])
        model = apply_precision(model, options.precision)
        stamp(model, {MANIFEST_KEY: json.dumps(manifest_dict(plan), ensure_ascii=False)})
        census = take_census(model)
        artifact = _write_artifact(folder, model.SerializeToString(), census, plan, options)
        write_manifest(replace(plan, artifacts=(artifact,), golden=golden), folder)
        bundle = read_bundle(folder)
        bundle = replace(bundle, verify=verify(bundle, reference))
        replay_golden(bundle, backend=RUNTIME)
        write_manifest(bundle, folder)
    return ExportReport(replace(bundle, root=target), census, strip_report(checkpoint))


def build_graph(network: nn.Module, heads: Sequence[str], spec: InputSpec) -> HeadGraph:
    """The graph to trace: batch norms folded in a copy, normalisation in front."""
    image = torch.zeros(1, 3, *spec.size_hw)
    return HeadGraph(fold_batch_norm(network, image), heads, mean=spec.mean, std=spec.std).eval()


def _plan(checkpoint: Checkpoint, target: Path, options: ExportOptions) -> Bundle:
    """The bundle as far as it is known before the artifact exists."""
    domains = {domain.name: domain for domain in checkpoint.domains}
    return Bundle(
        root=target,
        name=options.name or target.resolve().name,
        family=checkpoint.family,
        version=options.version,
        license=options.license,
        card=dict(options.card) | {"checkpoint": _provenance(checkpoint)},
        input=_input_spec(checkpoint.input, options.size_hw),
        heads={
            head: HeadSpec(domains[head], output_name(head))
            for head in choose_heads(checkpoint, options.heads)
        },
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
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise CorruptArtifact(
            f"the checkpoint does not say how its input is prepared ({exc}); train it again"
        ) from exc


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """Which weights these are: a digest of the shipping tensors, and how long they trained."""
    digest = hashlib.sha256()
    for key in sorted(checkpoint.model):
        digest.update(key.encode())
        flat = checkpoint.model[key].detach().cpu().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return {"weights_sha256": digest.hexdigest(), "step": checkpoint.train.get("step")}


def _write_artifact(
    folder: Path, content: bytes, census: Census, plan: Bundle, options: ExportOptions
) -> Artifact:
    write_bytes(folder / ARTIFACT, content)
    smallest, usual, largest = options.batch
    return Artifact(
        runtime="onnx",
        file=ARTIFACT,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        heads=tuple(plan.heads),
        precision_asked=options.precision,
        precision_found=census.precision,
        batch_min=smallest,
        batch_opt=usual,
        batch_max=largest,
        size_hw=plan.input.size_hw,
        opset=census.opset,
        outputs=tuple(head.output for head in plan.heads.values()),
    )
