"""Bundles by name: the one shipped inside the package, and those a user has added.

`HP_HOME` is the one folder we write to on our own; a user's model goes before ours of that name.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from hp_sdk.bundle import MANIFEST, read_bundle, verify_files
from hp_sdk.domains import canonical
from hp_sdk.errors import ConfigError, ModelError, ModelNotFound
from hp_sdk.files import remove_folder, write_folder

DEFAULT = "universal"
"""The bundle that answers to the names of its heads."""
_SHIPPED = Path(__file__).parent / "bundles"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One name that `Parser.load` accepts."""

    name: str
    path: Path
    shipped: bool
    """Part of the package, as opposed to added by the user."""
    heads: tuple[str, ...]
    """Empty if the manifest cannot be read; `read_bundle` says why."""


def home() -> Path:
    """`HP_HOME`, or `hp-sdk` in the XDG cache."""
    given = os.environ.get("HP_HOME")
    if given:
        return Path(given).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "hp-sdk"


def find_bundle(model: str | Path, *, root: Path | None = None) -> tuple[Path, str | None]:
    """Folder of a bundle, and the head the name stands for if it stands for one.

    `model` is, in this order: a name the user has added, a shipped bundle, a head of the shipped
    bundle (`cihp`), or a folder with `bundle.json`.  A `Path`, or text with a slash, is a folder.
    `root` is where the user's models lie, instead of `home()`.

    Raises:
        ModelNotFound: nothing of that name; the message lists what there is.
    """
    if isinstance(model, Path) or re.search(r"[/\\]", model):
        return _folder(Path(model).expanduser(), root), None
    by_name = {entry.name: entry.path for entry in reversed(list_models(root=root))}
    if model in by_name:
        return by_name[model], None
    shipped = _SHIPPED / DEFAULT
    if _is_bundle(shipped) and canonical(model) in _heads(shipped):
        return shipped, canonical(model)
    if _is_bundle(Path(model)):
        return Path(model), None
    raise ModelNotFound(_nothing(model, root))


def list_models(*, root: Path | None = None) -> tuple[ModelEntry, ...]:
    """Every bundle that has a name: the user's (in `root` or `home()`) first, then the shipped."""
    added = _entries((root or home()) / "models", shipped=False)
    return (*added, *_entries(_SHIPPED, shipped=True))


def add_model(name: str, bundle: str | Path) -> Path:
    """Verify a bundle and copy it under `HP_HOME`, so that it answers to `name`.

    Raises:
        ConfigError: the name is not a plain word, or the folder cannot be written to.
        ModelError: the bundle is missing or damaged.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} is no model name; use letters, digits, '.', '-' and '_'")
    source = _folder(Path(bundle).expanduser())
    verify_files(read_bundle(source))
    target = home() / "models" / name
    if target.exists() and target.resolve() == source.resolve():
        return target
    with write_folder(target) as folder:
        _copy(source, folder)
        verify_files(read_bundle(folder))
    return target


def remove_model(name: str) -> Path:
    """Delete a model the user has added; the folder that is gone.

    Raises:
        ModelNotFound: the user has added no such model.
        ConfigError: the folder cannot be deleted.
    """
    added = {entry.name: entry.path for entry in _entries(home() / "models", shipped=False)}
    if name not in added:
        there = ", ".join(added) or "none"
        raise ModelNotFound(f"no added model {name!r}; added are: {there}; shipped ones stay")
    return remove_folder(added[name])


def _copy(source: Path, folder: Path) -> None:
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except OSError as exc:
        first = exc.args[0][0][2] if isinstance(exc, shutil.Error) else exc.strerror
        raise ConfigError(
            f"cannot copy {str(source)!r} under {str(folder.parent)!r}: {first}; free some space, "
            "or set HP_HOME to another folder"
        ) from exc


def _folder(path: Path, root: Path | None = None) -> Path:
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if _is_bundle(path):
        return path
    if path.is_file():
        raise ModelNotFound(
            f"{str(path)!r} is a file; give the folder of a bundle, as hp-export writes it"
        )
    what = "holds no bundle.json" if path.is_dir() else "does not exist"
    raise ModelNotFound(f"{str(path)!r} {what}; give the folder of a bundle, or {_names(root)}")


def _entries(folder: Path, *, shipped: bool) -> tuple[ModelEntry, ...]:
    if not folder.is_dir():
        return ()
    return tuple(
        ModelEntry(path.name, path, shipped, _heads(path))
        for path in sorted(folder.iterdir())
        if _is_bundle(path) and not path.name.startswith(".")
    )


def _heads(path: Path) -> tuple[str, ...]:
    try:
        return tuple(read_bundle(path).heads)
    except ModelError:
        return ()


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _nothing(model: str, root: Path | None) -> str:
    path = Path(model)
    hint = f" (the file {model!r} is not the folder of a bundle)" if path.is_file() else ""
    return f"no model {model!r}{hint}; use {_names(root)}, or the folder of a bundle"


def _names(root: Path | None) -> str:
    shipped = _SHIPPED / DEFAULT
    heads = _heads(shipped) if _is_bundle(shipped) else ()
    return ", ".join(dict.fromkeys([entry.name for entry in list_models(root=root)] + list(heads)))
