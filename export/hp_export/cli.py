"""hp-export: turn a checkpoint into a verified bundle, and look at what came out.

    hp-export CHECKPOINT -o BUNDLE_DIR     export, verify, write
    hp-export check BUNDLE                 checksums, and the golden sample on this machine
    hp-export strip CHECKPOINT -o OUT      the checkpoint without what only training needs
    hp-export inspect FILE.onnx            what a file really holds

Exit codes are those of `hp_sdk.cli`; 6 means that the artifact was wrong and was not written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hp_sdk.cli import new_parser, run_command
from hp_sdk.errors import ConfigError
from hp_sdk.files import write_bytes

FORMATS = ("onnx",)
"""Artifact formats that this version writes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-export."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    action = arguments[0] if arguments else ""
    if action in ACTIONS:
        build_parser, command = ACTIONS[action]
        return run_command(build_parser(), command, arguments[1:])
    return run_command(export_parser(), export_command, arguments)


def export_parser() -> argparse.ArgumentParser:
    """Arguments of `hp-export CHECKPOINT`."""
    parser = _new_parser("", "Turn a checkpoint into a verified bundle.")
    parser.epilog = "also: hp-export check BUNDLE | strip CHECKPOINT -o OUT | inspect FILE"
    parser.add_argument("checkpoint", type=Path, help="file that hp-train wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="bundle")
    parser.add_argument("--heads", type=_names, metavar="all|A,B", help="default: all")
    parser.add_argument("--format", type=_formats, default=FORMATS, help="onnx")
    parser.add_argument("--precision", default="fp32", help="fp32 (default) or fp16-weights")
    parser.add_argument("--size", type=_size, metavar="HxW", help="default: the checkpoint's")
    parser.add_argument(
        "--batch", type=_batch, default=(1, 8, 16), metavar="MIN:OPT:MAX", help="default: 1:8:16"
    )
    parser.add_argument("--name", help="name of the bundle (default: the folder's)")
    parser.add_argument("--bundle-version", default="1.0.0", metavar="VERSION")
    parser.add_argument("--license", default="unstated", help="licence of the weights")
    parser.add_argument("--card", type=Path, metavar="FILE.json", help="model card")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report")
    return parser


def export_command(options: argparse.Namespace) -> int:
    """Export, verify, write."""
    from hp_export.write import ExportOptions, export_bundle
    from hp_trainer.checkpoint import read_checkpoint

    report = export_bundle(
        read_checkpoint(options.checkpoint),
        options.output,
        ExportOptions(
            heads=options.heads,
            size_hw=options.size,
            batch=options.batch,
            precision=options.precision,
            name=options.name,
            version=options.bundle_version,
            license=options.license,
            card=_card(options.card),
        ),
    )
    for entry in report.bundle.verify:
        print(
            f"{entry['head']:>12}  batch {entry['batch']}  largest difference "
            f"{entry['max_abs']:.2e}  same labels {entry['label_agreement']:.4%}"
        )
    artifact = report.bundle.artifacts[0]
    print(
        f"wrote {options.output}: {artifact.size_bytes / 1e6:.2f} MB {artifact.precision_found}, "
        f"heads {', '.join(artifact.heads)}; "
        f"left behind {report.strip.left_bytes / 1e6:.2f} MB of training"
    )
    _write_report(options.json, report.to_dict())
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Checksums, then the golden sample."""
    from hp_export.golden import replay_golden
    from hp_sdk.bundle import read_bundle, verify_files

    bundle = read_bundle(options.bundle)
    verify_files(bundle)
    replay = replay_golden(bundle, backend=options.backend)
    for head, agreement in replay.agreement.items():
        print(f"{head:>12}  {agreement:.4%} of the golden labels")
    print(f"{bundle.name} {bundle.version}: files intact, answers right on {replay.provider}")
    return 0


def strip_command(options: argparse.Namespace) -> int:
    """Leave behind what only training needs."""
    from hp_export.strip import strip_file

    report = strip_file(options.checkpoint, options.output)
    for title, parts in (("ships", report.ships), ("left behind", report.left_behind)):
        for part in parts:
            print(f"{title:12} {part.name:32} {part.parameters:>11,} {part.size_bytes:>12,} bytes")
    before, after = (path.stat().st_size for path in (options.checkpoint, options.output))
    print(f"wrote {options.output}: {before:,} -> {after:,} bytes, every logit bit-equal")
    _write_report(options.json, report.to_dict())
    return 0


def inspect_command(options: argparse.Namespace) -> int:
    """Say what an ONNX file really holds."""
    from hp_export.census import census_lines, read_onnx, take_census

    census = take_census(read_onnx(options.file))
    for line in census_lines(census):
        print(line)
    _write_report(options.json, census.to_dict())
    return 0


def _check_parser() -> argparse.ArgumentParser:
    parser = _new_parser(" check", "Compare a bundle's files and answers with its manifest.")
    parser.add_argument("bundle", type=Path, help="folder with bundle.json")
    parser.add_argument("--backend", default="auto", help="runtime to replay on (default: auto)")
    return parser


def _strip_parser() -> argparse.ArgumentParser:
    parser = _new_parser(" strip", "Write a checkpoint without what only training needs.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report")
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = _new_parser(" inspect", "Say what an ONNX file really holds.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report")
    return parser


ACTIONS: dict[
    str,
    tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int]],
] = {
    "check": (_check_parser, check_command),
    "strip": (_strip_parser, strip_command),
    "inspect": (_inspect_parser, inspect_command),
}


def _new_parser(action: str, description: str) -> argparse.ArgumentParser:
    return new_parser(f"hp-export{action}", description)


def _names(text: str) -> tuple[str, ...] | None:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("name at least one head, or `all`")
    return None if names == ("all",) else names


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(text.split(","))
    if unknown := [name for name in formats if name not in FORMATS]:
        raise argparse.ArgumentTypeError(
            f"this version writes {', '.join(FORMATS)}, not {unknown[0]!r}"
        )
    return formats


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write HEIGHTxWIDTH, like 512x384")
    return int(sides[0]), int(sides[1])


def _batch(text: str) -> tuple[int, int, int]:
    values = [int(value) if value.isdecimal() else 0 for value in text.split(":")]
    if len(values) != 3 or not 1 <= values[0] <= values[1] <= values[2]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no batch range; write MIN:OPT:MAX in ascending order, like 1:8:16"
        )
    return values[0], values[1], values[2]


def _card(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the model card {str(path)!r}: {exc}") from exc
    if not isinstance(card, dict):
        raise ConfigError(f"the model card {str(path)!r} holds no JSON object")
    return card


def _write_report(path: Path | None, report: dict[str, Any]) -> None:
    if path is not None:
        write_bytes(path, (json.dumps(report, indent=1) + "\n").encode())
