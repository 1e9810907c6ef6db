"""Plain JSON read with care: a wrong value is refused by its key path, given and allowed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, CorruptArtifact, SchemaMismatch


def read_json(path: Path) -> dict[str, Any]:
    """The object inside a JSON file.

    Raises:
        CorruptArtifact: the file cannot be read, is not JSON or holds no object.
    """
    try:
        data: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise CorruptArtifact(f"cannot read {str(path)!r} as JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise CorruptArtifact(f"{str(path)!r} holds no JSON object; export the bundle again")
    return cast("dict[str, Any]", data)


@dataclass(frozen=True, slots=True)
class Section:
    """One object of the manifest and its key path; every method raises SchemaMismatch."""

    data: Mapping[str, Any]
    where: str
    path: str = ""

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        return self.data.get(key) is not None

    def text(self, key: str) -> str:
        """A string."""
        value = self._get(key)
        if not isinstance(value, str):
            raise self.error(key, value, "a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(key)
        if not isinstance(value, list) or not all(
            isinstance(item, str) for item in cast("list[Any]", value)
        ):
            raise self.error(key, value, "a list of strings")
        return tuple(cast("list[str]", value))

    def integer(self, key: str, *, minimum: int = 1) -> int:
        """A whole number of at least `minimum`."""
        value = self._get(key)
        if not _is_integer(value) or value < minimum:
            raise self.error(key, value, f"a whole number from {minimum}")
        return value

    def size(self, key: str) -> tuple[int, int]:
        """(height, width) in pixels."""
        value = self._get(key)
        if (
            not isinstance(value, list)
            or len(cast("list[Any]", value)) != 2
            or not all(_is_integer(side) and side > 0 for side in cast("list[Any]", value))
        ):
            raise self.error(key, value, "[height, width] in pixels")
        height, width = cast("list[int]", value)
        return height, width

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self.text(key)
        if value not in allowed:
            raise self.error(key, value, " or ".join(map(repr, allowed)) + " in this release")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object, as it is."""
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return cast("dict[str, Any]", value)

    def section(self, key: str) -> Section:
        """An object to read on in."""
        return Section(self.table(key), self.where, self._path(key))

    def sections(self, key: str) -> Iterator[tuple[str, Section]]:
        """Name and object for each entry of an object of objects; at least one."""
        section = self.section(key)
        if not section.data:
            raise self.error(key, {}, "at least one entry")
        for name in section.data:
            yield name, section.section(name)

    def list_of(self, key: str) -> Iterator[Section]:
        """Each object of a list of objects."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self.error(key, value, "a list of objects")
        for k, item in enumerate(cast("list[Any]", value)):
            if not isinstance(item, dict):
                raise self.error(f"{key}[{k}]", item, "an object")
            yield Section(cast("dict[str, Any]", item), self.where, self._path(f"{key}[{k}]"))

    def domain(self, fields: Mapping[str, Any], *, name: str) -> Domain:
        """A label domain from some of this object's keys."""
        try:
            return Domain.from_dict(fields, name=name)
        except ConfigError as exc:
            raise SchemaMismatch(f"{self.where!r}: {self.path}: {exc}") from exc

    def error(self, key: str, given: object, allowed: str) -> SchemaMismatch:
        """The refusal of one value."""
        return SchemaMismatch(
            f"{self.where!r}: {self._path(key)} is {given!r:.80}; allowed is {allowed}"
        )

    def _get(self, key: str) -> Any:
        if key not in self.data:
            raise SchemaMismatch(
                f"{self.where!r}: {self._path(key)} is missing; export the bundle again"
            )
        return self.data[key]

    def _path(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
