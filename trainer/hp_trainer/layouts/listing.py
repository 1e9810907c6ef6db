"""What a split of a dataset consists of: ids, and the folders their files lie in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hp_sdk.errors import ConfigError, DataError
from hp_trainer.layouts.detect import AUTO, NEUTRAL, check_name, detect, named_layout
from hp_trainer.layouts.id_list import IMAGE_SUFFIXES, read_column, read_ids
from hp_trainer.layouts.label_files import PNG, LabelKind
from hp_trainer.layouts.layout import Layout, Split

DEFAULT_LABELS = "labels"
"""Label folder that lets the layout decide."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One split."""

    layout: str
    ids: list[str]
    images: Path
    labels: dict[str, Path]
    """Domain, as the user calls it → folder of its label files."""
    kind: LabelKind = PNG
    cut_jpegs: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """File names by id."""

    images: dict[str, str]
    labels: dict[str, dict[str, tuple[str, ...]]]
    """Domain → id → its label files."""


def list_photos(root: Path, labels: Mapping[str, str], split: str, layout: str) -> Listing:
    """Ids and folders of one split.

    Args:
        root: folder of the dataset.
        labels: domain → folder of its labels; `labels` means wherever the layout has them.
        split: train, val, ...
        layout: name of a layout, or `auto` to see for itself.

    Raises:
        DataError: folder, list or split is not there, or the layout is not clear.
        ConfigError: `layout` or `labels` is not allowed.
    """
    check_name(layout)
    default = set(labels.values()) == {DEFAULT_LABELS} and len(labels) == 1
    if layout == NEUTRAL or (layout == AUTO and not default):
        return _neutral(root, labels, split)
    if not default:
        raise ConfigError(
            f"layout {layout!r} knows its only label folder; write labels = "
            f'{{ DOMAIN = "{DEFAULT_LABELS}" }} instead of {dict(labels)}'
        )
    (domain,) = labels
    found = detect(root, domain, split) if layout == AUTO else named_layout(root, layout)
    return _known(*found, domain, split) if found else _neutral(root, labels, split)


def find_files(root: Path, listing: Listing, ids: Sequence[str]) -> Files:
    """The files of `ids`.

    Raises:
        DataError: some are missing, with their number and the first ten.
    """
    images = _images_in(listing.images)
    labels = {d: listing.kind.index(_names(folder)) for d, folder in listing.labels.items()}
    missing = [listing.images / name for name in ids if name not in images]
    for domain, folder in listing.labels.items():
        missing += [folder / listing.kind.pattern.format(n) for n in ids if n not in labels[domain]]
    if missing:
        first = ", ".join(_inside(root, path) for path in missing[:10])
        raise DataError(f"{root} lacks {len(missing)} listed files, first: {first}")
    return Files(
        {name: images[name] for name in ids},
        {domain: {name: files[name] for name in ids} for domain, files in labels.items()},
    )


def _neutral(root: Path, labels: Mapping[str, str], split: str) -> Listing:
    ids = read_ids(root, split)
    folders = {domain: root / name for domain, name in labels.items()}
    for folder in (root / "images", *folders.values()):
        if not folder.is_dir():
            raise DataError(f"data set {root} has no folder {folder.name}/")
    return Listing(NEUTRAL, ids, root / "images", folders)


def _known(row: Layout, base: Path, domain: str, split: str) -> Listing:
    where = row.split_in(base, split)
    images, labels = base / where.images, base / where.labels
    ids = _ids(row, base, where)
    return Listing(row.name, ids, images, {domain: labels}, row.kind, row.cut_jpegs)


def _ids(row: Layout, base: Path, where: Split) -> list[str]:
    if where.ids:
        return list(where.ids)
    if path := where.list_in(base):
        return read_column(path, digits=row.digits)
    # Without a list, a photograph without labels (or the reverse) is a gap that must show.
    images, labels = _images_in(base / where.images), row.kind.index(_names(base / where.labels))
    if not (ids := sorted(images.keys() | labels.keys())):
        raise DataError(f"{base / where.images} holds no image")
    return ids


def _inside(root: Path, path: Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _names(folder: Path) -> list[str]:
    # Hidden files are droppings of file managers ("._0001.jpg"), never photographs.
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def _images_in(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    names = [(Path(name).suffix.lower(), name) for name in _names(folder)]
    for suffix in reversed(IMAGE_SUFFIXES):  # the first of several suffixes wins
        found |= {Path(name).stem: name for end, name in names if end == suffix}
    return found
