"""Write the agreement table of docs/export.md: every precision against the network, on photographs.

    python scripts/export_table.py CHECKPOINT --calib DIR --eval DIR [--size 224x224] [--photos 60]
        [--precision fp32,fp16,int8] [--bundle DIR] [--page docs/export.md]

Exports CHECKPOINT (or takes the bundle that lies in --bundle already), runs every artifact and the
network on photographs that calibration has not seen, and times the artifacts in turn on one core,
in processor time, so that other programs on the machine matter little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from hp_export.agreement import TOLERANCES
from hp_export.cli import sizes
from hp_export.options import ExportOptions
from hp_export.photos import read_photos
from hp_export.progress import on_terminal
from hp_export.report import agreement_table, write_section
from hp_export.strip import bare_network
from hp_export.verify import Pictures, Reference, compare_artifact
from hp_export.write import export_bundle
from hp_sdk.backends import Backend, BackendOptions
from hp_sdk.backends.ort import open_artifact
from hp_sdk.bundle import Artifact, Bundle, read_bundle
from hp_trainer.checkpoint import Checkpoint, read_checkpoint

ROUNDS = 40


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--eval", type=Path, required=True)
    parser.add_argument("--size", type=sizes)
    parser.add_argument("--photos", type=int, default=60)
    parser.add_argument("--precision", default="fp32,fp16,int8")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--page", type=Path, default=Path("docs/export.md"))
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        root = args.bundle or Path(folder) / "bundle"
        if not root.exists():
            export(checkpoint, root, args)
        bundle = read_bundle(root)
        content = "\n\n".join(sections(bundle, checkpoint, args))
        write_section(args.page, "agreement", "scripts/export_table.py", content)


def export(checkpoint: Checkpoint, root: Path, args: argparse.Namespace) -> None:
    """The bundle to look at."""
    options = ExportOptions(
        size_hw=args.size[0] if args.size else None,
        precisions=tuple(args.precision.split(",")),
        calib=args.calib,
    )
    with on_terminal("export") as progress:
        export_bundle(checkpoint, root, options, progress=progress)


def sections(bundle: Bundle, checkpoint: Checkpoint, args: argparse.Namespace) -> list[str]:
    """Tables of agreement, of time and of what was decided."""
    photos = read_photos(args.eval, bundle.input, most=args.photos)
    images = np.concatenate([photos.calibration, photos.held_out])
    spec = bundle.input
    network = bare_network(checkpoint)
    reference = Reference(network, tuple(bundle.heads), mean=spec.mean, std=spec.std)
    pictures = Pictures.of(images, reference)
    entries: list[dict[str, Any]] = []
    for artifact in bundle.artifacts:
        entries += compare_artifact(bundle, artifact, pictures)
    title = f"{len(images)} photographs at {spec.size_hw[0]}x{spec.size_hw[1]}, none calibrated on:"
    return [title, agreement_table(entries), times(bundle, images), decided(bundle)]


def times(bundle: Bundle, images: np.ndarray) -> str:
    """Processor time of one photograph on one core, artifacts in turn."""
    with ExitStack() as stack:
        opened = {a.file: stack.enter_context(closing(_open(bundle, a))) for a in bundle.artifacts}
        taken: dict[str, list[float]] = {file: [] for file in opened}
        for k in range(ROUNDS):
            image = images[k % len(images)][np.newaxis]
            for file, backend in opened.items():
                start = time.process_time()
                backend.run(image)
                taken[file].append(1e3 * (time.process_time() - start))
    median = {file: statistics.median(values[ROUNDS // 8 :]) for file, values in taken.items()}
    first = next(iter(median.values()))
    rows = [
        f"| {a.file} | {a.size_bytes / 1e6:.2f} | {median[a.file]:.1f} "
        f"| {first / median[a.file]:.2f} |"
        for a in bundle.artifacts
    ]
    head = f"| artifact | MB | ms on one core | times as fast as {bundle.artifacts[0].file} |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def decided(bundle: Bundle) -> str:
    """What every artifact computes in, and what int8 left out."""
    lines = []
    for file, notes in bundle.card["artifacts"].items():
        counts = ", ".join(f"{count} {kind}" for kind, count in notes["computes"].items())
        kept = notes.get("kept_fp32", [])
        why = f"; kept in float32 by measurement: {', '.join(kept)}" if kept else ""
        clip = f"; activations clipped at: {notes['clip']}" if "clip" in notes else ""
        lines.append(f"* `{file}`: layers with weights: {counts}{clip}{why}")
    allowed = ", ".join(f"{name} {t.label_agreement:.1%}" for name, t in TOLERANCES.items())
    return "\n".join([*lines, f"\nRequired label agreement at export: {allowed}."])


def _open(bundle: Bundle, artifact: Artifact) -> Backend:
    return open_artifact(bundle, artifact, BackendOptions(device="cpu", num_threads=1))


if __name__ == "__main__":
    main()
