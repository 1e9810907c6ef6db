"""Label domains: what the ids of a label map mean.

A domain is data (`data/domains.json`), never code, so a user's own parts are as good as ours:

    load_domain("cihp").index("Upper-clothes")         # 5
    load_domain("my_parts.toml").mirror(label_map)

"Left" and "right" are the person's own.  Id 0 is always the background.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domain_file import (
    IGNORE,
    key_of,
    parse_domain,
    read_domain_file,
    undirected,
    voc_palette,
)
from hp_sdk.errors import ConfigError, InputError

_COARSE_TO_FINE = ("pascal", "atr", "cihp", "lip", "ccp")
_OTHER_NAMES = {"ppp": "pascal", "ppp_m2fp": "pascal_m2fp"}

Label = TypeVar("Label", bound=np.integer[Any])


@dataclass(frozen=True, slots=True)
class Domain:
    """One list of part names and everything that depends on their order.

    The constructor trusts its arguments; `from_dict` checks them.
    """

    name: str
    names: tuple[str, ...]
    """Kebab-case; the index is the training id and never changes."""
    flip_pairs: tuple[tuple[int, int], ...] = ()
    """Ids that swap when the picture is mirrored; of left and right, the left one first."""
    palette: tuple[tuple[int, int, int], ...] = ()
    """One RGB colour per id; the VOC bit palette when empty."""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    """Spelling in the wild -> part name."""
    edges: tuple[tuple[int, int], ...] | None = None
    """Neighbouring parts, undirected, no loops; None where no graph is published."""
    ignore_index: int = IGNORE

    def __post_init__(self) -> None:
        if not self.palette:
            object.__setattr__(self, "palette", voc_palette(len(self.names)))

    def __hash__(self) -> int:
        return hash((self.name, self.names))

    @property
    def num_classes(self) -> int:
        """Z, the background included."""
        return len(self.names)

    @property
    def flip_perm(self) -> NDArray[np.int64]:
        """Id of each part in the mirrored picture, (Z,); its own inverse."""
        perm = np.arange(self.num_classes, dtype=np.int64)
        for a, b in self.flip_pairs:
            perm[a], perm[b] = b, a
        return perm

    def index(self, name: str) -> int:
        """Id of one part, by any spelling of it.

        Raises:
            InputError: no such part; the message lists what there is.
        """
        found = self._vocabulary().get(key_of(name))
        if found is None:
            raise InputError(self._unknown(name, [*self.names]))
        return found

    def indices(self, *names: str) -> tuple[int, ...]:
        """Ids of several parts or groups ("hair", "arms"), sorted, each once.

        Raises:
            InputError: a name is neither a part nor a group.
        """
        groups = {key_of(group): ids for group, ids in self.groups.items()}
        parts = self._vocabulary()
        found: set[int] = set()
        for name in names:
            key = key_of(name)
            if key in parts:
                found.add(parts[key])
            elif key in groups:
                found.update(groups[key])
            else:
                raise InputError(self._unknown(name, [*self.names, *self.groups]))
        return tuple(sorted(found))

    def mirror(self, label_map: NDArray[Label]) -> NDArray[Label]:
        """The label map of the mirrored picture: pixels (..., H, W) and left/right ids swap.

        Ids outside the domain, such as the ignored 255, stay what they are.
        """
        lut = np.arange(IGNORE + 1)
        lut[: self.num_classes] = self.flip_perm
        return lut.astype(label_map.dtype)[label_map[..., ::-1]]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, as in `data/domains.json`; `from_dict` reads it back."""
        return {
            "name": self.name,
            "names": list(self.names),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "palette": [list(colour) for colour in self.palette],
            "groups": {group: list(ids) for group, ids in self.groups.items()},
            "aliases": dict(self.aliases),
            "edges": None if self.edges is None else [list(edge) for edge in self.edges],
            "ignore_index": self.ignore_index,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, name: str | None = None) -> Domain:
        """A domain from plain data; pairs, groups and edges name parts by id or by name.

        Raises:
            ConfigError: a key is unknown or missing, or holds what is not allowed.
        """
        return cls(**parse_domain(data, name=name))

    def _vocabulary(self) -> dict[str, int]:
        ids = {key_of(part): k for k, part in enumerate(self.names)}
        return {key_of(alias): ids[key_of(part)] for alias, part in self.aliases.items()} | ids

    def _unknown(self, name: str, allowed: list[str]) -> str:
        near = difflib.get_close_matches(name.lower(), allowed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        if key_of(name) in {key_of(group) for group in self.groups}:
            hint = " (that is a group of several)"
        return f"domain {self.name!r} has no part {name!r}{hint}; it has {', '.join(allowed)}"


def domain_names() -> tuple[str, ...]:
    """The bundled domains, from coarse to fine."""
    return _COARSE_TO_FINE


def canonical(name: str) -> str:
    """The name we use for a domain that others call differently: `ppp` is `pascal`."""
    return _OTHER_NAMES.get(name, name)


def load_domain(name_or_path: str | Path) -> Domain:
    """A bundled domain by name, or a user's own from a .toml or .json file.

    Raises:
        ConfigError: no such domain or file, or the file's content is not a domain.
    """
    name = canonical(str(name_or_path))
    if name in _bundled():
        return _bundled_domain(name)
    path = Path(name_or_path)
    if path.suffix.lower() not in {".toml", ".json"}:
        raise ConfigError(
            f"no domain {name!r}; there are {', '.join(domain_names())}, "
            "or give the path of a .toml or .json file"
        )
    return Domain.from_dict(read_domain_file(path), name=path.stem)


def coarse_to_fine(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    """Sorted by number of classes; ties in the bundled order, then by name."""

    def rank(domain: Domain) -> tuple[int, int, str]:
        known = domain.name in _COARSE_TO_FINE
        place = _COARSE_TO_FINE.index(domain.name) if known else len(_COARSE_TO_FINE)
        return domain.num_classes, place, domain.name

    return tuple(sorted(domains, key=rank))


def alias_lut(name: str) -> tuple[str, tuple[int, ...]]:
    """The domain that `name` permutes and the table from its ids to that domain's ids.

    `pascal_m2fp` is the order of M2FP's published PASCAL-Person-Part labels.  A domain that is
    nobody's permutation answers with itself and the identity.
    """
    name = canonical(name)
    entry = _bundled().get(name, {})
    if "alias_of" not in entry:
        return name, tuple(range(load_domain(name).num_classes))
    return entry["alias_of"], tuple(entry["lut"])


@lru_cache(maxsize=32)
def admissible(source: str, target: str) -> tuple[tuple[int, ...], ...] | None:
    """Ids of `target` that a pixel of each `source` id can have; None if nothing is known.

    Meant for losses on sets: generous, several targets per source.  A table listed only the
    other way round is inverted.
    """
    if not {canonical(source), canonical(target)} <= _bundled().keys():
        return None
    a, b = load_domain(source), load_domain(target)
    if a == b:
        return tuple((k,) for k in range(a.num_classes))
    tables = _data("admissible.json")
    if f"{a.name}->{b.name}" in tables:
        return _admissible_ids(tables[f"{a.name}->{b.name}"], a, b)
    if f"{b.name}->{a.name}" in tables:
        rows = _admissible_ids(tables[f"{b.name}->{a.name}"], b, a)
        return tuple(
            tuple(j for j, row in enumerate(rows) if k in row) for k in range(a.num_classes)
        )
    return None


def _admissible_ids(table: Mapping[str, Any], a: Domain, b: Domain) -> tuple[tuple[int, ...], ...]:
    def ids(part: str) -> tuple[int, ...]:
        entry = table[part]
        return tuple(range(b.num_classes)) if entry == "*" else b.indices(*entry)

    return tuple(ids(part) for part in a.names)


@lru_cache(maxsize=4)
def _data(file: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "data" / file).read_text(encoding="utf-8"))


def _bundled() -> dict[str, Any]:
    return _data("domains.json")


@lru_cache(maxsize=16)
def _bundled_domain(name: str) -> Domain:
    entry = _bundled()[name]
    if "alias_of" in entry:
        return _permuted(_bundled_domain(entry["alias_of"]), entry["lut"], name)
    return Domain.from_dict(entry, name=name)


def _permuted(base: Domain, lut: Sequence[int], name: str) -> Domain:
    inverse = {old: new for new, old in enumerate(lut)}
    return Domain(
        name=name,
        names=tuple(base.names[old] for old in lut),
        flip_pairs=tuple((inverse[a], inverse[b]) for a, b in base.flip_pairs),
        palette=tuple(base.palette[old] for old in lut),
        groups={g: tuple(sorted(inverse[k] for k in ids)) for g, ids in base.groups.items()},
        aliases=base.aliases,
        edges=base.edges and undirected((inverse[a], inverse[b]) for a, b in base.edges),
    )
