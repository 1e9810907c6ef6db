"""What an engine file is, read from its first bytes and its sidecar; TensorRT is not needed.

A plan starts with a tag, then (little-endian): uint32 serialisation version, uint64, uint64 size
of the whole file, four bytes of TensorRT's version.  TensorRT-RTX goes on with a second tag and a
mask of GPU architectures.  Tag and version of classic plans are in NVIDIA's open-source trtexec;
size and mask were found in engines of TensorRT-RTX 1.7.1.  All is read for serialisation version 0
only.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hp_export.tensorrt.sidecar import Sidecar, read_sidecar, sidecar_path
from hp_sdk.errors import CorruptArtifact, ModelError, ModelNotFound
from hp_sdk.files import sha256_of

SUFFIXES = (".engine", ".plan", ".trt")

_HEADER = struct.Struct("<4sIQQ4B")
_RTX_MASK = struct.Struct("<4sI")
_RTX_BITS = {1: "7.5", 2: "8.0", 4: "8.6", 8: "8.9", 16: "12.0", 32: "12.1"}
"""Bit of the mask → compute capability; a higher bit stands for newer GPUs."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec"
_ONNX_FIRST = b"\x08"


class _Kind(NamedTuple):
    runtime: str
    title: str
    package: str


_KINDS = {
    b"ftrt": _Kind("tensorrt", "TensorRT", "tensorrt"),
    b"vtrt": _Kind("tensorrt-rtx", "TensorRT-RTX", "tensorrt-rtx-cu13"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What is known of an engine file."""

    path: Path
    runtime: str
    title: str
    version: str
    """Of the TensorRT that wrote it; "" if this layout of the header is unknown."""
    size_bytes: int
    compute_capabilities: tuple[str, ...]
    """Empty if neither header nor sidecar tells."""
    and_newer: bool
    """Whether it also runs on architectures newer than those."""
    sidecar: Sidecar | None
    notes: tuple[str, ...]
    """What does not fit together."""
    needs: str
    rebuild: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        return asdict(self) | {"path": str(self.path)}


def inspect_plan(path: Path) -> PlanReport:
    """Version and origin of an engine file, what it needs, and how to build it again.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: no engine, a truncated one, or one behind another program's header.
    """
    if not path.is_file():
        raise ModelNotFound(f"there is no file {str(path)!r}; give an .engine or .plan file")
    start = _start(path)
    kind = _kind(path, start)
    version, mask = _header(path, start, kind)
    sidecar, notes = _beside(path, version)
    told = tuple(cc for bit, cc in _RTX_BITS.items() if mask & bit)
    capabilities = told or (sidecar.compute_capabilities if sidecar else ())
    return PlanReport(
        path=path,
        runtime=kind.runtime,
        title=kind.title,
        version=version,
        size_bytes=path.stat().st_size,
        compute_capabilities=capabilities,
        and_newer=bool(mask >> len(_RTX_BITS)),
        sidecar=sidecar,
        notes=notes,
        needs=_needs(kind, version, capabilities, newer=bool(mask >> len(_RTX_BITS))),
        rebuild=sidecar.rebuild if sidecar else _rebuild(kind),
    )


def is_plan(path: Path) -> bool:
    """Whether a file looks like an engine: by its tag, or by its name where it has none."""
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.is_file() and _start(path)[:4] in _KINDS


def plan_lines(report: PlanReport) -> Iterator[str]:
    """The report for people."""
    yield f"engine  {report.title} {report.version}, {report.size_bytes / 1e6:.2f} MB"
    if report.sidecar is not None:
        yield from _sidecar_lines(report.sidecar)
    else:
        yield f"origin  unknown: there is no {sidecar_path(report.path).name} beside it"
    yield from (f"note    {note}" for note in report.notes)
    yield f"needs   {report.needs}"
    yield f"rebuild {report.rebuild}"


def _sidecar_lines(sidecar: Sidecar) -> Iterator[str]:
    source = sidecar.source
    layers = ", ".join(f"{count} layers {kind}" for kind, count in source["computes"].items())
    yield f"built   {sidecar.built_utc} in {sidecar.build_s:.1f} s on {sidecar.system}"
    yield f"from    {source['file']} (sha256 {source['sha256'][:12]}..., opset {source['opset']})"
    yield f"graph   {source['precision']}: {layers}; {sidecar.typing} typing"
    for name, shapes in sidecar.profile.items():
        sizes = "  ".join(f"{key} {'x'.join(map(str, shape))}" for key, shape in shapes.items())
        yield f"input   {name}  {sizes}"
    for name, tensor in sidecar.outputs.items():
        yield f"output  {name}  {tensor['dtype']} {'x'.join(map(str, tensor['shape']))}"


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError as exc:
        raise CorruptArtifact(f"cannot read {str(path)!r}: {exc.strerror or exc}") from exc


def _kind(path: Path, start: bytes) -> _Kind:
    if start[:4] in _KINDS:
        return _KINDS[start[:4]]
    raise CorruptArtifact(f"{str(path)!r} is no TensorRT engine{_stranger(start)}")


def _stranger(start: bytes) -> str:
    """What the file is instead, as far as one can see."""
    if not start:
        return ": it is empty; copy or build it again"
    if start.startswith(_LFS_POINTER):
        return " but a Git LFS pointer; run `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return " but a web page; download the file itself"
    if start[4:5] == b"{":
        length = int.from_bytes(start[:4], "little")
        return (
            ": another program has put a JSON header in front of it, which TensorRT, Triton and "
            f"trtexec refuse; cut off the first {length + 4} bytes, or build it again"
        )
    if start.startswith(_ONNX_FIRST):
        return "; if it is an ONNX file, give it the ending .onnx"
    return f" (it starts with {start[:4]!r}); build it again"


def _header(path: Path, start: bytes, kind: _Kind) -> tuple[str, int]:
    """Version and, for TensorRT-RTX, the mask of architectures (0 if unknown)."""
    if len(start) < _HEADER.size:
        raise CorruptArtifact(f"{str(path)!r} is truncated to {len(start)} bytes; copy it again")
    _tag, layout, _unknown, size, *numbers = _HEADER.unpack_from(start)
    if layout != 0:
        return "", 0
    found = path.stat().st_size
    if found < size:
        raise CorruptArtifact(
            f"{str(path)!r} is truncated: {found} bytes, its header says {size}; copy it again"
        )
    return ".".join(map(str, numbers)), _mask(start) if kind.runtime == "tensorrt-rtx" else 0


def _mask(start: bytes) -> int:
    if len(start) < _HEADER.size + _RTX_MASK.size:
        return 0
    tag, mask = _RTX_MASK.unpack_from(start, _HEADER.size)
    return mask if tag == b"vtrt" else 0


def _beside(path: Path, version: str) -> tuple[Sidecar | None, tuple[str, ...]]:
    """The sidecar if it is about this very file, and what is wrong with it if not."""
    try:
        sidecar = read_sidecar(path)
    except ModelError as exc:
        return None, (f"the sidecar is not used: {exc}",)
    if sidecar is None:
        return None, ()
    if sidecar.sha256 != sha256_of(path):
        return None, ("the sidecar is about another file: its sha256 differs; it is not used",)
    if version and sidecar.version != version:
        return sidecar, (f"the sidecar says version {sidecar.version}, the header {version}",)
    return sidecar, ()


def _needs(kind: _Kind, version: str, capabilities: tuple[str, ...], *, newer: bool) -> str:
    gpus = ", ".join(capabilities) + (" or newer" if newer else "")
    gpu = (
        f"a GPU of compute capability {gpus}" if capabilities else "the kind of GPU it was built on"
    )
    exact = f"exactly {kind.title} {version}" if version else f"the {kind.title} that wrote it"
    install = f"pip install {kind.package}=={version}" if version else f"pip install {kind.package}"
    return f"{exact} ({install}), and {gpu}"


def _rebuild(kind: _Kind) -> str:
    return (
        f"python -m hp_export.tensorrt BUNDLE --format {kind.runtime}, with the bundle it is from"
    )
