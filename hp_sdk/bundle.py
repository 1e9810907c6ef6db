"""A model on disk: a folder with `bundle.json`, its artifacts and a golden sample.

The bundle is the contract between export, this package, the C++ library and any server; it
carries its own label domains, so none of them needs a table of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import gcd
from pathlib import Path, PurePosixPath
from typing import Any

from hp_sdk.domains import Domain
from hp_sdk.errors import ChecksumMismatch, CorruptArtifact, ModelNotFound, SchemaMismatch
from hp_sdk.files import sha256_of, write_bytes, write_folder
from hp_sdk.manifest import Section, read_json

__all__ = [
    "Artifact",
    "Bundle",
    "DataFile",
    "HeadSpec",
    "InputSpec",
    "manifest_dict",
    "read_bundle",
    "verify_artifact",
    "verify_files",
    "write_folder",
    "write_manifest",
]

MANIFEST = "bundle.json"
SCHEMA = "1.0"
STEP_PX = 32
"""Windows over a large picture start at multiples of this, or of what it shares with their size."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_DOMAIN_KEYS = ("names", "flip_pairs", "palette", "groups", "aliases", "ignore_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How a photo becomes the network's input; normalisation itself lies inside the graph."""

    size_hw: tuple[int, int]
    resize: str = "letterbox"
    """"letterbox": all of the photo inside the input, padded; "stretch": filling it; or
    "shortest-side": the photo covers the input and is read through windows of its size."""
    interpolation: str = "linear"
    pixel_centre: str = "half"
    pad_value: int = 114
    color: str = "RGB"
    layout: str = "NHWC"
    dtype: str = "uint8"
    mean: tuple[float, ...] = ()
    """Documentation only, in units of 0..255."""
    std: tuple[float, ...] = ()
    stride_hw: tuple[int, int] | None = None
    """From window to window, in pixels; None is two thirds of `size_hw`."""
    longest_px: int | None = None
    """Longest side of a "shortest-side" photo, however narrow; None is four times the input's."""

    @property
    def window_stride_hw(self) -> tuple[int, int]:
        """From window to window, in whole steps."""
        if self.stride_hw is not None:
            return self.stride_hw
        height, width = (
            max(step, 2 * side // 3 // step * step)
            for side, step in zip(self.size_hw, self.step_hw, strict=True)
        )
        return height, width

    @property
    def step_hw(self) -> tuple[int, int]:
        """Windows start at multiples of this."""
        return gcd(STEP_PX, self.size_hw[0]), gcd(STEP_PX, self.size_hw[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in `bundle.json`; what is not set is left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """One label domain and the tensor that holds its logits (N, Z, H/stride, W/stride)."""

    domain: Domain
    output: str
    stride: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """Weights of an artifact in a file of their own, which the runtime finds by its name."""

    file: str
    """Path inside the bundle, beside the artifact."""
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One file that a runtime can open."""

    runtime: str
    file: str
    """Path inside the bundle, with forward slashes."""
    sha256: str
    size_bytes: int
    heads: tuple[str, ...]
    precision_asked: str
    precision_found: str
    batch_min: int
    batch_opt: int
    batch_max: int
    size_hw: tuple[int, int]
    opset: int | None = None
    outputs: tuple[str, ...] = ()
    data: tuple[DataFile, ...] = ()
    """Further files without which it cannot be opened; most have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Everything `bundle.json` says, and where it lies."""

    root: Path
    name: str
    family: str
    version: str
    license: str
    input: InputSpec
    heads: Mapping[str, HeadSpec]
    artifacts: tuple[Artifact, ...]
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])
    verify: Any = field(default_factory=list[Any])
    golden: Mapping[str, Any] | None = None


def read_bundle(root: str | Path) -> Bundle:
    """The bundle in folder `root`; reads the manifest only, `verify_files` reads the rest.

    Raises:
        ModelNotFound: there is no `bundle.json`.
        SchemaMismatch: a newer schema, or a key that is missing or not allowed.
        CorruptArtifact: the manifest is not JSON.
    """
    root = Path(root)
    path = root / MANIFEST
    if not path.is_file():
        raise ModelNotFound(f"{str(root)!r} is no bundle: it holds no {MANIFEST}")
    _refuse_stand_in(path)
    top = Section(read_json(path), where=str(path))
    _check_schema(top.text("schema"), path)
    heads = {name: _head(name, section) for name, section in top.sections("heads")}
    bundle = Bundle(
        root=root,
        name=top.text("name"),
        family=top.text("family"),
        version=top.text("version"),
        license=top.text("license"),
        card=top.table("card"),
        input=_input(top.section("input")),
        heads=heads,
        artifacts=tuple(_artifact(section, heads) for section in top.list_of("artifacts")),
        verify=top.data.get("verify", []),
        golden=top.table("golden") if top.data.get("golden") else None,
    )
    if bundle.golden is not None:
        _inside(top.section("golden"), "file")
        top.section("golden").text("sha256")
    return bundle


def verify_files(bundle: Bundle) -> tuple[Path, ...]:
    """Compare every file with the manifest; the paths of what was compared.

    Raises:
        CorruptArtifact: a file is missing or a Git LFS pointer.
        ChecksumMismatch: a file has another size or another content.
    """
    paths = [verify_artifact(bundle, artifact) for artifact in bundle.artifacts]
    paths += [bundle.root / data.file for artifact in bundle.artifacts for data in artifact.data]
    if bundle.golden is not None:
        golden = bundle.golden
        paths.append(_verify(bundle, str(golden["file"]), str(golden["sha256"]), None))
    return tuple(paths)


def verify_artifact(bundle: Bundle, artifact: Artifact) -> Path:
    """Compare one artifact and its data files with the manifest; its path if all are right.

    Raises:
        CorruptArtifact: a file is missing or a Git LFS pointer.
        ChecksumMismatch: a file has another size or another content.
    """
    for data in artifact.data:
        _verify(bundle, data.file, data.sha256, data.size_bytes)
    return _verify(bundle, artifact.file, artifact.sha256, artifact.size_bytes)


def manifest_dict(bundle: Bundle) -> dict[str, Any]:
    """What `bundle.json` holds, as plain data."""
    return {
        "schema": SCHEMA,
        "name": bundle.name,
        "family": bundle.family,
        "version": bundle.version,
        "license": bundle.license,
        "card": dict(bundle.card),
        "input": bundle.input.to_dict(),
        "heads": {name: _head_dict(head) for name, head in bundle.heads.items()},
        "artifacts": [_artifact_dict(artifact) for artifact in bundle.artifacts],
        "verify": bundle.verify,
        "golden": None if bundle.golden is None else dict(bundle.golden),
    }


def write_manifest(bundle: Bundle, folder: Path) -> Path:
    """Write `bundle.json` into `folder`; its path."""
    text = json.dumps(manifest_dict(bundle), indent=1, ensure_ascii=False, allow_nan=False)
    # One line per colour or pair; a JSON string holds no line break, so none is touched.
    text = re.sub(r"\[\n([^\[\]{}\"]*)\n *\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    return write_bytes(folder / MANIFEST, (text + "\n").encode())


def _check_schema(schema: str, path: Path) -> None:
    if schema.split(".")[0] != SCHEMA.split(".")[0]:
        raise SchemaMismatch(
            f"{str(path)!r} has schema {schema}; this release reads {SCHEMA.split('.')[0]}.x; "
            "install the release of hp-sdk that fits the bundle, or export it again"
        )


def _input(section: Section) -> InputSpec:
    pad = section.integer("pad_value", minimum=0)
    if pad > 255:
        raise section.error("pad_value", pad, "0 to 255")
    spec = InputSpec(
        size_hw=section.size("size_hw"),
        resize=section.choice("resize", ("letterbox", "stretch", "shortest-side")),
        interpolation=section.choice("interpolation", ("linear",)),
        pixel_centre=section.choice("pixel_centre", ("half",)),
        pad_value=pad,
        color=section.choice("color", ("RGB",)),
        layout=section.choice("layout", ("NHWC",)),
        dtype=section.choice("dtype", ("uint8",)),
        mean=tuple(section.data.get("mean", ())),
        std=tuple(section.data.get("std", ())),
        stride_hw=section.size("stride_hw") if section.has("stride_hw") else None,
        longest_px=section.integer("longest_px") if section.has("longest_px") else None,
    )
    steps = zip(spec.window_stride_hw, spec.step_hw, spec.size_hw, strict=True)
    if any(stride % step or stride > side for stride, step, side in steps):
        raise section.error(
            "stride_hw", spec.stride_hw, f"multiples of {spec.step_hw} up to {spec.size_hw}"
        )
    return spec


def _head(name: str, section: Section) -> HeadSpec:
    fields = {key: section.data[key] for key in _DOMAIN_KEYS if key in section.data}
    return HeadSpec(
        domain=section.domain(fields, name=name),
        output=section.text("output"),
        stride=section.integer("stride"),
    )


def _head_dict(head: HeadSpec) -> dict[str, Any]:
    domain = head.domain.to_dict()
    fields = {key: domain[key] for key in _DOMAIN_KEYS}
    return fields | {"output": head.output, "stride": head.stride}


def _artifact(section: Section, heads: Mapping[str, HeadSpec]) -> Artifact:
    served = section.texts("heads")
    for name in served:
        if name not in heads:
            raise section.error("heads", name, ", ".join(heads) or "nothing")
    return Artifact(
        runtime=section.text("runtime"),
        file=_inside(section, "file"),
        sha256=section.text("sha256"),
        size_bytes=section.integer("size_bytes", minimum=0),
        heads=served,
        precision_asked=section.text("precision_asked"),
        precision_found=section.text("precision_found"),
        batch_min=section.integer("batch_min"),
        batch_opt=section.integer("batch_opt"),
        batch_max=section.integer("batch_max"),
        size_hw=section.size("size_hw"),
        opset=section.integer("opset") if section.has("opset") else None,
        outputs=section.texts("outputs"),
        data=tuple(map(_data_file, section.list_of("data"))) if section.has("data") else (),
    )


def _data_file(section: Section) -> DataFile:
    return DataFile(
        file=_inside(section, "file"),
        sha256=section.text("sha256"),
        size_bytes=section.integer("size_bytes", minimum=0),
    )


def _artifact_dict(artifact: Artifact) -> dict[str, Any]:
    values = asdict(artifact)
    data = values.pop("data")
    return values | ({"data": list(data)} if data else {})


def _inside(section: Section, key: str) -> str:
    file = section.text(key)
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
        raise section.error(key, file, "a relative path that stays inside the bundle")
    return file


def _verify(bundle: Bundle, file: str, sha256: str, size_bytes: int | None) -> Path:
    path = bundle.root / file
    if not path.is_file():
        raise CorruptArtifact(f"bundle {bundle.name!r} lacks its file {file!r}; fetch it again")
    _refuse_stand_in(path)
    size = path.stat().st_size
    if size_bytes is not None and size != size_bytes:
        what = "truncated" if size < size_bytes else "not the file described"
        raise ChecksumMismatch(
            f"{str(path)!r} is {what}: {size} bytes, the manifest says {size_bytes}; "
            "fetch the bundle again"
        )
    if sha256_of(path) != sha256:
        raise ChecksumMismatch(
            f"{str(path)!r} is damaged: its sha256 is not {sha256[:12]}... as the manifest says; "
            "fetch the bundle again"
        )
    return path


def _refuse_stand_in(path: Path) -> None:
    """Name the two things that downloads leave in place of a file."""
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER)).lstrip()
    if start == _LFS_POINTER:
        raise CorruptArtifact(f"{str(path)!r} is a Git LFS pointer; run `git lfs pull`")
    if start.lower().startswith((b"<!doctype html", b"<html")):
        raise CorruptArtifact(f"{str(path)!r} is a web page; download the file itself")
