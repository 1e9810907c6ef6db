"""Now against then: the same configurations of an older report, as ratios with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hp_sdk.bench.setting import Setting
from hp_sdk.bench.statistics import Estimate, percentile, ratio_of_medians
from hp_sdk.errors import InputError
from hp_sdk.result import Receipt

SCHEMA = "1.0"
KIND = "hp-bench"
TOLERANCE = 0.05

_MACHINE = ("processor", "cores", "core_quota", "gpus")
_MODEL = ("name", "version", "head")
_SHOWN = 60


class Key(NamedTuple):
    """What makes two configurations the same."""

    backend: str
    provider: str
    precision: str
    tta: str
    threads: int | None
    batch: int
    size_hw: tuple[int, int] | None

    def __str__(self) -> str:
        size = "own size" if self.size_hw is None else f"{self.size_hw[0]}x{self.size_hw[1]}"
        text = f"{self.backend} on {self.provider} {self.precision}, batch {self.batch}, {size}"
        tta = "" if self.tta == "none" else f", tta {self.tta}"
        return f"{text}{tta}{'' if self.threads is None else f', {self.threads} threads'}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One configuration of one report."""

    version: str
    """Of the runtime."""
    labels_sha256: str
    samples_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One configuration then and now."""

    configuration: str
    base_ms: float
    now_ms: float
    """Medians."""
    ratio: Estimate
    """Now / then."""
    verdict: str
    """"slower", "faster" (both beyond the tolerance, and no chance), "perhaps slower", "perhaps
    faster" (the interval holds 1), "same", or "too few runs"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Every configuration that both reports have."""

    base: str
    tolerance: float
    notes: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def slower(self) -> tuple[Change, ...]:
        """What fails the comparison."""
        return tuple(change for change in self.changes if change.verdict == "slower")


@dataclass(frozen=True, slots=True)
class Base:
    """An older report."""

    path: str
    setting: Mapping[str, Any]
    entries: Mapping[Key, Entry]

    def check(self, setting: Setting, keys: Sequence[Key], *, force: bool = False) -> list[str]:
        """What differs from now and is accepted.

        Raises:
            InputError: another machine, model or other photos, unless `force`; or no configuration
                in common.
        """
        now = setting.to_dict()
        unlike = list(_unlike(self.setting, now))
        if unlike and not force:
            raise InputError(
                f"{self.path!r} is no base for this: {'; '.join(unlike)}; measure a base here with "
                "--json, or compare nevertheless with --force"
            )
        if not self.entries.keys() & set(keys):
            raise InputError(
                f"{self.path!r} has {'; '.join(map(str, self.entries))}; measured would be "
                f"{'; '.join(map(str, keys))}: there is nothing to compare"
            )
        return [*unlike, *_upgrades(self.setting, now), *self._unmatched(keys)]

    def compare(
        self, now: Mapping[Key, Entry], *, tolerance: float = TOLERANCE, notes: Iterable[str] = ()
    ) -> Comparison:
        """Every configuration that both have."""
        pairs = {key: (self.entries[key], now[key]) for key in now if key in self.entries}
        remarks = [
            text for key, (then, here) in pairs.items() for text in _remarks(key, then, here)
        ]
        return Comparison(
            base=self.path,
            tolerance=tolerance,
            notes=tuple(dict.fromkeys([*notes, *remarks])),
            changes=tuple(_change(key, *pair, tolerance) for key, pair in pairs.items()),
        )

    def _unmatched(self, keys: Sequence[Key]) -> Iterator[str]:
        yield from (f"the base has no {key}" for key in keys if key not in self.entries)
        yield from (f"not measured now: {key}" for key in self.entries if key not in keys)


def read_base(path: Path) -> Base:
    """A report that was written as JSON.

    Raises:
        InputError: no such file, or no report of this schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read {str(path)!r} as JSON: {exc}") from exc
    try:
        _check_schema(data)
        threads = data["setting"]["options"]["threads"]
        rows = [(_key(row, threads), _entry(row)) for row in data["configurations"]]
        base = Base(str(path), data["setting"], dict(rows))
        _identity(base.setting)
        _ = [base.setting["model"]["artifacts"].keys(), base.setting["machine"]["versions"].keys()]
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        lacks = f"it lacks {exc}" if isinstance(exc, KeyError) else str(exc)
        raise InputError(
            f"{str(path)!r} is no report of hp-bench: {lacks}; write one with --json"
        ) from exc
    return base


def key_of(
    receipt: Receipt, batch: int, size_hw: tuple[int, int] | None, threads: int | None
) -> Key:
    """The key of what really runs."""
    backend = receipt.backend.partition(" ")[0]
    return Key(backend, receipt.provider, receipt.precision, receipt.tta, threads, batch, size_hw)


def _check_schema(data: Any) -> None:
    if not isinstance(data, dict) or data.get("kind") != KIND:  # pyright: ignore[reportUnknownMemberType]
        raise ValueError(f"its kind is not {KIND!r}")
    schema = str(data["schema"])  # pyright: ignore[reportUnknownArgumentType]
    if schema.partition(".")[0] != SCHEMA.partition(".")[0]:
        raise ValueError(f"its schema is {schema}, this release reads {SCHEMA}")


def _key(row: Mapping[str, Any], threads: int | None) -> Key:
    size_hw = None if row["size_hw"] is None else (row["size_hw"][0], row["size_hw"][1])
    names = (row["backend"], row["provider"], row["precision"], row["tta"])
    return Key(*names, threads, row["batch"], size_hw)


def _entry(row: Mapping[str, Any]) -> Entry:
    samples = tuple(float(sample) for sample in row["samples_ms"])
    if not samples or not all(0 < sample < float("inf") for sample in samples):
        raise ValueError("a configuration has no samples_ms, or samples that are not above 0")
    return Entry(str(row["version"]), str(row["outputs"]["sha256"]), samples)


def _identity(setting: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal."""
    facts = {name: setting["machine"][name] for name in _MACHINE}
    facts |= {f"model {name}": setting["model"][name] for name in _MODEL}
    return facts | {"photos": sorted({photos["identity"] for photos in setting["photos"]})}


def _unlike(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What must be equal and is not."""
    before, here = _identity(then), _identity(now)
    for name, value in before.items():
        if value != here[name]:
            yield f"{name} was {_short(value)} and is {_short(here[name])}"
    old, new = then["model"]["artifacts"], now["model"]["artifacts"]
    shared = old.keys() & new.keys()
    if changed := sorted(file for file in shared if old[file] != new[file]):
        yield f"the model's {', '.join(changed)} was another file"
    if not shared:
        yield f"the model's files were {', '.join(old)} and are {', '.join(new)}"


def _upgrades(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, here = then["machine"]["versions"], now["machine"]["versions"]
    for name in here:
        if before.get(name) != here[name]:
            yield f"{name} was {before.get(name)} and is {here[name]}"


def _remarks(key: Key, then: Entry, here: Entry) -> Iterator[str]:
    if then.version != here.version:
        yield f"{key.backend} was {then.version} and is {here.version}"
    if then.labels_sha256 != here.labels_sha256:
        yield f"{key}: not every label is as in the base"


def _change(key: Key, then: Entry, here: Entry, tolerance: float) -> Change:
    ratio = ratio_of_medians(here.samples_ms, then.samples_ms)
    base_ms, now_ms = (percentile(entry.samples_ms, 50).value for entry in (then, here))
    return Change(str(key), base_ms, now_ms, ratio, _verdict(ratio, tolerance))


def _verdict(ratio: Estimate, tolerance: float) -> str:
    if ratio.low is None or ratio.high is None:
        return "too few runs"
    if ratio.value > 1 + tolerance:
        return "slower" if ratio.low > 1 else "perhaps slower"
    if ratio.value < 1 - tolerance:
        return "faster" if ratio.high < 1 else "perhaps faster"
    return "same"


def _short(value: Any) -> str:
    text = str(value)
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
