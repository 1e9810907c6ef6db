"""`python -m hp_export.tensorrt BUNDLE`: engines for a bundle, here or in a kit for elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hp_export.tensorrt.into_bundle import Added, add_engines, onnx_artifact
from hp_export.tensorrt.kit import read_kit, write_kit
from hp_export.tensorrt.options import GIB, RUNTIMES, EngineOptions
from hp_sdk.bundle import read_bundle
from hp_sdk.cli import new_parser, run_command
from hp_sdk.cli.progress import status_line
from hp_sdk.files import write_bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; also of a kit's build.py."""
    return run_command(engine_parser(), engine_command, argv)


def engine_parser() -> argparse.ArgumentParser:
    """Arguments; what is not given comes from the kit, or from the ONNX file's manifest entry."""
    parser = new_parser("hp-export-tensorrt", "Build and verify the TensorRT engines of a bundle.")
    parser.add_argument("bundle", type=Path, help="folder with bundle.json: a bundle or a kit")
    parser.add_argument("--format", choices=RUNTIMES, help="default: the kit's, or tensorrt-rtx")
    parser.add_argument("--batch", type=_batch, metavar="MIN:OPT:MAX", help="default: as exported")
    parser.add_argument(
        "--compute-capability",
        action="append",
        metavar="X.Y[+X.Y]",
        help="one engine for each time this is given; default: portable, or the GPU at hand",
    )
    parser.add_argument("--workspace", type=float, metavar="GIB", help="default: 4")
    parser.add_argument("--optimization-level", type=int, metavar="0..5")
    parser.add_argument("--tf32", action="store_true", help="allow float32 to be rounded to TF32")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for one engine")
    parser.add_argument("--onnx", metavar="FILE", help="if the bundle has several ONNX files")
    parser.add_argument("--no-verify", action="store_true", help="for a GPU that is not here")
    parser.add_argument("--defer", type=Path, metavar="DIR", help="write a kit, build nothing")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report")
    return parser


def engine_command(options: argparse.Namespace) -> int:
    """Build, verify, list; or write a kit."""
    kit = read_kit(options.bundle)
    asked = _options(options, kit.options if kit else _defaults(options.bundle))
    if options.defer is not None:
        target = write_kit(options.bundle, options.defer, asked, onnx_file=options.onnx)
        _say(f"wrote {target}: on the target machine, run `python build.py` in it")
        return 0
    with status_line() as show:
        added = add_engines(
            options.bundle,
            asked,
            onnx_file=options.onnx or (kit.onnx_file if kit else None),
            source=kit.source if kit else None,
            verify=not options.no_verify,
            progress=show,
        )
    _print(options.bundle, added)
    if options.json is not None:
        write_bytes(options.json, (json.dumps(asdict(added), indent=1) + "\n").encode())
    return 0


def _defaults(folder: Path) -> EngineOptions:
    origin = onnx_artifact(read_bundle(folder))
    return EngineOptions(batch=(origin.batch_min, origin.batch_opt, origin.batch_max))


def _options(given: argparse.Namespace, base: EngineOptions) -> EngineOptions:
    """The base, with what the command line says instead."""
    changes: dict[str, Any] = {
        "runtime": given.format,
        "batch": given.batch,
        "compute_capabilities": tuple(given.compute_capability or ()) or None,
        "workspace_bytes": None if given.workspace is None else round(given.workspace * GIB),
        "optimization_level": given.optimization_level,
        "tf32": given.tf32 or None,
        "timeout_s": given.timeout,
    }
    return replace(base, **{key: value for key, value in changes.items() if value is not None})


def _print(folder: Path, added: Added) -> None:
    agreement = {entry["artifact"]: 1.0 for entry in added.verify}
    for entry in added.verify:
        agreement[entry["artifact"]] = min(agreement[entry["artifact"]], entry["label_agreement"])
    for artifact in added.artifacts:
        same = agreement.get(artifact.file)
        verdict = "not verified" if same is None else f"{same:.4%} of the golden labels"
        _say(
            f"wrote {folder / artifact.file}: {artifact.size_bytes / 1e6:.2f} MB "
            f"{artifact.precision_found}, {verdict}"
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _batch(text: str) -> tuple[int, int, int]:
    values = [int(value) if value.isdecimal() else 0 for value in text.split(":")]
    if len(values) != 3 or not 1 <= values[0] <= values[1] <= values[2]:
        raise argparse.ArgumentTypeError(f"{text!r} is no batch range; write MIN:OPT:MAX")
    return values[0], values[1], values[2]


if __name__ == "__main__":
    raise SystemExit(main())
