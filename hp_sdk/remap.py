"""From one label domain to another, saying what is lost on the way.

A part has a counterpart if the other domain knows its name, or if only one part of the other
domain can be meant.  A part that several could stand for (a dress, in a domain of body parts), or
none, is not guessed: its pixels get the other domain's ignore id, 255, which is no part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domains import Domain, admissible, domain_names, load_domain
from hp_sdk.errors import InputError

# Rows of Graphonomy's relation from CIHP to PASCAL-Person-Part that hold for all of a part, also
# under the same names in ATR and LIP.  Its other rows with one member send whole garments to one
# limb (sleeves to the torso): not used.
_PUBLISHED: dict[str, dict[str, str]] = {
    "atr->pascal": {"hair": "head"},
    "cihp->pascal": {"hair": "head", "socks": "lower-legs"},
    "lip->pascal": {"hair": "head", "socks": "lower-legs"},
}

_TOLD = {
    "merged": "merged into {became}",
    "background": "became {became}",
    "undecided": "ignored, could be {became}; choose={{{part!r}: ...}} decides",
    "unmatched": "ignored, {domain} has no such part",
}
_SPELLED_OUT = 4

Ids: TypeAlias = tuple[int, ...]
Kind: TypeAlias = Literal["merged", "background", "undecided", "unmatched"]
"""`merged`: other parts have the same counterpart; `background`: it is no part any more;
`undecided`: several counterparts, ignored; `unmatched`: none, ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemapLoss:
    """One part of a photo that is not what it was after remapping."""

    part: str
    area_px: int
    kind: Kind
    became: tuple[str, ...]
    """Names in the new domain that were given, or, if undecided, could have been."""
    domain: str
    """The new domain."""

    def __str__(self) -> str:
        told = _TOLD[self.kind].format(
            part=self.part, became=_either(self.became), domain=self.domain
        )
        return f"{self.part}: {self.area_px} px {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crosswalk:
    """Which parts of `target` the parts of `source` are."""

    source: Domain
    target: Domain
    candidates: tuple[Ids, ...]
    """Ids of `target` for each id of `source`; a part with exactly one is mapped to it."""

    @property
    def lut(self) -> NDArray[np.uint8]:
        """Table (256,) from ids to ids; what has no counterpart, or was ignored, is ignored."""
        lut = np.full(256, self.target.ignore_index, np.uint8)
        for k, ids in enumerate(self.candidates):
            if len(ids) == 1:
                lut[k] = ids[0]
        return lut

    @property
    def never(self) -> tuple[str, ...]:
        """Parts of `target` that no part of `source` is mapped to."""
        given = {ids[0] for ids in self.candidates if len(ids) == 1}
        return tuple(name for k, name in enumerate(self.target.names) if k and k not in given)

    def losses(self, areas: Mapping[str, int]) -> tuple[RemapLoss, ...]:
        """What becomes of the parts found in a photo, by name and pixels; only what is lost."""
        return tuple(
            RemapLoss(
                part=name,
                area_px=area,
                kind=kind,
                became=tuple(self.target.names[j] for j in self.candidates[k]),
                domain=self.target.name,
            )
            for name, area in areas.items()
            if (kind := self._kind(k := self.source.index(name)))
        )

    def notes(self, losses: Sequence[RemapLoss]) -> tuple[str, ...]:
        """What a receipt says: the remapping, the losses, and what could not be told at all."""
        done = f"remapped from {self.source.name} to {self.target.name}"
        never = f"{self.source.name} cannot tell {self.target.name}'s {', '.join(self.never)}"
        return (done, *map(str, losses), *([never] if self.never else []))

    def _kind(self, k: int) -> Kind | None:
        ids = self.candidates[k]
        if len(ids) != 1:
            return "undecided" if ids else "unmatched"
        if ids == (0,):
            return "background" if k else None
        return "merged" if self.candidates.count(ids) > 1 else None


def _either(names: tuple[str, ...]) -> str:
    *shown, last = names or ("nothing",)
    if len(shown) > _SPELLED_OUT:
        shown, last = shown[:_SPELLED_OUT], f"{len(names) - _SPELLED_OUT} others"
    return f"{', '.join(shown)} or {last}" if shown else last


def crosswalk(
    source: Domain, target: Domain, *, choose: Mapping[str, str] | None = None
) -> Crosswalk:
    """The counterparts of every part of `source`.

    `choose` decides for the caller, as in `{"dress": "torso", "arms": "upper-arms"}`: parts or
    groups of `source` by any spelling -> one part of `target`.

    Raises:
        InputError: `choose` names what is not in the domains.
    """
    sets = _admissible_ids(source, target)
    candidates = [
        _candidates(k, source, target, None if sets is None else sets[k])
        for k in range(source.num_classes)
    ]
    for name, chosen in (choose or {}).items():
        decided = (target.index(chosen),)
        for k in source.indices(name):
            candidates[k] = decided
    return Crosswalk(source=source, target=target, candidates=tuple(candidates))


def _candidates(k: int, source: Domain, target: Domain, allowed: Ids | None) -> Ids:
    if k == 0:
        return (0,)
    same = _same_name(source.names[k], target)
    if same is not None:
        return (same,)
    if allowed is None:
        return ()
    published = _PUBLISHED.get(f"{source.name}->{target.name}", {}).get(source.names[k])
    return allowed if published is None else (target.index(published),)


def _same_name(name: str, target: Domain) -> int | None:
    try:
        return target.index(name)
    except InputError:
        return None


def _admissible_ids(source: Domain, target: Domain) -> tuple[Ids, ...] | None:
    """The admissible sets, if both domains are the bundled ones and not just called like them."""
    if not (_is_bundled(source) and _is_bundled(target)):
        return None
    return admissible(source.name, target.name)


def _is_bundled(domain: Domain) -> bool:
    return domain.name in domain_names() and load_domain(domain.name).names == domain.names
