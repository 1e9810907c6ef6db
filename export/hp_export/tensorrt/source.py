"""The ONNX file an engine is built from: what of it decides about the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hp_sdk.errors import ConfigError, CorruptArtifact
from hp_sdk.files import sha256_of

if TYPE_CHECKING:
    import onnx

_WEAK_FLAGS = {"float16": "FP16", "bfloat16": "BF16", "int8": "INT8"}
"""Type in the graph → the builder flag without which TensorRT 8.6 would not use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Facts about an ONNX file; `to_dict` and back, so that a kit needs no onnx."""

    sha256: str
    graph_sha256: str
    """Of the graph and its weights; the description inside the file does not count."""
    size_bytes: int
    opset: int
    precision: str
    """Found in the file, as `census.Census.precision`."""
    weights: Mapping[str, int]
    """Element type → bytes."""
    computes: Mapping[str, int]
    """Element type → convolutions and products that compute in it."""
    input: str
    shape: tuple[int, ...]
    """Of the input without the batch: (h, w, 3)."""
    fixed_batch: int | None
    """None where the batch is dynamic."""
    outputs: tuple[str, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads whose logits the file gives."""
        prefix = "logits."
        return tuple(o.removeprefix(prefix) for o in self.outputs if o.startswith(prefix))

    @property
    def weak_flags(self) -> tuple[str, ...]:
        """Builder flags that a version without strong typing needs."""
        found = {*self.weights, *self.computes}
        return tuple(flag for dtype, flag in _WEAK_FLAGS.items() if dtype in found)

    def profile(self, batch: tuple[int, int, int]) -> dict[str, dict[str, list[int]]]:
        """Smallest, usual and largest shape of the input.

        Raises:
            ConfigError: the file has another, fixed batch.
        """
        if self.fixed_batch is not None and set(batch) != {self.fixed_batch}:
            raise ConfigError(
                f"batch is {':'.join(map(str, batch))}, but the ONNX file takes batches of "
                f"{self.fixed_batch} only; ask for that, or export with a dynamic batch"
            )
        sizes = zip(("min", "opt", "max"), batch, strict=True)
        return {self.input: {key: [size, *self.shape] for key, size in sizes}}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Source:
        """The opposite of `to_dict`, also after a way through JSON.

        Raises:
            CorruptArtifact: a key is missing or not known here.
        """
        lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        try:
            return cls(**{**values, **lists})
        except TypeError as exc:
            raise CorruptArtifact(f"the description of an ONNX file is broken: {exc}") from exc


def read_source(path: Path) -> Source:
    """Facts about the ONNX file at `path`.

    Raises:
        ModelNotFound: no such file.
        CorruptArtifact: no ONNX file.
        ConfigError: it has several inputs, or one whose height or width is not fixed.
    """
    from hp_export.census import read_onnx, take_census

    model = read_onnx(path)
    census = take_census(model)
    name, batch, shape = _input(model, path)
    return Source(
        sha256=sha256_of(path),
        graph_sha256=_graph_digest(path),
        size_bytes=path.stat().st_size,
        opset=census.opset,
        precision=census.precision,
        weights=dict(census.weights),
        computes=dict(census.computes),
        input=name,
        shape=shape,
        fixed_batch=batch,
        outputs=tuple(census.outputs),
    )


def _input(model: onnx.ModelProto, path: Path) -> tuple[str, int | None, tuple[int, ...]]:
    if len(model.graph.input) != 1:
        raise ConfigError(f"{str(path)!r} has {len(model.graph.input)} inputs; allowed is one")
    value = model.graph.input[0]
    sizes = [int(size.dim_value) for size in value.type.tensor_type.shape.dim]  # 0 is dynamic
    if not sizes or 0 in sizes[1:]:
        raise ConfigError(
            f"input {value.name!r} of {str(path)!r} has sizes {sizes}, where 0 is dynamic; only "
            "the batch may be dynamic: export with a fixed height and width"
        )
    return value.name, sizes[0] or None, tuple(sizes[1:])


def _graph_digest(path: Path) -> str:
    import onnx

    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name in sorted(set(_external_files(model))):
        digest.update(f"{name} {sha256_of(path.parent / name)}".encode())
    return digest.hexdigest()


def _external_files(model: onnx.ModelProto) -> Iterator[str]:
    for tensor in model.graph.initializer:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
