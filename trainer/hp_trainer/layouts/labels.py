"""Label maps in the ids of a domain, whatever files and order of classes they come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domains import Domain, alias_lut, load_domain
from hp_sdk.errors import ConfigError, DataError
from hp_trainer.layouts.label_files import LabelKind

_IGNORE = 255


def encoding_of(name: str) -> tuple[str, tuple[int, ...]]:
    """Domain in which labels written as `name` are used, and the table from their ids to its.

    `pascal_m2fp` → `pascal` with M2FP's permutation; other names mean themselves (empty table).
    """
    try:
        target, lut = alias_lut(name)
    except ConfigError:  # the user's own domain, known by its name only
        return name, ()
    return target, () if lut == tuple(range(len(lut))) else lut


@dataclass(frozen=True, slots=True)
class LabelReader:
    """Label files of one photograph → checked ids (H, W) uint8."""

    kind: LabelKind
    domain: Domain | None
    """What the stored ids mean; None checks nothing."""
    lut: tuple[int, ...] = ()
    """Stored id → id of the domain trained on; empty keeps them."""
    decode_colors: bool = False

    def __call__(self, paths: Sequence[Path]) -> NDArray[np.uint8]:
        """The label map of one photograph.

        Raises:
            InputError: unreadable, coloured, or an id the domain does not have.
        """
        palette = self.domain.palette if self.domain and self.decode_colors else None
        ids = self.kind.read(paths, palette)
        if self.domain:
            _check_ids(ids, self.domain, paths[0])
        if not self.lut:
            return ids
        table = np.arange(256, dtype=np.uint8)
        table[: len(self.lut)] = self.lut
        return table[ids]


def label_reader(
    kind: LabelKind, name: str, *, known: Iterable[Domain], decode_colors: bool
) -> LabelReader:
    """Reader of labels that the user calls `name`.

    Args:
        kind: kind of label files.
        name: built-in domain, its permutation, a domain file, or one of `known`.
        known: domains that are not built in.
        decode_colors: accept pictures in the colours of the domain's palette.

    Raises:
        ConfigError: colours cannot be decoded without knowing the domain.
    """
    domain = next((d for d in known if d.name == name), None) or _loaded(name)
    if decode_colors and domain is None:
        raise ConfigError(f"decode_colors needs a palette, and no domain {name!r} is known")
    return LabelReader(kind, domain, encoding_of(name)[1], decode_colors)


def _loaded(name: str) -> Domain | None:
    try:
        return load_domain(name)
    except ConfigError:
        return None


def _check_ids(ids: NDArray[np.uint8], domain: Domain, path: Path) -> None:
    allowed = np.zeros(256, bool)
    allowed[: domain.num_classes] = True
    allowed[[_IGNORE, domain.ignore_index]] = True
    wrong = ids[~allowed[ids]]
    if wrong.size:
        raise DataError(
            f"{path} holds id {wrong.max()}; domain {domain.name} has 0..{domain.num_classes - 1} "
            "and 255 (ignored). Is it a coloured picture, or labelled in another domain?"
        )
