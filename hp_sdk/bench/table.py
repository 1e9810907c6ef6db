"""A report as text: a few tables, then what a reader should know before believing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from hp_sdk.bench.compare import Comparison
from hp_sdk.bench.gpu import GpuReport, GpuRow
from hp_sdk.bench.report import AGREEMENT_MIN, Report, Row
from hp_sdk.bench.setting import Setting
from hp_sdk.bench.statistics import Estimate
from hp_sdk.gpu.sensors import Sensors

_MB = 1e6


def report_lines(report: Report) -> Iterator[str]:
    """Everything, line by line."""
    rows = report.configurations
    yield from _setting(report.setting)
    yield from _section("latency in ms per call, with 95 % intervals", _latency(rows))
    yield from _section("runs", _runs(rows))
    yield from _section("stages, mean ms per call", _stages(rows))
    if any(row.cold for row in rows):
        yield from _section("cold start in a fresh process, ms", _cold(rows))
    if report.gpu is not None:
        yield from _gpu(report.gpu)
    if report.comparison is not None:
        yield from _section(f"against {report.comparison.base}", _changes(report.comparison))
    notes = list(_notes(report))
    if notes:
        yield from ("", *(f"note: {note}" for note in notes))


def _setting(setting: Setting) -> Iterator[str]:
    model, machine, options = setting.model, setting.machine, setting.options
    macs = "MACs not stated in its card" if model.macs is None else f"{model.macs / 1e9:.2f} GMACs"
    yield f"model    {model.name} {model.version}, head {model.head}, {macs}"
    gpus = f"; {'; '.join(machine.gpus)}, driver {machine.driver}" if machine.gpus else ""
    threads = f"threads: {options.threads or 'the choice of the runtime'}"
    yield f"machine  {machine.processor}, {machine.cores} cores, {threads}{gpus}"
    load = "unknown" if machine.load_average is None else f"{machine.load_average:.2f}"
    yield f"         governor {machine.governor or 'unknown'}, load before {load}"
    yield f"         peak {machine.peak_gflops:.0f} GFLOP/s ({machine.peak_how})"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield f"software Python {machine.python}, {versions}"
    for photos in setting.photos:
        size = "x".join(map(str, photos.size_hw or ("each its own size",)))
        yield f"photos   {photos.title}, {size}"


Table = list[tuple[str, ...]]
"""A head and rows; the first column is words, the others are numbers."""


def _latency(rows: Sequence[Row]) -> Table:
    head = ("", "p50", "p90", "p99", "mean", "images/s")
    return [head, *(_latency_row(row) for row in rows)]


def _latency_row(row: Row) -> tuple[str, ...]:
    times = row.latency_ms
    estimates = (times.p50, times.p90, times.p99, times.mean, row.throughput)
    return row.name, *map(_estimate, estimates)


def _runs(rows: Sequence[Row]) -> Table:
    head = ("", "on", "runs", "warm-up", "min", "max", "std", "labels")
    return [head, *(_runs_row(row) for row in rows)]


def _runs_row(row: Row) -> tuple[str, ...]:
    times, where = row.latency_ms, f"{row.provider} {row.precision}".strip()
    spread = (times.min, times.max, times.std)
    return row.name, where, str(row.runs), str(row.warmup.runs), *map(number, spread), _labels(row)


def _labels(row: Row) -> str:
    outputs = row.outputs
    if not outputs.stable:
        return f"FAIL, {outputs.runs_differing} runs differ"
    if outputs.agreement < AGREEMENT_MIN:
        return f"FAIL, {100 * outputs.agreement:.2f} % alike"
    return "same" if outputs.agreement == 1 else f"{100 * outputs.agreement:.3f} % alike"


def _stages(rows: Sequence[Row]) -> Table:
    stages = list(rows[0].stages_ms)
    head = ("", *stages, "overhead / infer", "GFLOP/s", "of peak")
    return [head, *(_stages_row(row, stages) for row in rows)]


def _stages_row(row: Row, stages: Sequence[str]) -> tuple[str, ...]:
    means = (number(row.stages_ms[stage].mean) for stage in stages)
    gflops = "-" if row.network_gflops is None else f"{row.network_gflops:.1f}"
    return row.name, *means, _percent(row.overhead_share), gflops, _percent(row.peak_share)


def _cold(rows: Sequence[Row]) -> Table:
    head = ("", "import", "load", "first call", "total", "peak memory", "starts")
    return [head, *(_cold_row(row) for row in rows if row.cold)]


def _cold_row(row: Row) -> tuple[str, ...]:
    cold = row.cold
    assert cold is not None, "only rows with cold starts are shown"
    times = (cold.import_ms, cold.load_ms, cold.first_ms, cold.total_ms)
    size = cold.peak_memory_bytes
    memory = "unknown" if size is None else f"{size / _MB:.0f} MB"
    return row.name, *(f"{time:.0f}" for time in times), memory, str(cold.starts)


def _gpu(gpu: GpuReport) -> Iterator[str]:
    """By the device's own clock: the engines, what they reach of the peaks, and the baselines."""
    if gpu.rows:
        yield from _section(f"on {gpu.name}, device ms per batch", _gpu_stages(gpu.rows))
        yield from _section("with every slot at work", _gpu_shares(gpu.rows))
    if gpu.baselines:
        head = ("", "network ms", "images/s")
        rows = [(f"{row.name}, batch {row.batch}", row.network_ms, row.photos_per_s)
                for row in gpu.baselines]  # fmt: skip
        yield from _section(
            "networks alone", [head, *((name, number(a), number(b)) for name, a, b in rows)]
        )
    peaks = gpu.copies_gb_per_s
    copies = "unknown" if peaks is None else f"{peaks.up:.1f} up, {peaks.down:.1f} down"
    matmul = "unknown" if gpu.matmul_tflops is None else f"{gpu.matmul_tflops:.0f} TFLOP/s"
    yield from ("", f"peaks measured here: copies GB/s {copies}; float16 matrix product {matmul}")
    for when, sensors in gpu.sensors.items():
        if sensors is not None:
            yield f"{when}: {_sensors(sensors)}"


def _gpu_stages(rows: Sequence[GpuRow]) -> Table:
    head = ("", *rows[0].stages_ms, "engine alone", "latency", "enqueue")
    return [
        head,
        *(
            (
                row.name,
                *map(number, row.stages_ms.values()),
                *map(number, (row.network_ms, row.latency_ms, row.enqueue_ms)),
            )
            for row in rows
        ),
    ]


def _gpu_shares(rows: Sequence[GpuRow]) -> Table:
    head = ("", "images/s", "of engine", "up", "down", "of copies", "TFLOP/s", "of matmul")
    return [head, *(_gpu_shares_row(row) for row in rows)]


def _gpu_shares_row(row: GpuRow) -> tuple[str, ...]:
    rates = (row.upload_gb_per_s, row.download_gb_per_s, row.network_tflops)
    up, down, tflops = ("-" if rate is None else f"{rate:.1f}" for rate in rates)
    copies, matmul = _percent(row.upload_share), _percent(row.matmul_share)
    whole = number(row.photos_per_s), _percent(row.share_of_network)
    return row.name, *whole, up, down, copies, tflops, matmul


def _sensors(sensors: Sensors) -> str:
    units = {"mhz": "MHz", "w": "W", "celsius": "C"}
    told = {name: getattr(sensors, name) for name in (each.name for each in fields(sensors))}
    return ", ".join(
        f"{name.rpartition('_')[0] or name} {value:.0f} {units[name.rpartition('_')[2]]}"
        for name, value in told.items()
        if value is not None
    )


def _changes(comparison: Comparison) -> Table:
    head = ("", "then p50", "now p50", "ratio", "verdict")
    return [
        head,
        *(
            (
                change.configuration,
                number(change.base_ms),
                number(change.now_ms),
                _estimate(change.ratio),
                change.verdict,
            )
            for change in comparison.changes
        ),
    ]


def _notes(report: Report) -> Iterator[str]:
    yield from report.setting.machine.problems()
    for row in report.configurations:
        yield from (f"{row.name}: {note}" for note in row.notes)
        if row.overhead_share > 1:
            yield f"{row.name}: more time is spent around the network than in it"
    if report.gpu is not None:
        yield from (f"{what}: not measured: {why}" for what, why in report.gpu.missing.items())
    if any(row.latency_ms.p99.high is None for row in report.configurations):
        yield "..] is a bound that takes more runs (for p99 some hundreds)"
    if report.comparison is not None:
        yield from report.comparison.notes


def _section(title: str, table: Table) -> Iterator[str]:
    """A title and a table whose columns stand in line."""
    yield from ("", title)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for name, *numbers in table:
        cells = [f"{text:>{width}}" for text, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([f"  {name:{widths[0]}}", *cells]).rstrip()


def _estimate(estimate: Estimate) -> str:
    low, high = (".." if end is None else number(end) for end in (estimate.low, estimate.high))
    return f"{number(estimate.value)} [{low}, {high}]"


def number(value: float) -> str:
    """Four digits, of which at most three stand behind the point."""
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 4 - whole)}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
