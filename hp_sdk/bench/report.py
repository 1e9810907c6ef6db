"""What a benchmark found: one row per configuration, as plain data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hp_sdk.bench.compare import KIND, SCHEMA, Comparison
from hp_sdk.bench.fresh import Cold
from hp_sdk.bench.gpu import GpuReport
from hp_sdk.bench.measure import INFER, Answers, Measurement, Run, WarmUp
from hp_sdk.bench.setting import Setting, plain
from hp_sdk.bench.statistics import Estimate, mean, percentile

PERCENTILES = (50, 90, 99)
AGREEMENT_MIN = 0.99
"""Share of pixels that two configurations must label alike, as for fp16 weights in a bundle."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds per call."""

    p50: Estimate
    p90: Estimate
    p99: Estimate
    mean: Estimate
    std: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Stage:
    """Milliseconds per call; the means of all stages add up to the mean latency."""

    mean: float
    p50: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Whether what was timed was right."""

    stable: bool
    """Every run labelled its photos as the first run did."""
    runs_differing: int
    differing_px: int
    sha256: str
    agreement: float
    """Share of pixels labelled as by the first configuration."""

    @property
    def right(self) -> bool:
        """The verdict."""
        return self.stable and self.agreement >= AGREEMENT_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration."""

    name: str
    backend: str
    version: str
    provider: str
    precision: str
    artifact: str
    network_hw: tuple[int, int] | None
    tta: str
    batch: int
    size_hw: tuple[int, int] | None
    runs: int
    warmup: WarmUp
    latency_ms: Latency
    throughput: Estimate
    """Images per second."""
    stages_ms: Mapping[str, Stage]
    overhead_share: float
    network_gflops: float | None
    peak_share: float | None
    load_ms: float
    cold: Cold | None
    outputs: Outputs
    notes: tuple[str, ...]
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All of it."""

    created: str
    setting: Setting
    configurations: tuple[Row, ...]
    gpu: GpuReport | None = None
    """What a GPU did, by its own clock; None if none worked."""
    comparison: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """As the docstring of `hp_sdk.bench` lays it out."""
        return {"schema": SCHEMA, "kind": KIND} | plain(asdict(self))


def now() -> str:
    """UTC to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_row(found: Measurement, cold: Cold | None, first: Answers, setting: Setting) -> Row:
    """The row of one measurement; `first` are the answers to compare with."""
    subject, receipt = found.subject, found.receipt
    samples = [run.total_ms for run in found.runs]
    latency = _latency(samples)
    stages = _stages(found.runs)
    backend, _, version = receipt.backend.partition(" ")
    gflops = _gflops(stages[INFER].mean, subject.batch * subject.views, setting.model.macs)
    on_cpu = gflops is not None and "cpu" in receipt.provider.lower()
    return Row(
        name=subject.name,
        backend=backend,
        version=version,
        provider=receipt.provider,
        precision=receipt.precision,
        artifact=receipt.artifact,
        network_hw=receipt.network_hw,
        tta=receipt.tta,
        batch=subject.batch,
        size_hw=subject.photos.size_hw,
        runs=len(samples),
        warmup=found.warmup,
        latency_ms=latency,
        throughput=latency.mean.inverse(1e3 * subject.batch),
        stages_ms=stages,
        overhead_share=_overhead_share(stages),
        network_gflops=gflops,
        peak_share=gflops / setting.machine.peak_gflops if gflops is not None and on_cpu else None,
        load_ms=subject.load_ms,
        cold=cold,
        outputs=_outputs(found.answers, first),
        notes=tuple(_notes(found)),
        samples_ms=tuple(samples),
    )


def _latency(samples: Sequence[float]) -> Latency:
    p50, p90, p99 = (percentile(samples, each) for each in PERCENTILES)
    spread = float(np.std(samples))
    return Latency(p50, p90, p99, mean(samples), spread, min(samples), max(samples))


def _stages(runs: Sequence[Run]) -> dict[str, Stage]:
    each = {stage: [run.stages_ms[stage] for run in runs] for stage in runs[0].stages_ms}
    return {
        stage: Stage(float(np.mean(samples)), percentile(samples, 50).value)
        for stage, samples in each.items()
    }


def _overhead_share(stages: Mapping[str, Stage]) -> float:
    around = sum(stage.mean for name, stage in stages.items() if name != INFER)
    return around / stages[INFER].mean if stages[INFER].mean else float("inf")


def _gflops(infer_ms: float, inputs: int, macs: int | None) -> float | None:
    """Billions of operations per second while the network runs; a MAC is two."""
    return None if macs is None or not infer_ms else 2e-6 * macs * inputs / infer_ms


def _outputs(answers: Answers, first: Answers) -> Outputs:
    return Outputs(
        stable=not answers.runs_differing,
        runs_differing=answers.runs_differing,
        differing_px=answers.differing_px,
        sha256=answers.sha256(),
        agreement=answers.agreement(first),
    )


def _notes(found: Measurement) -> Iterator[str]:
    subject, receipt = found.subject, found.receipt
    yield from receipt.notes
    if not found.warmup.settled:
        yield f"still unsteady after {found.warmup.runs} runs of warm-up"
    inputs, file = subject.batch * subject.views, receipt.artifact.partition(" ")[0]
    for artifact in subject.parser.bundle.artifacts:
        if artifact.file == file and inputs > artifact.batch_max:
            yield f"{file} takes {artifact.batch_max} inputs at once: {inputs} run in pieces"
