"""Which layout a folder has: exactly one row fits, or the error says what was looked for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hp_sdk.domains import canonical
from hp_sdk.errors import ConfigError, DataError
from hp_trainer.layouts.layout import Layout
from hp_trainer.layouts.table import LAYOUTS

NEUTRAL = "neutral"
AUTO = "auto"

_NEUTRAL_LOOK = f"{NEUTRAL} (images/ + labels/ + <split>.txt)"
_PUBLISHED = {domain for row in LAYOUTS.values() for domain in row.domains}
_SHOWN = 20


def check_name(name: str) -> None:
    """Refuse a layout that does not exist.

    Raises:
        ConfigError: listing those there are.
    """
    if name not in (AUTO, NEUTRAL, *LAYOUTS):
        raise ConfigError(f"layout is {name!r}; allowed are {', '.join((AUTO, NEUTRAL, *LAYOUTS))}")


def named_layout(root: Path, name: str) -> tuple[Layout, Path]:
    """The row of that name and the folder it lies in.

    Raises:
        DataError: `root` does not look like it.
    """
    row = LAYOUTS[name]
    base = row.base_in(root)
    if base is None:
        raise DataError(f"{root} is not laid out as {row}; {_what_is_there(root)}")
    return row, base


def detect(root: Path, domain: str, split: str) -> tuple[Layout, Path] | None:
    """The only row for `domain` that `root` looks like, and its folder; None for neutral.

    Raises:
        DataError: nothing or several fit; the message lists what was looked for and is there.
    """
    domain = canonical(domain)
    rows = [row for row in LAYOUTS.values() if serves(row, domain)]
    found = _found(root, rows)
    neutral = looks_neutral(root, split)
    if len(found) + neutral > 1:
        names = [row.name for row, _ in found] + [NEUTRAL] * neutral
        raise DataError(
            f"{root} looks like several layouts, {', '.join(names)}; "
            f'choose one, for example layout = "{names[0]}"'
        )
    if found:
        return found[0]
    if neutral or (root / "images").is_dir():  # whoever reads it says what is missing
        return None
    raise DataError(_nothing(root, domain, rows))


def serves(row: Layout, domain: str) -> bool:
    """Whether the labels of this layout can be of `domain`; a user's own can be of any."""
    return domain in row.domains or domain not in _PUBLISHED


def looks_neutral(root: Path, split: str) -> bool:
    """Whether `root` has photographs and the list of `split` where the neutral layout has them."""
    return (root / "images").is_dir() and (root / f"{split}.txt").is_file()


def _found(root: Path, rows: Iterable[Layout]) -> list[tuple[Layout, Path]]:
    bases = ((row, row.base_in(root)) for row in rows)
    return [(row, base) for row, base in bases if base is not None]


def _nothing(root: Path, domain: str, rows: Iterable[Layout]) -> str:
    others = [row for row, _ in _found(root, LAYOUTS.values())]
    if others:
        row = others[0]
        labels = " or ".join(row.domains) or "none that is built in"
        return (
            f"{root} looks like layout {row.name}, whose labels are {labels}, not {domain}; "
            f'name the right domain, or set layout = "{row.name}" if the ids really are {domain}\'s'
        )
    looked_for = "; ".join((*map(str, rows), _NEUTRAL_LOOK))
    return (
        f"{root} has no known layout for {domain}: looked for {looked_for}. {_what_is_there(root)}"
    )


def _what_is_there(root: Path) -> str:
    if not root.is_dir():
        return "There is no such folder"
    names = [name for child in sorted(root.iterdir()) for name in _entries(child)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = f"There is {', '.join(names[:_SHOWN]) or 'nothing'}{more}"
    if any(name.endswith("Categories/") for name in names):
        said += ". Categories/ holds coloured pictures; the ids are in Category_ids/"
    return said


def _entries(child: Path) -> list[str]:
    if not child.is_dir():
        return [child.name]
    inner = sorted(p.name for p in child.iterdir() if p.is_dir())
    return [f"{child.name}/{name}/" for name in inner] or [f"{child.name}/"]
