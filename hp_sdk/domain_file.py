"""The plain data of a domain, read and checked: what a user may write in a .toml or .json file.

    names      = ["background", "hair", "left-arm", "right-arm"]
    flip_pairs = [["left-arm", "right-arm"]]            # optional from here on
    palette    = [[0, 0, 0], [128, 0, 0], ...]
    groups     = {arms = ["left-arm", "right-arm"]}
    aliases    = {l-arm = "left-arm"}
    edges      = [["hair", "left-arm"]]

A part is written by name or by id.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from hp_sdk.errors import ConfigError

BACKGROUND = "background"
IGNORE = 255
KEYS = ("name", "names", "flip_pairs", "palette", "groups", "aliases", "edges", "ignore_index")

Colour = tuple[int, int, int]
Pair = tuple[int, int]
Item = TypeVar("Item")


def key_of(name: str) -> str:
    """What two spellings of one part have in common: case, spaces, `-`, `_` do not count."""
    return re.sub(r"[\W_]+", "", name.casefold())


def kebab(name: str) -> str:
    """`Upper clothes` -> `upper-clothes`."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


VOID = (224, 224, 192)
"""VOC's colour of undecided pixels."""


def voc_palette(count: int) -> tuple[Colour, ...]:
    """The PASCAL VOC colours: the bits of the id, dealt to R, G, B from the top bit down."""

    def channel(k: int, offset: int) -> int:
        return sum((k >> (3 * bit + offset) & 1) << (7 - bit) for bit in range(3))

    return tuple((channel(k, 0), channel(k, 1), channel(k, 2)) for k in range(count))


def read_domain_file(path: Path) -> dict[str, Any]:
    """The table inside a .toml or .json file.

    Raises:
        ConfigError: the file is missing, unreadable or not a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data: object = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the domain file {str(path)!r}: {exc}") from exc
    if not isinstance(data, dict):
        raise ConfigError(f"{str(path)!r} holds no table of names, flip_pairs, ...")
    return cast("dict[str, Any]", data)


def parse_domain(data: Mapping[str, Any], *, name: str | None = None) -> dict[str, Any]:
    """The checked fields of a Domain, ready for its constructor.

    Raises:
        ConfigError: a key is unknown or missing, or holds what is not allowed; names the key.
    """
    title = data.get("name") or name or "custom"
    reader = _Reader(str(title), data, _names(str(title), data))
    reader.refuse_unknown_keys()
    return {
        "name": str(title),
        "names": reader.names,
        "flip_pairs": reader.flip_pairs(),
        "palette": reader.palette(),
        "groups": reader.groups(),
        "aliases": reader.aliases(),
        "edges": reader.edges(),
        "ignore_index": reader.ignore_index(),
    }


def _names(title: str, data: Mapping[str, Any]) -> tuple[str, ...]:
    given = data.get("names")
    if not _is_list(given, lambda x: isinstance(x, str) and bool(key_of(x))):
        raise ConfigError(f"domain {title!r}: names must be a list of part names, not {given!r}")
    names = tuple(kebab(name) for name in cast("list[str]", given))
    if not 2 <= len(names) <= IGNORE:
        raise ConfigError(f"domain {title!r}: names has {len(names)} parts; allowed are 2 to 255")
    if names[0] != BACKGROUND:
        raise ConfigError(f"domain {title!r}: names[0] is {names[0]!r}; it must be {BACKGROUND!r}")
    keys = [key_of(name) for name in names]
    for k, name in enumerate(names):
        if keys.index(keys[k]) < k:
            raise ConfigError(f"domain {title!r}: names[{k}] repeats {name!r}; keep each name once")
    return names


@dataclass(frozen=True, slots=True)
class _Reader:
    title: str
    data: Mapping[str, Any]
    names: tuple[str, ...]

    def refuse_unknown_keys(self) -> None:
        for key in self.data:
            if key not in KEYS:
                raise self.error(f"unknown key {key!r}; allowed are {', '.join(KEYS)}")

    def flip_pairs(self) -> tuple[Pair, ...]:
        pairs = self.pairs("flip_pairs")
        seen: set[int] = set()
        for k, pair in enumerate(pairs):
            if seen & set(pair) or 0 in pair:
                raise self.error(
                    f"flip_pairs[{k}]: a part swaps with one other part only, background with none"
                )
            seen.update(pair)
        return pairs

    def edges(self) -> tuple[Pair, ...] | None:
        if self.data.get("edges") is None:
            return None
        pairs = self.pairs("edges")
        if any(0 in pair for pair in pairs):
            raise self.error("edges: background has no neighbours; remove its edges")
        return undirected(pairs)

    def palette(self) -> tuple[Colour, ...]:
        given = self.data.get("palette")
        if not given:
            return voc_palette(len(self.names))
        if not _is_list(given, _is_colour) or len(given) != len(self.names):
            raise self.error(
                f"palette must hold {len(self.names)} colours [r, g, b] of 0..255, one per name"
            )
        return tuple((int(r), int(g), int(b)) for r, g, b in given)

    def groups(self) -> dict[str, tuple[int, ...]]:
        groups: dict[str, tuple[int, ...]] = {}
        for group, parts in self.table("groups").items():
            if key_of(group) in {key_of(name) for name in self.names}:
                raise self.error(f"groups.{group}: this is a part already; choose another name")
            if not _is_list(parts, _is_reference):
                raise self.error(f"groups.{group} must be a list of parts, not {parts!r}")
            ids = {self.reference(part, f"groups.{group}") for part in parts}
            groups[kebab(group)] = tuple(sorted(ids))
        return groups

    def aliases(self) -> dict[str, str]:
        aliases: dict[str, str] = {}
        for alias, part in self.table("aliases").items():
            if not _is_reference(part):
                raise self.error(f"aliases.{alias} must be a part, not {part!r}")
            aliases[alias] = self.names[self.reference(part, f"aliases.{alias}")]
        return aliases

    def ignore_index(self) -> int:
        given = self.data.get("ignore_index", IGNORE)
        if not isinstance(given, int) or not len(self.names) <= given <= IGNORE:
            raise self.error(f"ignore_index is {given!r}; allowed are {len(self.names)} to 255")
        return given

    def table(self, key: str) -> dict[str, Any]:
        given: Any = self.data.get(key) or {}
        if not isinstance(given, Mapping):
            raise self.error(f"{key} must be a table, not {given!r}")
        return {str(word): value for word, value in cast("Mapping[Any, Any]", given).items()}

    def pairs(self, key: str) -> tuple[Pair, ...]:
        given = self.data.get(key) or []
        if not _is_list(given, lambda x: _is_list(x, _is_reference) and len(x) == 2):
            raise self.error(f"{key} must be a list of pairs of parts")
        pairs: list[Pair] = []
        for k, (a, b) in enumerate(given):
            pair = self.reference(a, f"{key}[{k}]"), self.reference(b, f"{key}[{k}]")
            if pair[0] == pair[1]:
                raise self.error(f"{key}[{k}]: {a!r} is paired with itself; name two parts")
            pairs.append(pair)
        return tuple(pairs)

    def reference(self, part: str | int, where: str) -> int:
        if isinstance(part, int):
            if 0 <= part < len(self.names):
                return part
            raise self.error(f"{where}: no id {part}; allowed are 0 to {len(self.names) - 1}")
        keys = [key_of(name) for name in self.names]
        if key_of(part) not in keys:
            raise self.error(f"{where}: no part {part!r}; names has {', '.join(self.names)}")
        return keys.index(key_of(part))

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"domain {self.title!r}: {message}")


def undirected(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Each edge once, smaller id first, sorted."""
    return tuple(sorted({(min(pair), max(pair)) for pair in pairs}))


def _is_list(value: object, allowed: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(allowed, cast("list[Any]", value)))


def _is_reference(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_colour(value: object) -> bool:
    return _is_list(value, lambda x: isinstance(x, int) and 0 <= x <= 255) and (
        len(cast("list[Any]", value)) == 3
    )
