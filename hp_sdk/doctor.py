"""Whether a model can be parsed here, and what to do about it if not.

Every probe stands alone: a broken runtime becomes a line of the report, never a traceback.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from hp_sdk.backends import BACKENDS
from hp_sdk.bundle import read_bundle, verify_files
from hp_sdk.errors import HpError
from hp_sdk.machine import Graphics, Machine, find_nvidia, read_machine
from hp_sdk.models import ModelEntry, home, list_models
from hp_sdk.native import accelerator
from hp_sdk.probe import Fact, Outcome, run_probe

Probe = Callable[..., Outcome]

RIVALS = {
    "cv2": (
        "opencv-contrib-python-headless",
        "opencv-contrib-python",
        "opencv-python-headless",
        "opencv-python",
    ),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
}
"""Module → distributions that install it, in the order in which one is worth keeping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One runtime on one device, with a real model."""

    device: str
    works: bool
    provider: str = ""
    precision: str = ""
    ready_ms: float = 0.0
    """From nothing to the first answer."""
    parse_ms: float = 0.0
    """One more picture."""
    notes: Sequence[str] = ()
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeReport:
    """One of the backends."""

    name: str
    state: str
    """"works" (somewhere), "fails", "broken", "absent", or "untried" for want of a model."""
    version: str = ""
    listed: Sequence[str] = ()
    trials: tuple[Trial, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """One model that has a name."""

    name: str
    path: str
    shipped: bool
    heads: tuple[str, ...]
    artifacts: tuple[str, ...] = ()
    """Runtime kinds, such as "onnx"."""
    error: str = ""
    """Why it cannot be used, or nothing if every file is as its manifest says."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything hp-doctor knows."""

    version: str
    machine: Machine
    graphics: Graphics
    opencv: str
    """Version, or nothing if OpenCV cannot be imported."""
    native: str = ""
    """Whether the accelerator is in use, or why not."""
    runtimes: tuple[RuntimeReport, ...]
    bundles: tuple[BundleReport, ...]
    home: str
    home_error: str
    offline: str | None
    """`HP_OFFLINE` as it is set."""
    problems: tuple[Problem, ...] = ()

    @property
    def works(self) -> bool:
        """A model can be parsed."""
        return any(trial.works for runtime in self.runtimes for trial in runtime.trials)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"works": self.works} | asdict(self)


def examine(probe: Probe = run_probe) -> Report:
    """Look at everything; `probe` runs what may crash in another process."""
    bundles = tuple(_bundle(entry) for entry in _models())
    opencv = probe("module", "cv2")
    report = Report(
        version=_version("hp-sdk"),
        machine=read_machine(),
        graphics=find_nvidia() or _driver(probe("driver")),
        opencv=str(_first(opencv.facts, "version") or ""),
        native=accelerator().state,
        runtimes=tuple(_runtime(name, bundles, probe) for name in BACKENDS),
        bundles=bundles,
        home=str(home()),
        home_error=_home_error(home()),
        offline=os.environ.get("HP_OFFLINE"),
    )
    found = [problem for check in CHECKS for problem in check(report)]
    if opencv.crash:
        found.insert(0, _no_opencv(opencv.crash))
    return replace(report, problems=tuple(found))


def _runtime(name: str, bundles: Sequence[BundleReport], probe: Probe) -> RuntimeReport:
    reads = BACKENDS[name].reads
    usable = [bundle for bundle in bundles if not bundle.error and reads in bundle.artifacts]
    usable.sort(key=lambda bundle: not bundle.shipped)
    outcome = probe("runtime", name, usable[0].path if usable else "")
    for state in ("absent", "broken"):
        if message := _first(outcome.facts, state):
            return RuntimeReport(name=name, state=state, message=message)
    installed = _first(outcome.facts, "installed")
    trials = tuple(_trials(outcome))
    if installed is None or (outcome.crash and not trials):
        message = f"{name} {outcome.crash or 'says nothing'}"
        return RuntimeReport(name=name, state="broken", message=message)
    works = any(trial.works for trial in trials)
    return RuntimeReport(
        name=name,
        state="works" if works else "fails" if trials else "untried",
        version=installed["version"],
        listed=installed["listed"],
        trials=trials,
        message="" if trials else f"no model here has an artifact of kind {reads!r}",
    )


def _trials(outcome: Outcome) -> Iterator[Trial]:
    begun = [fact["trying"] for fact in outcome.facts if "trying" in fact]
    for key, works in (("works", True), ("fails", False)):
        for end in (fact[key] for fact in outcome.facts if key in fact):
            begun = [device for device in begun if device != end["device"]]
            yield Trial(works=works, **end)
    for device in begun:
        yield Trial(device=device, works=False, error=outcome.crash or "says nothing")


def _driver(outcome: Outcome) -> Graphics:
    source = "CUDA driver library"
    if outcome.crash:
        return Graphics(source=source, problem=f"the CUDA driver library {outcome.crash}")
    if not outcome.facts:
        return Graphics()
    fact = outcome.facts[0]
    return Graphics(
        source=source,
        driver=fact.get("driver", ""),
        gpus=tuple(fact.get("gpus", ())),
        problem=fact.get("problem", ""),
    )


def _models() -> tuple[ModelEntry, ...]:
    try:
        return list_models()
    except OSError:  # the folder cannot be listed; `home_error` says so
        return ()


def _bundle(entry: ModelEntry) -> BundleReport:
    artifacts: tuple[str, ...] = ()
    try:
        bundle = read_bundle(entry.path)
        artifacts = tuple(dict.fromkeys(artifact.runtime for artifact in bundle.artifacts))
        verify_files(bundle)
        error = ""
    except (HpError, OSError) as exc:
        error = str(exc)
    return BundleReport(
        name=entry.name,
        path=str(entry.path),
        shipped=entry.shipped,
        heads=entry.heads,
        artifacts=artifacts,
        error=error,
    )


def _home_error(folder: Path) -> str:
    """Why nothing could be written below a folder that need not exist yet."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)


def _doubled(report: Report) -> Iterator[Problem]:
    owners = metadata.packages_distributions()
    for module, known in RIVALS.items():
        names = sorted({_normal(name) for name in owners.get(module, []) if name})
        if len(names) < 2:
            continue
        wanted = known if report.graphics.gpus else [n for n in known if not n.endswith("-gpu")]
        keep = next((name for name in wanted if name in names), names[0])
        yield Problem(
            f"{' and '.join(names)} both install the module {module!r} and overwrite each other",
            f"pip uninstall -y {' '.join(names)}; pip install {keep}",
        )


def _no_opencv(crash: str) -> Problem:
    return Problem(
        f"OpenCV cannot be imported: {crash}",
        "pip uninstall -y opencv-python opencv-python-headless; pip install opencv-python-headless",
    )


def _stale_native(report: Report) -> Iterator[Problem]:
    if accelerator().is_stale:
        yield Problem(f"hp_sdk._native is {report.native}", "make native")


def _no_runtime(report: Report) -> Iterator[Problem]:
    if all(runtime.state == "absent" for runtime in report.runtimes):
        extra = "gpu" if report.graphics.gpus else "cpu"
        yield Problem("no runtime is installed", f'pip install "hp-sdk[{extra}]"')


def _broken_runtimes(report: Report) -> Iterator[Problem]:
    for runtime in report.runtimes:
        if runtime.state == "broken":
            extra = BACKENDS[runtime.name].extra
            yield Problem(runtime.message, f'pip install --force-reinstall "hp-sdk[{extra}]"')


def _failed_trials(report: Report) -> Iterator[Problem]:
    if not report.opencv:
        return  # nothing can work, and that has been said
    for runtime in report.runtimes:
        for trial in runtime.trials:
            if not trial.works:
                yield Problem(
                    f"{runtime.name} lists {trial.device} but runs no model on it: {trial.error}",
                    _trial_remedy(runtime, trial, report.graphics),
                )


def _trial_remedy(runtime: RuntimeReport, trial: Trial, graphics: Graphics) -> str:
    extra = BACKENDS[runtime.name].extra
    if not trial.device.startswith("cuda"):
        return f'pip install --force-reinstall "hp-sdk[{extra}]", or another runtime'
    if not graphics.gpus:
        return "install NVIDIA's driver; without a GPU, install the build for the CPU instead"
    if runtime.name == "onnxruntime":
        return 'pip install "onnxruntime-gpu[cuda,cudnn]"; its CUDA libraries must fit the driver'
    return "install a build whose CUDA version the driver supports"


def _idle_gpu(report: Report) -> Iterator[Problem]:
    tried = [trial for runtime in report.runtimes for trial in runtime.trials]
    if report.graphics.gpus and not any(trial.device.startswith("cuda") for trial in tried):
        yield Problem(
            f"no runtime uses the GPU ({report.graphics.gpus[0]})",
            'pip uninstall -y onnxruntime; pip install "hp-sdk[gpu]"',
        )


def _bad_driver(report: Report) -> Iterator[Problem]:
    if report.graphics.problem:
        yield Problem(report.graphics.problem, "install or restart NVIDIA's driver")


def _bad_bundles(report: Report) -> Iterator[Problem]:
    if not report.bundles:
        yield Problem("there is no model", "pip install --force-reinstall --no-deps hp-sdk")
    for bundle in report.bundles:
        if bundle.error and bundle.shipped:
            yield Problem(bundle.error, "pip install --force-reinstall --no-deps hp-sdk")
        elif bundle.error:
            again = f"hp-models remove {bundle.name}; hp-models add {bundle.name} BUNDLE"
            yield Problem(bundle.error, again)


def _bad_home(report: Report) -> Iterator[Problem]:
    if report.home_error:
        yield Problem(
            f"nothing can be written to HP_HOME {report.home!r}: {report.home_error}",
            "set HP_HOME to a folder of your own; until then hp-models add does not work",
        )


CHECKS: Sequence[Callable[[Report], Iterator[Problem]]] = (
    _doubled,
    _stale_native,
    _no_runtime,
    _broken_runtimes,
    _failed_trials,
    _bad_driver,
    _idle_gpu,
    _bad_bundles,
    _bad_home,
)


def _normal(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def _first(facts: Sequence[Fact], key: str) -> Any:
    return next((fact[key] for fact in facts if key in fact), None)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(not installed)"
