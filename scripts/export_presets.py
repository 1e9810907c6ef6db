"""Put every network preset through hp-export, format by format, and write down what the gate says.

    python scripts/export_presets.py [--preset sst-tiny,sst-r50] [--format fp32,int8,tensorrt-rtx]
        [--size 256x256] [--doll-steps 300] [--json docs/export/presets.json]
        [--page docs/export.md]

Weights are random by seed; with --doll-steps also sst-tiny after so many steps on paper dolls.
Photographs for calibration and judging are paper dolls too, so that nothing is downloaded. Every
export is a process of its own, whose time and peak memory are noted. A refusal by the gate is a
result like any other. Each result joins those of the JSON file at once, so that a run may be
interrupted, and a preset may be added later.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hp_export.report import write_section
from hp_sdk.cli.progress import status_line
from hp_sdk.domains import load_domain
from hp_sdk.files import write_bytes
from hp_sdk.machine import read_machine
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    write_checkpoint,
)
from hp_trainer.models import PRESETS, NetworkConfig, new_network
from hp_trainer.models.schnet.config import SCHNetConfig
from hp_trainer.paperdolls import write_dataset

SIZES = {
    "sst-tiny": "128x128",
    "sst-compact": "352x352",
    "sst-r50": "512x512",
    "schnet-tiny": "64x64",
    "schnet-l": "480x480",
}
"""Preset → input size; those named here are run unless others are asked for, schnet-l only then."""
PRECISIONS = ("fp32", "fp16", "int8")
ENGINES = "tensorrt-rtx"
CAPABILITIES = "8.0+8.6+8.9+12.0"
VERDICTS = {0: "pass", 6: "refused"}
"""Exit code of hp-export → verdict; every other is a failure."""
DOLLS = 8
RUN = "import sys; from {} import main; sys.exit(main())"
MEASURE = """
import json, resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""
HEADER = (
    "| network | weights | size | format | verdict | MB | processor s | peak MB | same labels "
    "| mean IoU |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Subject:
    """One network to be exported."""

    preset: str
    weights: str
    size: str
    checkpoint: Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child process ended."""

    code: int
    seconds: float
    cpu_seconds: float
    """Of all cores together, in user mode and in the system."""
    peak_bytes: int
    """Largest resident memory of the process or of one of its own children."""
    last_words: str


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _parser().parse_args(argv)
    table = Table(args.json, args.page)
    with tempfile.TemporaryDirectory() as folder, status_line() as show:
        os.environ["HP_HOME"] = f"{folder}/home"  # an engine of an earlier run would cost no time
        for subject in subjects(Path(folder), args):
            show(f"{subject.preset}, {subject.weights}")
            for entry in run_formats(subject, args.format, Path(folder)):
                table.add(entry)
                show(f"{subject.preset} {entry['format']}: {entry['verdict']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = ",".join(name for name in SIZES if name != "schnet-l")
    parser.add_argument("--preset", type=_some_of(PRESETS), default=usual, help=f"default: {usual}")
    formats = (*PRECISIONS, ENGINES)
    parser.add_argument("--format", type=_some_of(formats), default=",".join(formats))
    parser.add_argument("--size", metavar="HxW", help="instead of the preset's own")
    parser.add_argument("--doll-steps", type=int, default=0, metavar="N", help="train sst-tiny")
    parser.add_argument("--json", type=Path, default=Path("docs/export/presets.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/export.md"))
    return parser


def _some_of(allowed: Collection[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        words = list(filter(None, text.split(",")))
        if unknown := [word for word in words if word not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r}; choose from {', '.join(allowed)}")
        return words

    return read


def subjects(folder: Path, args: argparse.Namespace) -> Iterator[Subject]:
    """The networks asked for, one checkpoint on disk at a time."""
    for preset in args.preset:
        size = args.size or SIZES.get(preset, "512x512")
        subject = Subject(preset, "random", size, folder / "random.pt")
        write_random(subject)
        yield subject
    if args.doll_steps:
        size = args.size or SIZES["sst-tiny"]
        yield train_on_dolls(folder / "run", args.doll_steps, size)


def write_random(subject: Subject) -> None:
    """A checkpoint of the preset as it is before the first step, by seed 0."""
    torch.manual_seed(0)
    domains = (load_domain("cihp"),)
    network = new_network(random_config(subject.preset), domains)
    family, config = describe_network(network)
    height, width = map(int, subject.size.split("x"))
    checkpoint = Checkpoint(
        family=family,
        config=config,
        domains=domains,
        model=network.state_dict(),
        input=input_description((height, width)),
    )
    write_checkpoint(subject.checkpoint, checkpoint)


def random_config(preset: str) -> NetworkConfig:
    """The preset's configuration with text features drawn too, where it has any."""
    config = PRESETS[preset]
    if isinstance(config, SCHNetConfig):
        return replace(config, text_features="random-orthonormal")
    return config


def train_on_dolls(folder: Path, steps: int, size: str) -> Subject:
    """sst-tiny after `steps` steps of the configuration `paperdolls`, by hp-train."""
    sides = f"[{size.replace('x', ', ')}]"
    settings = ["preset=sst-tiny", 'domains=["cihp"]', f"train.steps={steps}", "data.workers=0"]
    settings += [f"train.input_hw={sides}", f"data.augment.crop_hw={sides}"]
    ended = run_child(
        [*_python("hp_trainer.cli.train"), "paperdolls", *settings, "--output", str(folder)]
    )
    if ended.code:
        raise SystemExit(f"hp-train ended with {ended.code}: {ended.last_words}")
    return Subject("sst-tiny", f"{steps} steps on dolls", size, folder / "last.pt")


def run_formats(subject: Subject, formats: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """An entry for each precision, and for the engine of each that passed."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        work = Path(place)
        height, width = map(int, subject.size.split("x"))
        write_dataset(work / "dolls", count=DOLLS, seed=0, size_hw=(height, width))
        for precision in (p for p in PRECISIONS if p in formats):
            yield export(subject, precision, work)
            if ENGINES in formats and (work / precision).is_dir():
                yield build_engine(subject, precision, work)


def export(subject: Subject, precision: str, work: Path) -> dict[str, Any]:
    """hp-export in one precision; the gate judges int8 on dolls, the others on its probes too."""
    report = work / f"{precision}.json"
    command = [*_python("hp_export.cli"), str(subject.checkpoint), "-o", str(work / precision)]
    command += ["--precision", precision, "--calib", str(work / "dolls" / "images")]
    ended = run_child([*command, "--size", subject.size, "--json", str(report)])
    return _entry(subject, precision, ended, _told(report))


def build_engine(subject: Subject, precision: str, work: Path) -> dict[str, Any]:
    """An engine for several GPUs; its labels are for a machine that has one of them."""
    report = work / f"{precision}.{ENGINES}.json"
    command = [*_python("hp_export.tensorrt.__main__"), str(work / precision)]
    command += ["--format", ENGINES, "--compute-capability", CAPABILITIES, "--no-verify"]
    ended = run_child([*command, "--json", str(report)])
    return _entry(subject, f"{ENGINES} {precision}", ended, _told(report))


def run_child(command: Sequence[str]) -> Ended:
    """Run a command to its end, and look at what it took.

    A small process stands between, because Linux counts the memory of the one that starts another
    among the peak of the other.
    """
    start = time.perf_counter()
    between = [sys.executable, "-S", "-c", MEASURE, *command]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            between, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process:
            try:
                told, _ = process.communicate()
            except BaseException:  # also an interruption
                os.killpg(process.pid, signal.SIGKILL)
                raise
        seconds = time.perf_counter() - start
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    code, cpu_seconds, peak_kib = json.loads(told)
    return Ended(code, seconds, cpu_seconds, 1024 * peak_kib, lines[-1] if lines else "")


def _python(module: str) -> list[str]:
    return [sys.executable, "-c", RUN.format(module)]


def _told(report: Path) -> dict[str, Any]:
    return json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}


def _entry(subject: Subject, name: str, ended: Ended, told: dict[str, Any]) -> dict[str, Any]:
    artifacts = told.get("artifacts", [])
    judged = [e for e in told.get("verify", []) if e["runtime"].startswith("onnxruntime")]
    decided = next(iter(told.get("decided", {}).values()), {})
    return {
        "preset": subject.preset,
        "weights": subject.weights,
        "size": subject.size,
        "format": name,
        "verdict": VERDICTS.get(ended.code, "failed"),
        "reason": ended.last_words if ended.code else "",
        "size_bytes": sum(_bytes_of(artifact) for artifact in artifacts),
        "seconds": round(ended.seconds, 1),
        "cpu_seconds": round(ended.cpu_seconds, 1),
        "peak_bytes": ended.peak_bytes,
        "label_agreement": min((e["label_agreement"] for e in judged), default=None),
        "miou": min((e["miou"] for e in judged), default=None),
        "computes": decided.get("computes", {}),
        "kept_fp32": len(decided.get("kept_fp32", [])),
        "ranked_by": decided.get("ranked_by", ""),
    }


def _bytes_of(artifact: dict[str, Any]) -> int:
    return artifact["size_bytes"] + sum(data["size_bytes"] for data in artifact.get("data", []))


class Table:
    """Results on disk: the JSON file, and the table of the page."""

    def __init__(self, path: Path, page: Path) -> None:
        self._path, self._page = path, page
        text = path.read_text(encoding="utf-8") if path.is_file() else "{}"
        self._entries: dict[tuple[str, ...], dict[str, Any]] = {
            _key(entry): entry for entry in json.loads(text).get("entries", [])
        }

    def add(self, entry: dict[str, Any]) -> None:
        """Take the place of an earlier entry of the same network and format."""
        self._entries[_key(entry)] = entry | {"machine": _machine()}
        entries = sorted(self._entries.values(), key=_order)
        text = json.dumps({"entries": entries}, indent=1)
        write_bytes(self._path, f"{text}\n".encode())
        write_section(self._page, "presets", "scripts/export_presets.py", markdown(entries))


def _key(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["preset"], entry["weights"], entry["format"]


def _order(entry: dict[str, Any]) -> tuple[Any, ...]:
    precision = entry["format"].split()[-1]
    return (
        list(PRESETS).index(entry["preset"]),
        entry["weights"] != "random",
        entry["weights"],
        PRECISIONS.index(precision),
        entry["format"],
    )


def _machine() -> dict[str, Any]:
    """What decides about seconds and labels."""
    names = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt-rtx-cu13")
    machine = asdict(read_machine())
    return {
        "processor": machine["processor"],
        "cores": machine["cores"],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in names},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def markdown(entries: Sequence[dict[str, Any]]) -> str:
    """The table, and below it what the gate said of every refusal."""
    rows = [
        f"| {e['preset']} | {e['weights']} | {e['size']} | {e['format']} | {e['verdict']} "
        f"| {_mega(e['size_bytes'])} | {_number(e['cpu_seconds'], '.0f')} "
        f"| {_mega(e['peak_bytes'], digits=0)} "
        f"| {_number(e['label_agreement'], '.3%')} | {_number(e['miou'], '.4f')} |"
        for e in entries
    ]
    refusals = [
        f"* {e['preset']} ({e['weights']}), {e['format']}: {e['reason']}"
        for e in entries
        if e["reason"]
    ]
    return "\n".join([HEADER, *rows, *([""] if refusals else []), *refusals])


def _mega(size_bytes: int, *, digits: int = 2) -> str:
    return f"{size_bytes / 1e6:.{digits}f}" if size_bytes else "–"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
