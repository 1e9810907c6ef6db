"""Folders and Parquet files of photos on one machine or many, with Ray Data.

    from hp_sdk.integrations.ray import parse_dataset
    summary = parse_dataset("photos/", "parsed/", model="cihp", workers=8)

Ray restarts workers that were killed; what they had done is kept.  A job that was killed as a whole
is called again and goes on.  The output is that of `hp_sdk.integrations.output`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hp_sdk.bundle import read_bundle
from hp_sdk.errors import BackendError, BackendUnavailable, ConfigError, InputError
from hp_sdk.integrations.output import OutputFolder, check_keys, identity_of
from hp_sdk.models import find_bundle
from hp_sdk.parser import Parser
from hp_sdk.sources import expand, photo
from hp_sdk.tta import choose_tta

PHOTOS_AT_ONCE = 64
"""At most, in the memory of a worker."""
_FILE, _GROUP = "parquet_file", "row_group"


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the photos of one call."""

    parsed: int
    kept: int
    """Done by an earlier call, or by a worker that was killed later."""
    failed: int
    """Unusable; the manifest says why."""
    manifest: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every worker must know."""

    output: str
    model: str
    load: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """More options of `Parser.load`."""
    photo_column: str = "photo"
    key_column: str = "key"


class PhotoWorker:
    """A callable for `Dataset.map_batches(PhotoWorker, batch_format="pyarrow")`; Ray's actor.

    Takes a table with a column of paths or encoded photos and one of keys, or one of row groups of
    Parquet files, writes the results into
    the job's folder, and answers with the columns key, status ("parsed", "kept" or "failed") and
    error.  It knows nothing of Ray.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.output = OutputFolder(Path(job.output))
        self.parser = Parser.load(job.model, **job.load)

    def __call__(self, batch: Any) -> dict[str, list[str]]:
        """Parse what is not done yet, in batches of the parser."""
        told: dict[str, tuple[str, str]] = {}
        for rows in _chunks(batch.to_pylist(), self.job):
            told |= self._parse([(str(row[self.job.key_column]), self._photo(row)) for row in rows])
        return {
            "key": list(told),
            "status": [status for status, _ in told.values()],
            "error": [error for _, error in told.values()],
        }

    def _parse(self, photos: list[tuple[str, Any]]) -> dict[str, tuple[str, str]]:
        """Status and error of each photo, by key."""
        told = {key: ("kept", "") for key, _ in photos}
        todo = [
            (key, source, identity)
            for key, source in photos
            if not self.output.has(key, identity := identity_of(source))
        ]
        items = [photo(source, name=key) for key, source, _ in todo]
        answers = self.parser.stream(items, on_error="return")
        for (key, _, identity), answer in zip(todo, answers, strict=True):
            if isinstance(answer, InputError):
                told[key] = ("failed", str(answer))
            else:
                self.output.write(key, identity, answer)
                told[key] = ("parsed", "")
        return told

    def _photo(self, row: Mapping[str, Any]) -> Any:
        source = row[self.job.photo_column]
        # The layout of images in Hugging Face's Parquet files.
        return source.get("bytes") if isinstance(source, Mapping) else source


def parse_dataset(  # noqa: PLR0913 - options, which users pass by name
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] = "cihp",
    workers: int = 2,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0.0,
    photo_column: str = "photo",
    key_column: str = "key",
    load: Mapping[str, Any] | None = None,
    worker: type[PhotoWorker] = PhotoWorker,
) -> Summary:
    """Parse every photo of a folder or a Parquet file with Ray Data.

    Uses the cluster that `ray.init` connected to; starts Ray on this machine if there is none.
    Call it again after an interruption: photos done and unchanged are kept, others are parsed.

    Args:
        source: folder of photos, or Parquet file (or folder of such) whose name ends in .parquet;
            its row groups are shared out to the workers.  The same path on all machines, as
            `output` is.
        output: folder of the results; new, or of an earlier call with the same model and options.
        model: as for `Parser.load`.
        workers: actors, each with a parser of its own.
        cpus_per_worker: also the threads of each network, unless `load` says otherwise.
        gpus_per_worker: Ray's `num_gpus`; then say `load={"device": "cuda"}`.
        photo_column: of a Parquet file: encoded photos, paths, or Hugging Face's image column.
        key_column: of a Parquet file: names the row and its outputs; for a folder, the key is the
            file's name.
        load: more options of `Parser.load`.
        worker: subclass that does something else with a batch.

    Raises:
        InputError: no such source or column, no photo in it, or keys that are not unique.
        ConfigError: an option is not allowed, or the folder belongs to another job.
        ModelError: the model is missing or damaged.
        BackendError: Ray is not installed, a worker raised an error, or photos are missing.
    """
    ray = _import_ray()
    if workers < 1 or cpus_per_worker < 1:
        raise ConfigError(
            f"workers is {workers}, cpus_per_worker {cpus_per_worker}; allowed are 1 or more"
        )
    job = Job(
        output=str(Path(output).absolute()),
        model=model if isinstance(model, str) else str(Path(model).absolute()),
        load={"num_threads": cpus_per_worker} | dict(load or {}),
        photo_column=photo_column,
        key_column=key_column,
    )
    photos = Path(source).absolute()
    work, keys = _list(photos, job)
    check_keys(keys)
    folder = OutputFolder(Path(job.output))
    folder.begin(_describe(job))
    _connect(ray, cpus=workers * cpus_per_worker)
    # A block is what a worker takes, and what Ray repeats when the worker is killed.
    blocks = max(min(len(work), 4 * workers), -(-len(work) // PHOTOS_AT_ONCE))
    parsed = ray.data.from_items(work, override_num_blocks=blocks).map_batches(
        worker,
        fn_constructor_args=(job,),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=cpus_per_worker,
        num_gpus=gpus_per_worker or None,
    )
    rows = list(_rows(ray, parsed))
    errors = {row["key"]: row["error"] for row in rows}
    _check_complete(set(keys), [row["key"] for row in rows])
    counts = Counter(row["status"] for row in rows)
    return Summary(counts["parsed"], counts["kept"], counts["failed"], folder.finish(errors))


def _describe(job: Job) -> dict[str, Any]:
    """What makes two jobs the same."""
    folder, head = find_bundle(job.model)
    bundle = read_bundle(folder)
    return {
        "model": f"{bundle.name} {bundle.version}",
        "head": head,
        "files": {artifact.file: artifact.sha256 for artifact in bundle.artifacts},
        "tta": str(choose_tta(job.load.get("tta"), family=bundle.family)),
    }


def _list(source: Path, job: Job) -> tuple[list[dict[str, Any]], list[str]]:
    """What workers take, and the keys of all photos; found without Ray."""
    if source.suffix.lower() == ".parquet":
        return _row_groups(str(source), job)
    if not source.is_dir():
        raise InputError(f"{str(source)!r} is no folder and no .parquet file; give one of them")
    keys = [Path(item.name).name for item in expand(source)]
    return [{job.key_column: key, job.photo_column: str(source / key)} for key in keys], keys


def _row_groups(source: str, job: Job) -> tuple[list[dict[str, Any]], list[str]]:
    from pyarrow import ArrowException, dataset  # Ray Data brings it

    try:
        table = dataset.dataset(source, format="parquet")
        there = table.schema.names
        absent = [name for name in (job.key_column, job.photo_column) if name not in there]
        if absent:
            raise InputError(f"{source!r} has no column {absent[0]!r}; it has {', '.join(there)}")
        rows = table.to_table(columns=[job.key_column]).to_pylist()
        groups: list[dict[str, Any]] = [
            {_FILE: fragment.path, _GROUP: group}
            for fragment in table.get_fragments()
            for group in range(fragment.num_row_groups)
        ]
    except (OSError, ArrowException) as exc:
        raise InputError(f"cannot read {source!r}: {str(exc).splitlines()[0]}") from exc
    return groups, [str(row[job.key_column]) for row in rows]


def _chunks(rows: list[dict[str, Any]], job: Job) -> Iterator[list[dict[str, Any]]]:
    """Rows with photos; the worker itself reads those that stand for a part of a file."""
    if not rows or _GROUP not in rows[0]:
        yield rows
        return
    from pyarrow.parquet import ParquetFile

    columns = [job.key_column, job.photo_column]
    for row in rows:
        with ParquetFile(row[_FILE]) as file:
            for batch in file.iter_batches(
                PHOTOS_AT_ONCE, row_groups=[row[_GROUP]], columns=columns
            ):
                yield batch.to_pylist()


def _rows(ray: Any, parsed: Any) -> Iterator[dict[str, str]]:
    try:
        yield from parsed.iter_rows()
    except ray.exceptions.RayError as exc:
        # The worker's own traceback comes first, what Ray makes of it afterwards.
        first = str(exc).split("\nThe above exception was")[0]
        reason = first.strip().splitlines()[-1]
        raise BackendError(
            f"a worker ended with {reason}; what was parsed is kept, run it again"
        ) from exc


def _check_complete(keys: set[str], answered: list[str]) -> None:
    missing = keys - set(answered)
    if missing or len(answered) != len(keys):
        shown = f", such as {min(missing)!r}" if missing else ""
        raise BackendError(
            f"{len(answered)} answers to {len(keys)} photos, {len(missing)} without one{shown}; "
            "did the source change meanwhile?  run it again"
        )


def _connect(ray: Any, *, cpus: int) -> None:
    """The user's cluster, or else one on this machine."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            num_cpus=max(cpus, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as exc:  # Ray has no class of its own for this
        raise BackendUnavailable(f"Ray cannot be started here: {exc}") from exc
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise BackendUnavailable('Ray Data is not installed; pip install "hp-sdk[ray]"') from exc
    return ray
