"""Under what conditions is measured: options, machine, model and photos."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from hp_sdk.bench.fresh import MATRIX, measure_peak
from hp_sdk.bench.pictures import PhotoSet
from hp_sdk.errors import ConfigError
from hp_sdk.machine import find_nvidia, read_machine
from hp_sdk.native import accelerator
from hp_sdk.parser import Parser

BUSY_SHARE = 0.25
"""Of the cores, that other programs may use before the report calls the machine busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is asked for."""

    model: str
    backends: tuple[str, ...] = ("auto",)
    batches: tuple[int, ...] = (1,)
    """Photos in one call."""
    device: str | None = None
    precision: str = "auto"
    tta: str = "none"
    threads: int | None = None
    runs: int | None = None
    """Of each configuration, instead of `duration_s`."""
    duration_s: float = 10.0
    """Measuring time per configuration, shared by all."""
    cold_starts: int = 3
    baselines: tuple[str, ...] = ()
    """On a GPU, also networks alone: of `hp_sdk.bench.gpu.BASELINES`."""
    seed: int = 0
    photos: tuple[Path, ...] = ()
    """Files; without any, figures are drawn."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(height, width) of the photos; without any, as the files are."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("batches", min(self.batches, default=0), 1),
            ("backends", len(self.backends), 1),
            ("runs", 1 if self.runs is None else self.runs, 1),
            ("cold_starts", self.cold_starts, 0),
        ):
            if value < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; allowed is {least} or more")
        if not 0 < self.duration_s < float("inf"):
            raise ConfigError(f"duration_s is {self.duration_s}; allowed are seconds above 0")

    @property
    def load_options(self) -> dict[str, Any]:
        """For `Parser.load`, next to model and backend."""
        return {
            "device": self.device,
            "precision": self.precision,
            "tta": self.tta,
            "num_threads": self.threads,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Where is measured."""

    processor: str
    cores: int
    core_quota: float | None
    flags: Mapping[str, bool] | None
    memory_bytes: int | None
    system: str
    python: str
    gpus: tuple[str, ...]
    driver: str
    governor: str | None
    """Of the first core's frequency, as Linux names it."""
    load_average: float | None
    """Of the minute before."""
    peak_gflops: float
    peak_how: str
    versions: Mapping[str, str]

    def problems(self) -> Iterator[str]:
        """What makes the numbers worth less."""
        if self.load_average is not None and self.load_average > BUSY_SHARE * self.cores:
            yield (
                f"other programs were busy before the start (load {self.load_average:.1f} on "
                f"{self.cores} cores): the numbers are theirs too"
            )
        if self.governor not in (None, "performance"):
            yield f"the processor's governor is {self.governor!r}: its frequency varies"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is measured."""

    name: str
    version: str
    family: str
    head: str
    macs: int | None
    """Multiply-accumulates of the network for one input, if the bundle's card says."""
    artifacts: Mapping[str, str]
    """File → sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoFacts:
    """What is parsed."""

    title: str
    identity: str
    count: int
    size_hw: tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that two reports must share to be compared, and what explains a difference."""

    options: Options
    machine: MachineFacts
    model: ModelFacts
    photos: tuple[PhotoFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """The same in what JSON can hold; numbers are rounded to four digits after the point."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def read_setting(options: Options, parser: Parser, photos: Sequence[PhotoSet]) -> Setting:
    """The setting of a benchmark whose parsers are open and idle."""
    return Setting(
        options=options,
        machine=read_machine_facts(options.threads),
        model=model_facts(parser),
        photos=tuple(
            PhotoFacts(
                title=each.title,
                identity=each.identity,
                count=len(each.files),
                size_hw=each.size_hw,
            )
            for each in photos
        ),
    )


def read_machine_facts(threads: int | None, root: Path = Path("/")) -> MachineFacts:
    """This machine; its peak is measured in another process with so many threads."""
    load = _load_average()  # before the peak, which is load itself
    machine, graphics = read_machine(root), find_nvidia()
    product = f"numpy float32 matrix product {MATRIX} x {MATRIX} x {MATRIX}"
    return MachineFacts(
        processor=machine.processor,
        cores=machine.cores,
        core_quota=machine.core_quota,
        flags=machine.flags,
        memory_bytes=machine.memory_bytes,
        system=machine.system,
        python=machine.python,
        gpus=() if graphics is None else graphics.gpus,
        driver="" if graphics is None else graphics.driver,
        governor=_governor(root),
        load_average=load,
        peak_gflops=measure_peak(threads),
        peak_how=f"{product}, threads: {threads or 'all'}, best of a few",
        versions=_versions(),
    )


def model_facts(parser: Parser) -> ModelFacts:
    """What the bundle says of itself."""
    bundle = parser.bundle
    return ModelFacts(
        name=bundle.name,
        version=bundle.version,
        family=bundle.family,
        head=parser.head,
        macs=_macs(bundle.card.get("macs"), parser.head),
        artifacts={artifact.file: artifact.sha256 for artifact in bundle.artifacts},
    )


def _macs(stated: object, head: str) -> int | None:
    """A card states one number, or one per head."""
    if isinstance(stated, Mapping):
        stated = cast("Mapping[str, object]", stated).get(head)
    return stated if isinstance(stated, int) and stated > 0 else None


def _governor(root: Path) -> str | None:
    try:
        path = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _load_average() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _versions() -> dict[str, str]:
    return {
        "hp-sdk": _version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "steps": accelerator().name,
    }


def _version() -> str:
    try:
        return metadata.version("hp-sdk")
    except metadata.PackageNotFoundError:
        return ""
