"""hp-export: turn a checkpoint into a verified bundle, and look at what came out.

    hp-export CHECKPOINT -o BUNDLE_DIR     export, verify, write (--dry-run: only say what)
    hp-export check BUNDLE                 checksums, and the golden sample on this machine
    hp-export strip CHECKPOINT -o OUT      the checkpoint without what only training needs
    hp-export inspect FILE                 what an ONNX file or a TensorRT engine really holds

Exit codes are those of `hp_sdk.cli`; 6 means that the artifact was wrong and was not written.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hp_export.memory import keep_freed_memory
from hp_sdk.cli import new_parser, run_command
from hp_sdk.errors import ConfigError
from hp_sdk.files import write_bytes

if TYPE_CHECKING:
    from hp_export.options import ExportOptions
    from hp_export.progress import Progress
    from hp_export.tensorrt.options import EngineOptions
    from hp_export.write import ExportReport
    from hp_sdk.bundle import Bundle

FORMATS = ("onnx", "tensorrt", "tensorrt-rtx")
"""Artifact formats that this version writes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-export."""
    if argv is None:  # the process is ours
        keep_freed_memory()
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
    parser.add_argument("checkpoint", type=Path, help="of hp-train or SCHP; SegFormer's folder")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="bundle")
    parser.add_argument("--heads", type=_names, metavar="all|A,B", help="default: all")
    parser.add_argument("--domain", metavar="NAME|FILE", help="labels of a foreign checkpoint")
    parser.add_argument(
        "--format", type=_formats, default=("onnx",), help="onnx (always), tensorrt, tensorrt-rtx"
    )
    parser.add_argument(
        "--precision",
        type=_words,
        default=("fp32",),
        help="fp32 (default), fp16, int8, fp16-weights",
    )
    parser.add_argument("--calib", type=Path, metavar="DIR", help="photographs, for int8")
    parser.add_argument("--e2e", action="store_true", help="also files that answer with labels")
    parser.add_argument(
        "--size", type=sizes, default=(None,), metavar="HxW,...", help="default: the checkpoint's"
    )
    parser.add_argument("--opset", type=int, default=18, help="18 (default) or 17")
    parser.add_argument(
        "--batch", type=_batch, default=(1, 8, 16), metavar="MIN:OPT:MAX", help="default: 1:8:16"
    )
    parser.add_argument("--name", help="name of the bundle (default: the folder's)")
    parser.add_argument("--bundle-version", default="1.0.0", metavar="VERSION")
    parser.add_argument("--license", default="unstated", help="licence of the weights")
    parser.add_argument("--card", type=Path, metavar="FILE.json", help="model card")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    engines = parser.add_argument_group("engines and servers")
    engines.add_argument(
        "--compute-capability",
        action="append",
        default=[],
        metavar="X.Y[+X.Y]",
        help="of tensorrt-rtx, one engine each time it is given (default: one for all)",
    )
    engines.add_argument("--no-verify", action="store_true", help="engines of GPUs not here")
    engines.add_argument("--defer", action="store_true", help="kits that build engines elsewhere")
    engines.add_argument(
        "--triton", type=Path, metavar="DIR", help="also a Triton model repository"
    )
    engines.add_argument("--deepstream", type=Path, metavar="DIR", help="also a DeepStream folder")
    return parser


def export_command(options: argparse.Namespace) -> int:
    """Export, verify, write."""
    from hp_export.dry_run import plan_lines
    from hp_export.foreign import open_checkpoint
    from hp_export.progress import on_terminal
    from hp_export.write import export_bundle

    checkpoint = open_checkpoint(options.checkpoint, domain=options.domain)
    wanted = _export_options(options)
    if options.dry_run:
        for line in plan_lines(checkpoint, options.output, wanted):
            print(line)
        return 0
    with on_terminal("hp-export") as progress, stopped_by_sigterm():
        report = export_bundle(checkpoint, options.output, wanted, progress=progress)
    _print_export(report, options.output)
    _write_report(options.json, report.to_dict())
    with on_terminal("hp-export") as progress, stopped_by_sigterm():
        written = list(_write_serving(report.bundle, options, progress))
    for line in written:
        print(line)
    return 0


def _write_serving(
    bundle: Bundle, options: argparse.Namespace, progress: Progress
) -> Iterator[str]:
    """Kits and model repositories; a line for each."""
    from hp_export.deepstream import write_deepstream
    from hp_export.tensorrt.kit import write_kit
    from hp_export.triton import write_triton

    for engine in _engines(options) if options.defer else ():
        kit = options.output.with_name(f"{options.output.name}-{engine.runtime}-kit")
        progress(f"writing {kit}")
        yield f"wrote {write_kit(options.output, kit, engine)}: run `python build.py` there"
    if options.triton:
        progress(f"writing {options.triton}")
        yield f"wrote {write_triton(bundle, options.triton)}"
    if options.deepstream:
        progress(f"writing {options.deepstream}")
        yield f"wrote {write_deepstream(bundle, options.deepstream)}"


def _engines(options: argparse.Namespace) -> tuple[EngineOptions, ...]:
    from hp_export.tensorrt.options import EngineOptions

    return tuple(
        EngineOptions(
            runtime=name,
            batch=options.batch,
            compute_capabilities=tuple(options.compute_capability)
            if name == "tensorrt-rtx"
            else (),
        )
        for name in options.format
        if name != "onnx"
    )


def _export_options(options: argparse.Namespace) -> ExportOptions:
    from hp_export.options import ExportOptions

    size_hw, *more = options.size
    return ExportOptions(
        heads=options.heads,
        size_hw=size_hw,
        more_sizes_hw=tuple(more),
        batch=options.batch,
        precisions=options.precision,
        e2e=options.e2e,
        calib=options.calib,
        engines=() if options.defer else _engines(options),
        verify_engines=not options.no_verify,
        opset=options.opset,
        name=options.name,
        version=options.bundle_version,
        license=options.license,
        card=_card(options.card),
    )


def _print_export(report: ExportReport, target: Path) -> None:
    from hp_export.report import agreement_lines

    for line in agreement_lines(report.bundle.verify):
        print(line)
    for artifact in report.bundle.artifacts:
        if artifact.file not in report.censuses:
            print(f"wrote {target / artifact.file}: {artifact.size_bytes / 1e6:.2f} MB, an engine")
            continue
        computes = report.censuses[artifact.file].computes
        counts = ", ".join(f"{count} {kind}" for kind, count in computes.items())
        print(
            f"wrote {target / artifact.file}: {artifact.size_bytes / 1e6:.2f} MB, layers {counts}"
        )
    print(
        f"wrote {target}: heads {', '.join(report.bundle.heads)}; "
        f"left behind {report.strip.left_bytes / 1e6:.2f} MB of training"
    )


def check_command(options: argparse.Namespace) -> int:
    """Checksums, then the golden sample."""
    from hp_export.progress import on_terminal
    from hp_export.replay import replay_golden
    from hp_sdk.bundle import read_bundle, verify_files

    bundle = read_bundle(options.bundle)
    with on_terminal("hp-export check") as progress:
        progress("checksums")
        verify_files(bundle)
        replays = []
        for precision in dict.fromkeys(a.precision_found for a in bundle.artifacts):
            progress(f"the golden picture in {precision}")
            replays.append(replay_golden(bundle, backend=options.backend, precision=precision))
    for replay in replays:
        for head, agreement in replay.agreement.items():
            print(f"{head:>12}  {agreement:.4%} of the golden labels in {replay.precision}")
    on = ", ".join(dict.fromkeys(replay.provider for replay in replays))
    print(f"{bundle.name} {bundle.version}: files intact, answers right on {on}")
    return 0


def strip_command(options: argparse.Namespace) -> int:
    """Leave behind what only training needs."""
    from hp_export.progress import on_terminal
    from hp_export.strip import strip_file

    with on_terminal("hp-export strip") as progress:
        report = strip_file(options.checkpoint, options.output, progress=progress)
    for title, parts in (("ships", report.ships), ("left behind", report.left_behind)):
        for part in parts:
            print(f"{title:12} {part.name:32} {part.parameters:>11,} {part.size_bytes:>12,} bytes")
    before, after = (path.stat().st_size for path in (options.checkpoint, options.output))
    print(f"wrote {options.output}: {before:,} -> {after:,} bytes, every logit bit-equal")
    _write_report(options.json, report.to_dict())
    return 0


def inspect_command(options: argparse.Namespace) -> int:
    """Say what an ONNX file or an engine really holds."""
    from hp_export.census import census_lines, read_onnx, take_census
    from hp_export.progress import on_terminal
    from hp_export.tensorrt.plan import inspect_plan, is_plan, plan_lines

    if is_plan(options.file):
        plan = inspect_plan(options.file)
        for line in plan_lines(plan):
            print(line)
        _write_report(options.json, plan.to_dict())
        return 0
    with on_terminal("hp-export inspect") as progress:
        progress("reading")
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
    parser = _new_parser(" inspect", "Say what an ONNX file or an engine really holds.")
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


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise argparse.ArgumentTypeError("name at least one")
    return words


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Input sizes, as `--size` takes them: 512x384, or several with commas between."""
    return tuple(_size(word) for word in _words(text))


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


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """A scheduler's SIGTERM ends the work as Ctrl-C does: temporary files go, nothing is written.

    Outside the main thread signals cannot be caught, and it ends the process as ever.
    """

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
