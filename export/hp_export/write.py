"""A checkpoint becomes a bundle: traced, lowered, verified, and only then visible on disk.

options ─► plan ─► workshop (files of every size and precision) ─► verify ─► golden ─► one rename
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hp_export.census import Census
from hp_export.golden import write_golden
from hp_export.graph import macs_of
from hp_export.options import ExportOptions, Size, check_options, plan_bundle, sizes_of
from hp_export.photos import Photos, read_photos
from hp_export.progress import Progress, silent
from hp_export.replay import replay_golden
from hp_export.strip import StripReport, bare_network, strip_report
from hp_export.tensorrt.into_bundle import add_engines
from hp_export.verify import RUNTIME, Jury, Reference, verify
from hp_export.workshop import Workshop
from hp_sdk.bundle import Bundle, manifest_dict, read_bundle, write_folder, write_manifest
from hp_trainer.checkpoint import Checkpoint

__all__ = ["ExportOptions", "ExportReport", "export_bundle"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did."""

    bundle: Bundle
    censuses: Mapping[str, Census]
    """File → what is in it."""
    strip: StripReport

    @property
    def census(self) -> Census:
        """What is in the first file."""
        return next(iter(self.censuses.values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        censuses = {file: census.to_dict() for file, census in self.censuses.items()}
        for census in censuses.values():
            del census["metadata"]  # the manifest again
        return {
            "bundle": str(self.bundle.root),
            "name": self.bundle.name,
            "heads": list(self.bundle.heads),
            "artifacts": manifest_dict(self.bundle)["artifacts"],
            "verify": self.bundle.verify,
            "census": censuses,
            "decided": self.bundle.card["artifacts"],
            "strip": self.strip.to_dict(),
        }


def export_bundle(
    checkpoint: Checkpoint,
    target: Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress = silent,
) -> ExportReport:
    """Write the bundle folder `target`, or nothing at all.

    Raises:
        UnknownHead: a head the checkpoint does not have.
        ConfigError: a size, precision or opset that is not allowed, or `target` cannot be written.
        ExportError: the network cannot be traced.
        VerificationFailed: the artifact's answers differ from the network's.
    """
    options = options or ExportOptions()
    check_options(options)
    plan = plan_bundle(checkpoint, target, options)
    progress("reading")
    photos = _photos(plan, options)
    network = bare_network(checkpoint)
    heads = tuple(plan.heads)
    reference = Reference(network, heads, mean=plan.input.mean, std=plan.input.std)
    with write_folder(target) as folder:
        # The golden sample comes first: the plain network refuses a bad size more clearly.
        progress("asking the network for the golden labels")
        golden, macs = macs_of(
            lambda: write_golden(folder, reference, plan.input.size_hw, options.precisions)
        )
        plan = replace(plan, card=dict(plan.card) | {"macs": macs}, golden=golden)
        workshop = Workshop(network, plan, options, photos, progress)
        made = list(workshop.make(folder))
        card = dict(plan.card) | {"artifacts": {m.artifact.file: m.notes for m in made}}
        artifacts = tuple(m.artifact for m in made)
        write_manifest(replace(plan, card=card, artifacts=artifacts), folder)
        bundle = read_bundle(folder)
        jury = Jury(reference, photos, workshop.suspect, progress)
        bundle = replace(bundle, verify=verify(bundle, jury))
        for precision in options.precisions:
            replay_golden(bundle, backend=RUNTIME, precision=precision)
        write_manifest(bundle, folder)
        for engine in options.engines:
            for artifact in artifacts:
                add_engines(
                    folder,
                    engine,
                    onnx_file=artifact.file,
                    verify=options.verify_engines,
                    progress=progress,
                )
        bundle = read_bundle(folder)
    censuses = {m.artifact.file: m.census for m in made}
    return ExportReport(replace(bundle, root=target), censuses, strip_report(checkpoint))


def _photos(plan: Bundle, options: ExportOptions) -> dict[Size, Photos]:
    """The photographs of --calib at every input size; of a larger one its first window."""
    if options.calib is None:
        return {}
    return {
        size_hw: read_photos(options.calib, replace(plan.input, size_hw=size_hw, stride_hw=None))
        for size_hw in sizes_of(plan, options)
    }
