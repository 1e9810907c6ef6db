"""One benchmark from the options to the report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import perf_counter

from hp_sdk.bench.compare import TOLERANCE, Base, Comparison, Entry, Key, key_of
from hp_sdk.bench.fresh import Cold, cold_start
from hp_sdk.bench.gpu import GpuPlan, measure_gpu
from hp_sdk.bench.measure import Clock, Measurement, Plan, Progress, Subject, measure, silent
from hp_sdk.bench.pictures import PhotoSet, photo_sets
from hp_sdk.bench.report import Report, Row, make_row, now
from hp_sdk.bench.setting import Options, Setting, read_setting
from hp_sdk.parser import Parser
from hp_sdk.tta import choose_tta


@dataclass(frozen=True, slots=True)
class Against:
    """A base to compare with, and how strictly."""

    base: Base
    tolerance: float = TOLERANCE
    force: bool = False


def benchmark(
    options: Options,
    *,
    against: Against | None = None,
    clock: Clock = perf_counter,
    progress: Progress = silent,
) -> Report:
    """Measure every configuration that the options ask for.

    Raises:
        InputError: a photo is none, or the base does not fit.
        ModelError: the model is missing or damaged.
        BackendError: a runtime or device is not there, or failed.
        ConfigError: an option is not allowed.
    """
    photos = photo_sets(options.photos, options.sizes)
    with ExitStack() as stack:
        progress("loading", 0.0)
        subjects = [
            subject
            for backend in options.backends
            for subject in _open(backend, options, photos, clock, stack)
        ]
        setting = read_setting(options, subjects[0].parser, photos)
        keys = [_key(subject, options) for subject in subjects]
        notes = against.base.check(setting, keys, force=against.force) if against else []
        colds = [_cold_start(subject, options, progress) for subject in subjects]
        plan = Plan(
            runs=options.runs,
            duration_s=options.duration_s * len(subjects),
            seed=options.seed,
        )
        found = measure(subjects, plan, clock=clock, progress=progress)
        rows = tuple(_rows(found, colds, setting))
        gpu = measure_gpu(subjects, _gpu_plan(options, setting, subjects), progress=progress)
    return Report(
        created=now(),
        setting=setting,
        configurations=rows,
        gpu=gpu,
        comparison=_compare(keys, rows, against, notes) if against else None,
    )


def _open(
    backend: str, options: Options, photos: Sequence[PhotoSet], clock: Clock, stack: ExitStack
) -> Iterator[Subject]:
    """Load a model once; its configurations, the batches of a size together."""
    start = clock()
    parser = Parser.load(options.model, backend=backend, **options.load_options)
    load_ms = 1e3 * (clock() - start)
    stack.callback(parser.close)
    receipt = parser.predict(photos[0].files[0]).receipt
    assert receipt is not None, "a parser's results have receipts"
    views = choose_tta(options.tta, family=parser.bundle.family).num_views
    for each, batch in product(photos, options.batches):
        yield Subject(parser, each, receipt, batch, views=views, backend=backend, load_ms=load_ms)


def _gpu_plan(options: Options, setting: Setting, subjects: Sequence[Subject]) -> GpuPlan:
    parser = subjects[0].parser
    return GpuPlan(
        head=parser.head,
        tta=choose_tta(options.tta, family=parser.bundle.family),
        macs=setting.model.macs,
        duration_s=options.duration_s,
        seed=options.seed,
        baselines=options.baselines,
    )


def _cold_start(subject: Subject, options: Options, progress: Progress) -> Cold | None:
    if not options.cold_starts:
        return None
    progress(f"cold starts of {subject.name}", 0.0)
    files = subject.photos.files
    with tempfile.TemporaryDirectory(prefix="hp-bench-") as folder:
        paths = [Path(folder) / f"{i}.photo" for i in range(subject.batch)]
        for i, path in enumerate(paths):
            path.write_bytes(files[i % len(files)])
        return cold_start(
            options.model,
            [str(path) for path in paths],
            starts=options.cold_starts,
            load_options={"backend": subject.backend} | options.load_options,
            batch_size=subject.batch * subject.views,
        )


def _rows(
    found: Sequence[Measurement], colds: Sequence[Cold | None], setting: Setting
) -> Iterator[Row]:
    """Answers are compared with those of the first configuration that parsed the same photos."""
    first = {id(each.subject.photos): each.answers for each in reversed(found)}
    for each, cold in zip(found, colds, strict=True):
        yield make_row(each, cold, first[id(each.subject.photos)], setting)


def _key(subject: Subject, options: Options) -> Key:
    return key_of(subject.receipt, subject.batch, subject.photos.size_hw, options.threads)


def _compare(
    keys: Sequence[Key], rows: Sequence[Row], against: Against, notes: Sequence[str]
) -> Comparison:
    entries = {
        key: Entry(row.version, row.outputs.sha256, row.samples_ms)
        for key, row in zip(keys, rows, strict=True)
    }
    return against.base.compare(entries, tolerance=against.tolerance, notes=notes)
