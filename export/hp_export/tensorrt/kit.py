"""A kit: what one command on the machine with the GPU turns into a verified engine.

It is a bundle that already parses with ONNX, and beside it the options, the description of the ONNX
file (so that the target needs no onnx), a build script, checksums and a README.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hp_export.tensorrt.into_bundle import onnx_artifact
from hp_export.tensorrt.options import RUNTIMES, EngineOptions
from hp_export.tensorrt.plan import SUFFIXES
from hp_export.tensorrt.source import Source, read_source
from hp_sdk import __version__
from hp_sdk.bundle import read_bundle, verify_files, write_manifest
from hp_sdk.errors import ChecksumMismatch, SchemaMismatch
from hp_sdk.files import sha256_of, write_bytes, write_folder
from hp_sdk.manifest import read_json

KIT = "kit.json"
SCRIPT = "build.py"
SUMS = "kit.sha256"
SCHEMA = "1.0"
_PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}

_SCRIPT_TEXT = '''\
"""Build the TensorRT engines of this folder and verify them: python build.py [--help]."""

import sys
from pathlib import Path

try:
    from hp_export.tensorrt.__main__ import main
except ImportError as exc:
    sys.exit(f"build.py needs hp-sdk {version} or newer ({exc}): pip install 'hp-sdk>={version}'")

if __name__ == "__main__":
    sys.exit(main([str(Path(__file__).resolve().parent), *sys.argv[1:]]))
'''

_README_TEXT = """\
# {name} {version}: kit for {runtime}

On the machine whose GPU the engine is for:

    pip install "hp-sdk[{extra}]>={hp_sdk}" {package}
    python build.py

The script compares this folder with `{sums}`, builds one engine for each target from `{onnx}`
({precision}, batches {batch}), gives it the golden picture, compares the labels, and only then
lists it in `bundle.json`. Afterwards the folder is a bundle like any other:

    hp-parse street.jpg --model .

It already is one before, for ONNX Runtime. If the build fails, the folder stays as it is.
`python build.py --help` shows what can be changed: batches, workspace, time limit and more.
Checksums alone: `sha256sum --check {sums}`.
"""


@dataclass(frozen=True, slots=True)
class Kit:
    """What a kit asks for."""

    options: EngineOptions
    source: Source
    onnx_file: str
    """Path inside the kit."""


def write_kit(
    bundle_root: Path, target: Path, options: EngineOptions, *, onnx_file: str | None = None
) -> Path:
    """Write the folder `target`, or nothing at all; its path.

    Engines will be built from `onnx_file`, or from the bundle's first ONNX file.

    Raises:
        ModelError: the bundle is missing or damaged.
        ConfigError: it has no ONNX file, the options do not fit it, or `target` cannot be written.
    """
    bundle = read_bundle(bundle_root)
    verify_files(bundle)
    origin = onnx_artifact(bundle, onnx_file)
    source = read_source(bundle_root / origin.file)
    source.profile(options.batch)
    portable = tuple(a for a in bundle.artifacts if a.runtime not in RUNTIMES)
    engines = {a.file for a in bundle.artifacts} - {a.file for a in portable}
    told = [entry for entry in bundle.verify if entry.get("artifact") not in engines]
    with write_folder(target) as folder:
        shutil.copytree(bundle_root, folder, dirs_exist_ok=True, ignore=_ignored)
        bundle = replace(bundle, artifacts=portable, verify=told)
        write_manifest(bundle, folder)
        write_bytes(folder / KIT, _kit_text(Kit(options, source, origin.file)).encode())
        write_bytes(folder / SCRIPT, _SCRIPT_TEXT.replace("{version}", __version__).encode())
        readme = _README_TEXT.format(
            name=bundle.name,
            version=bundle.version,
            runtime=options.runtime,
            extra="tensorrt",
            hp_sdk=__version__,
            package=_PACKAGES[options.runtime],
            sums=SUMS,
            onnx=origin.file,
            precision=source.precision,
            batch=":".join(map(str, options.batch)),
        )
        write_bytes(folder / "README.md", readme.encode())
        write_bytes(folder / SUMS, "".join(_sums(folder)).encode())
    return target


def read_kit(folder: Path) -> Kit | None:
    """What a kit asks for; None if the folder is a bundle but no kit.

    Raises:
        ModelError: its files are not those that were written.
        ConfigError: its options are not known here.
    """
    if not (folder / KIT).is_file() and not (folder / SUMS).is_file():
        return None
    _check_sums(folder)
    values = read_json(folder / KIT)
    schema = str(values.get("schema"))
    if schema.split(".")[0] != SCHEMA.split(".")[0]:
        raise SchemaMismatch(
            f"{str(folder / KIT)!r} has schema {schema!r}; this release reads "
            f"{SCHEMA.split('.')[0]}.x; install the hp-sdk that the README names"
        )
    options = EngineOptions.from_dict(values["options"])
    return Kit(options, Source.from_dict(values["source"]), str(values["onnx"]))


def _kit_text(kit: Kit) -> str:
    values: dict[str, Any] = {"schema": SCHEMA, "hp_sdk": __version__, "onnx": kit.onnx_file}
    values |= {"options": kit.options.to_dict(), "source": kit.source.to_dict()}
    return json.dumps(values, indent=1) + "\n"


def _ignored(_folder: str, names: list[str]) -> list[str]:
    """Engines and their sidecars stay behind: they are for other machines."""
    ends = (*SUFFIXES, *(f"{suffix}.json" for suffix in SUFFIXES))
    return [name for name in names if name.endswith(ends) or name in (SUMS, KIT)]


def _sums(folder: Path) -> Iterator[str]:
    """Lines as sha256sum writes and checks them.

    Without `bundle.json`, which changes when the engine joins; it names the other files itself.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in ("bundle.json", SUMS):
            yield f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n"


def _check_sums(folder: Path) -> None:
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ChecksumMismatch(f"the kit {str(folder)!r} has no readable {SUMS}: {exc}") from exc
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise ChecksumMismatch(f"the kit {str(folder)!r} lacks {name!r}; copy it again")
        if sha256_of(path) != expected:
            raise ChecksumMismatch(f"{str(path)!r} is damaged or changed; copy the kit again")
