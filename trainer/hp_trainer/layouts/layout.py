"""One layout on disk: folders and lists per split, and how it recognises itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hp_sdk.errors import DataError
from hp_trainer.layouts.label_files import PNG, LabelKind


@dataclass(frozen=True, slots=True)
class Split:
    """Where the files of one split lie, relative to the folder of the layout."""

    images: str
    labels: str
    lists: tuple[str, ...] = ()
    """Files with the ids, the first that exists (or its .csv) counts; none: every file."""
    ids: tuple[str, ...] = ()
    """The ids, where nobody publishes a list."""

    def list_in(self, base: Path) -> Path | None:
        """The list that is there."""
        paths = (base / name for name in self.lists)
        candidates = (p for path in paths for p in (path, path.with_suffix(".csv")))
        return next((path for path in candidates if path.is_file()), None)

    def lies_in(self, base: Path) -> bool:
        """Whether folders and list are all there."""
        folders = (base / self.images).is_dir() and (base / self.labels).is_dir()
        return folders and (not self.lists or self.list_in(base) is not None)

    def __str__(self) -> str:
        return " + ".join((f"{self.images}/", f"{self.labels}/", *self.lists[:1]))


@dataclass(frozen=True, slots=True)
class Layout:
    """One row of the table."""

    name: str
    domains: tuple[str, ...]
    """What the published labels mean; empty where no built-in domain has these classes."""
    splits: Mapping[str, tuple[Split, ...]]
    """Alternatives in order of preference; empty for a split published without labels."""
    archives: tuple[str, ...] = ()
    """Folders in which the layout may lie inside the given one."""
    unless: tuple[str, ...] = ()
    """Files that tell another layout."""
    kind: LabelKind = PNG
    digits: int = 0
    """Length of numeric ids."""
    cut_jpegs: bool = False
    """Some published photographs lack their last bytes and are used all the same."""

    def base_in(self, root: Path) -> Path | None:
        """Folder in which this layout lies: `root` itself or an archive's folder inside it."""
        bases = (root / name for name in ("", *self.archives))
        return next((base for base in bases if self._lies_in(base)), None)

    def split_in(self, base: Path, split: str) -> Split:
        """Folders and list of one split.

        Raises:
            DataError: no such split, published without labels, or not in this folder.
        """
        if split not in self.splits:
            raise DataError(f"layout {self.name} has no split {split!r}; {self._has(base)}")
        alternatives = self.splits[split]
        if not alternatives:
            raise DataError(
                f"split {split!r} of layout {self.name} was published without labels; "
                f"{self._has(base)}"
            )
        for found in alternatives:
            if found.lies_in(base):
                return found
        raise DataError(
            f"{base} lacks split {split!r} of layout {self.name}, "
            f"{' or '.join(map(str, alternatives[:2]))}; {self._has(base)}"
        )

    def __str__(self) -> str:
        """What it looks like, by its first labelled split."""
        first = next(split[0] for split in self.splits.values() if split)
        return f"{self.name} ({first})"

    def _lies_in(self, base: Path) -> bool:
        return not any((base / name).exists() for name in self.unless) and bool(self._there(base))

    def _there(self, base: Path) -> list[str]:
        return [
            name
            for name, alternatives in self.splits.items()
            if any(split.lies_in(base) for split in alternatives)
        ]

    def _has(self, base: Path) -> str:
        return f"labelled splits there: {', '.join(self._there(base)) or 'none'}"
