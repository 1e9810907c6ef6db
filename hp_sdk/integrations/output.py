"""A folder of results that many processes fill, in any order and as often as they like.

    <key>.labels.png    label map
    <key>.json          parts, areas, receipt; written last, so that it means "done"
    manifest.jsonl      one line per photo, sorted by key: status, files, error
    job.json            model and options that the folder was made with

Every file appears whole under its final name.  A photo that is parsed twice replaces its own files
by equal ones, so nothing is in the folder twice and half of nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hp_sdk.errors import ConfigError, InputError
from hp_sdk.files import write_bytes
from hp_sdk.result import Result

JOB, MANIFEST = "job.json", "manifest.jsonl"
_LONGEST_NAME = 200  # file systems allow 255 bytes; temporary names are longer than final ones


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Results by key; every method is safe in many processes at once."""

    path: Path

    def begin(self, job: Mapping[str, Any]) -> None:
        """Claim the folder for a job: a new folder, or one that the same job has begun.

        Raises:
            ConfigError: another model or other options filled it, or it cannot be written to.
        """
        file = self.path / JOB
        if not file.is_file():
            write_bytes(file, _json(job))
            return
        before = _read(file)
        changed = [key for key in sorted({*before, *job}) if before.get(key) != job.get(key)]
        if changed:
            raise ConfigError(
                f"{str(self.path)!r} was made with another {', '.join(changed)}; give another "
                "folder, or delete this one"
            )

    def has(self, key: str, identity: str) -> bool:
        """Whether this photo, unchanged, is done."""
        record = _read(self.record(key))
        return record.get("identity") == identity and self.labels(key).is_file()

    def write(self, key: str, identity: str, result: Result) -> None:
        """Keep one result.

        Raises:
            ConfigError: the folder cannot be written to.
        """
        result.save(self.labels(key))
        record = {"key": key, "identity": identity} | result.to_dict()
        write_bytes(self.record(key), _json(record))

    def finish(self, errors: Mapping[str, str]) -> Path:
        """Write the manifest, from every key of the job to its error, "" where there is none.

        Call it when no process writes any more: what killed ones left half done is removed.
        """
        for left in self.path.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        lines = [self._line(key, errors[key]) for key in sorted(errors)]
        return write_bytes(self.path / MANIFEST, b"".join(lines))

    def labels(self, key: str) -> Path:
        """Where the label map of a photo lies."""
        return self.path / f"{file_name(key)}.labels.png"

    def record(self, key: str) -> Path:
        """Where what is known of a photo lies."""
        return self.path / f"{file_name(key)}.json"

    def _line(self, key: str, error: str) -> bytes:
        files = {"labels": self.labels(key).name, "record": self.record(key).name}
        rest = {"status": "failed", "error": error} if error else {"status": "ok"} | files
        return json.dumps({"key": key} | rest, ensure_ascii=False).encode() + b"\n"


def check_keys(keys: Iterable[str]) -> None:
    """Make sure that keys can name files, and that each is there once.

    Raises:
        InputError: one is empty, too long or there twice.
    """
    seen: set[str] = set()
    for key in keys:
        if not key or len(file_name(key)) > _LONGEST_NAME:
            raise InputError(
                f"key {key[:80]!r} cannot name a file; give 1 to {_LONGEST_NAME} bytes"
            )
        if key in seen:
            raise InputError(f"key {key!r} is there twice; each photo needs a key of its own")
        seen.add(key)


def file_name(key: str) -> str:
    """A key as a file name: what file systems refuse is percent-encoded, so none collide."""
    name = quote(key, safe=" +,=@")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def identity_of(photo: object) -> str:
    """Changes when the photo does: size and time of a file, the hash of bytes, "" for neither."""
    if isinstance(photo, bytes):
        return hashlib.sha256(photo).hexdigest()
    try:
        stat = Path(str(photo)).stat()
    except (OSError, ValueError):
        return ""
    return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing or damaged."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=1, ensure_ascii=False).encode() + b"\n"
