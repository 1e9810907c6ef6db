"""hp-doctor: what is installed, what really runs, what is wrong and what to do about it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence

from hp_sdk.backends import BACKENDS
from hp_sdk.cli import new_parser, run_command
from hp_sdk.doctor import Report, RuntimeReport, Trial, examine
from hp_sdk.errors import BackendError
from hp_sdk.machine import Graphics, Machine

_GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-doctor."""
    parser = new_parser("hp-doctor", "Tell what runs here and what is wrong; changes nothing.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return run_command(parser, _doctor, argv)


def _doctor(options: argparse.Namespace) -> int:
    report = examine()
    if options.json:
        print(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(report)))
    return 0 if report.works else BackendError.exit_code


def _lines(report: Report) -> Iterator[str]:
    yield f"hp-sdk    {report.version}"
    yield from _machine_lines(report.machine)
    yield f"gpu       {_graphics_text(report.graphics)}"
    yield f"opencv    {report.opencv or 'cannot be imported'}"
    yield f"native    hp_sdk._native is {report.native}"
    for runtime in report.runtimes:
        yield from _runtime_lines(runtime)
    writable = f"cannot be written to: {report.home_error}" if report.home_error else "writable"
    yield f"HP_HOME   {report.home} ({writable})"
    yield f"offline   HP_OFFLINE is {'not set' if report.offline is None else report.offline}"
    for bundle in report.bundles:
        origin = "shipped" if bundle.shipped else "added"
        state = bundle.error or f"{', '.join(bundle.heads)}; every file is as its manifest says"
        yield f"model     {bundle.name} ({origin}): {state}"
    for problem in report.problems:
        yield f"problem   {problem.what}"
        yield f"  remedy  {problem.remedy}"
    yield f"verdict   {_verdict(report)}"


def _machine_lines(machine: Machine) -> Iterator[str]:
    yield f"python    {machine.python} {machine.executable}"
    yield f"system    {machine.system}"
    quota = "" if machine.core_quota is None else f", allowed {machine.core_quota:g}"
    yield f"cpu       {machine.processor}, {machine.cores} cores{quota}"
    if machine.flags is not None:
        there = " ".join(flag for flag, is_there in machine.flags.items() if is_there) or "none"
        absent = " ".join(flag for flag, is_there in machine.flags.items() if not is_there)
        yield f"          has {there}; lacks {absent or 'none'}"
    total, free = (_gib(size) for size in (machine.memory_bytes, machine.memory_free_bytes))
    yield f"memory    {total}, {free} free"


def _gib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / _GIB:.1f} GiB"


def _graphics_text(graphics: Graphics) -> str:
    if not graphics.source:
        return "none from NVIDIA (neither nvidia-smi nor the CUDA driver library is there)"
    if not graphics.gpus:
        return graphics.problem or f"none, says the {graphics.source}"
    return f"{'; '.join(graphics.gpus)}; driver {graphics.driver} ({graphics.source})"


def _runtime_lines(runtime: RuntimeReport) -> Iterator[str]:
    if runtime.state == "absent":
        yield f'runtime   {runtime.name} is not installed; pip install "hp-sdk[{_extra(runtime)}]"'
        return
    if runtime.state == "broken":
        yield f"runtime   {runtime.name} is broken: {runtime.message}"
        return
    listed = ", ".join(runtime.listed)
    note = f"; {runtime.message}" if runtime.message else ""
    yield f"runtime   {runtime.name} {runtime.version} lists {listed}{note}"
    for trial in runtime.trials:
        yield f"  {trial.device:7} {_trial_text(trial)}"
        yield from (f"          note: {note}" for note in trial.notes)


def _extra(runtime: RuntimeReport) -> str:
    return BACKENDS[runtime.name].extra


def _trial_text(trial: Trial) -> str:
    if not trial.works:
        return f"fails: {trial.error}"
    return (
        f"works: {trial.provider} in {trial.precision or 'unknown precision'}, ready after "
        f"{trial.ready_ms:.0f} ms, then {trial.parse_ms:.0f} ms a picture"
    )


def _verdict(report: Report) -> str:
    working = [
        f"{runtime.name} on {trial.device}"
        for runtime in report.runtimes
        for trial in runtime.trials
        if trial.works
    ]
    if not working:
        return "no model can be parsed here"
    return f"models can be parsed with {', '.join(working)}"
