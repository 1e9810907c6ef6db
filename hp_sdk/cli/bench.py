"""hp-bench: how fast a model is here, how sure that is, and whether it was faster before."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hp_sdk.bench.compare import TOLERANCE, read_base
from hp_sdk.bench.gpu import BASELINES
from hp_sdk.bench.plot import latency_png
from hp_sdk.bench.report import Report
from hp_sdk.bench.session import Against, benchmark
from hp_sdk.bench.setting import Options
from hp_sdk.bench.table import report_lines
from hp_sdk.cli import new_parser, run_command
from hp_sdk.cli.progress import status_line
from hp_sdk.errors import ConfigError, VerificationFailed
from hp_sdk.files import write_bytes

_DEFAULTS = Options(model="")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-bench."""
    parser = new_parser("hp-bench", "Time a model from JPEG to label map, and check its answers.")
    add = parser.add_argument
    add("model", metavar="MODEL", help="name of a model or head, or a bundle's folder")
    add(
        "--backend",
        type=_names,
        default=_DEFAULTS.backends,
        metavar="NAMES",
        help="such as onnxruntime,openvino (auto)",
    )
    add("--device", help="auto, cpu, cuda or cuda:0 (auto)")
    add("--precision", default="auto", help="auto, or a precision the bundle holds (auto)")
    add("--batch", type=_counts, default=(1,), metavar="NS", help="photos in a call, like 1,8 (1)")
    add(
        "--photo",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="photo to parse; may be given several times (drawn figures)",
    )
    add("--size", type=_sizes, default=(), metavar="HxW", help="resize the photos, like 1024x768")
    add("--tta", default="none", help="none, flip, ms or ms+flip (none)")
    add("--threads", type=_count, metavar="N", help="threads of the network (the runtime's choice)")
    _add_measuring(parser)
    _add_reporting(parser)
    return run_command(parser, _bench, argv)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--duration",
        type=_seconds,
        default=_DEFAULTS.duration_s,
        metavar="S",
        help="seconds of measuring per configuration (10)",
    )
    length.add_argument("--runs", type=_count, metavar="N", help="counted runs of each instead")
    parser.add_argument(
        "--cold", type=_count_or_none, default=_DEFAULTS.cold_starts, metavar="N",
        help="fresh processes per configuration (3; 0 for none)",
    )  # fmt: skip
    parser.add_argument(
        "--baselines", type=_baselines, default=(), metavar="NAMES",
        help="on a GPU, also networks alone: eager,compiled,onnxruntime",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the order of configurations (0)")


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write the report, with every run, as JSON")
    add("--plot", type=Path, metavar="FILE.png", help="draw how the latencies are distributed")
    add("--compare", type=Path, metavar="BASE", help="older JSON; exit code 6 if it was faster")
    add(
        "--tolerance",
        type=_share,
        default=TOLERANCE,
        metavar="SHARE",
        help="by which a median may be slower than in BASE (0.05)",
    )
    add("--force", action="store_true", help="compare with another machine, model or photos")


def _bench(options: argparse.Namespace) -> None:
    for path in (options.json, options.plot):
        _refuse_unwritable(path)
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ConfigError(f"pictures are written as .png, not {options.plot.name!r}; rename it")
    against = None
    if options.compare is not None:
        against = Against(read_base(options.compare), options.tolerance, options.force)
    with status_line() as show:
        report = benchmark(
            _asked(options),
            against=against,
            progress=lambda what, share: show(f"{what} {100 * share:.0f} %"),
        )
    print("\n".join(report_lines(report)), flush=True)
    if options.json is not None:
        text = json.dumps(report.to_dict(), ensure_ascii=False)
        write_bytes(options.json, f"{text}\n".encode())
    if options.plot is not None:
        write_bytes(options.plot, latency_png(report))
    if failures := list(_failures(report)):
        raise VerificationFailed("; ".join(failures))


def _asked(options: argparse.Namespace) -> Options:
    return Options(
        model=options.model,
        backends=options.backend,
        batches=options.batch,
        device=options.device,
        precision=options.precision,
        tta=options.tta,
        threads=options.threads,
        runs=options.runs,
        duration_s=options.duration,
        cold_starts=options.cold,
        baselines=options.baselines,
        seed=options.seed,
        photos=tuple(options.photo),
        sizes=options.size,
    )


def _failures(report: Report) -> Iterator[str]:
    """What makes exit code 6."""
    for row in report.configurations:
        outputs = row.outputs
        if not outputs.stable:
            yield (
                f"{row.name}: {outputs.runs_differing} runs labelled a photo otherwise than the "
                f"first, by up to {outputs.differing_px} pixels"
            )
        elif not outputs.right:
            share = 100 * outputs.agreement
            yield f"{row.name}: only {share:.2f} % of the labels are those of the first line"
    if report.comparison is not None:
        for change in report.comparison.slower:
            percent = 100 * (change.ratio.value - 1)
            yield f"{change.configuration}: {percent:.1f} % slower than {report.comparison.base}"


def _refuse_unwritable(path: Path | None) -> None:
    """Before minutes of measuring, not after."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{str(path)!r} is a folder; give the name of a file")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as exc:
        raise ConfigError(
            f"cannot write {str(path)!r}: {exc.strerror or exc}; choose a folder you may write to"
        ) from exc


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("no backend given; write auto, or onnxruntime,openvino")
    return names


def _baselines(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := [name for name in names if name not in BASELINES]:
        raise argparse.ArgumentTypeError(
            f"no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}"
        )
    return names


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_count(part) for part in text.split(",")))


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple(dict.fromkeys(_size(part) for part in text.split(",")))


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write HEIGHTxWIDTH, like 1024x768")
    return int(sides[0]), int(sides[1])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _seconds(text: str) -> float:
    if not 0 < (value := _number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; allowed are seconds above 0")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := _number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write 0.05 for five per cent")
    return value
