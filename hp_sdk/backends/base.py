"""What every runtime looks like from above: pixels in, logits out."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    DeviceOutOfMemory,
    HpError,
    InputError,
    SchemaMismatch,
)

Batch: TypeAlias = NDArray[np.uint8]
"""Network inputs (N, h, w, 3) uint8 RGB."""
Outputs: TypeAlias = dict[str, NDArray[Any]]
"""Output tensors by name; `logits.<head>` is (N, K, h/stride, w/stride)."""


DEVICES = {
    "cpu": (r"cpu", "cpu"),
    "cuda": (r"cuda(:\d+)?", "cuda, cuda:0 (NVIDIA)"),
    "GPU": (r"GPU(\.\d+)?", "GPU, GPU.1 (Intel, through OpenVINO)"),
    "NPU": (r"NPU", "NPU (Intel, through OpenVINO)"),
}
"""Kind of device → how one is written, and examples."""


class Absent(BackendUnavailable):
    """The runtime, the device or a fitting artifact is not there; nothing is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a backend can say about itself once it is open."""

    version: str = ""
    artifact: str = ""
    """File and the start of its sha256."""
    precision: str = ""
    batch_min: int = 1
    batch_opt: int = 1
    batch_max: int = 1
    notes: tuple[str, ...] = ()
    """Anything the caller should know, such as an accepted fallback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What a runtime says of itself before anything is opened."""

    version: str
    listed: tuple[str, ...]
    """Devices in the runtime's own words; whether one works shows when a model is opened on it."""
    devices: tuple[str, ...]
    """The same as `BackendOptions.device` takes them, the CPU first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """How to open an artifact: on this device, in this way, or not at all."""

    device: str | None = None
    """One device, as `DEVICES` writes it; None is the CPU."""
    precision: str = "auto"
    """What the caller asked for; "auto" computes in the artifact's own precision."""
    num_threads: int | None = None
    providers: Sequence[Any] | None = None
    """ONNX Runtime's own list of devices; replaces `device`."""
    session_options: Any = None
    """The runtime's own options, passed on as they are."""
    cache_dir: Path | None = None
    """Where the runtime may keep what it compiles for this machine; None keeps nothing."""
    notes: tuple[str, ...] = ()
    """What happened before and belongs on the receipt."""

    def __post_init__(self) -> None:
        if self.num_threads is not None and self.num_threads < 1:
            raise ConfigError(f"num_threads is {self.num_threads}; allowed is 1 or more")


class Backend(Protocol):
    """An open model.  `run` may be called from several threads at once.

    One that can also parse photos without leaving the GPU has an attribute `pipeline`, a
    `hp_sdk.gpu.pipeline.DevicePipeline`.
    """

    name: str
    """Runtime, such as "onnxruntime"."""
    provider: str
    """Device as the runtime reports it after opening."""
    input_hw: tuple[int, int]
    facts: Facts

    def run(self, batch: Batch, *, outputs: Sequence[str] | None = None) -> Outputs:
        """Outputs by name for (N, h, w, 3) uint8 RGB, any N; all outputs if None are named."""
        ...

    def close(self) -> None:
        """Free the model; a later `run` raises BackendError.  Closing twice is fine."""
        ...


class FileBackend(Backend, Protocol):
    """A backend made of one file, which says which outputs the file has."""

    outputs: tuple[str, ...]


class GraphBackend:
    """What backends of one file share: batches of any size, errors of ours, an end.

    A subclass sets what `FileBackend` names and `_graph` in its constructor, and says in `_run` how
    a batch of a size that the graph takes is run.
    """

    name: str
    provider: str
    input_hw: tuple[int, int]
    facts: Facts
    outputs: tuple[str, ...]
    title: ClassVar[str]
    """Of the runtime, in errors."""
    no_memory: ClassVar[tuple[str, ...]]
    """How its errors say that memory ran out, in any case of letters."""
    _graph: Any
    """What the runtime made of the file; None once it is closed."""

    def run(self, batch: Batch, *, outputs: Sequence[str] | None = None) -> Outputs:
        """Outputs by name for (N, h, w, 3) uint8 RGB, any N; all outputs if None are named.

        Raises:
            InputError: the batch has another type or shape.
            DeviceOutOfMemory: the batch does not fit; a smaller `batch_size` may.
            BackendError: the backend is closed, or the runtime failed.
        """
        check_batch(batch, self.input_hw)
        graph, names = self._graph, outputs or self.outputs
        if graph is None:
            raise BackendError("the backend is closed; load the model again")
        try:
            return run_in_chunks(lambda chunk: self._run(graph, chunk, names), batch, self.facts)
        except HpError:
            raise
        except Exception as exc:
            raise self._run_error(exc, len(batch)) from exc

    def close(self) -> None:
        """Free the graph; runs in other threads finish first."""
        self._graph = None

    def _run(self, graph: Any, chunk: Batch, names: Sequence[str]) -> Outputs:
        raise NotImplementedError

    def _reason(self, exc: Exception) -> str:
        """The telling line of one of the runtime's errors."""
        return first_line(exc)

    def _run_error(self, exc: Exception, batch: int) -> BackendError:
        said, reason = f"{type(exc).__name__}: {exc}".lower(), self._reason(exc)
        if any(sign.lower() in said for sign in self.no_memory):
            return DeviceOutOfMemory(
                f"not enough memory for {batch} inputs at once; take a smaller batch_size "
                f"({reason})"
            )
        return BackendError(f"{self.title} failed on {batch} inputs: {reason}")


class Port(NamedTuple):
    """One input of a graph as its runtime tells it."""

    text: str
    """For errors."""
    is_uint8: bool
    shape: Sequence[Any]
    """Anything but a whole number is a side that is not fixed."""


def network_input(path: Path, ports: Sequence[Port]) -> tuple[tuple[int, int], int | None]:
    """(h, w) of a graph that takes photos, and its batch size if that is fixed.

    Raises:
        SchemaMismatch: it takes something else.
    """
    if len(ports) == 1 and len(ports[0].shape) == 4 and ports[0].is_uint8:
        batch, height, width, channels = ports[0].shape
        if isinstance(height, int) and isinstance(width, int) and channels == 3:
            return (height, width), batch if isinstance(batch, int) else None
    raise SchemaMismatch(
        f"{str(path)!r} takes {', '.join(port.text for port in ports) or 'nothing'}; expected is "
        "one uint8 input (N, h, w, 3); export it with hp-export"
    )


B = TypeVar("B", bound=FileBackend)


def open_verified(
    open_file: Callable[[Path, BackendOptions, Facts], B],
    bundle: Bundle,
    artifact: Artifact,
    options: BackendOptions,
) -> B:
    """Open one file of a bundle after comparing it with the manifest, and compare what it takes.

    Raises:
        CorruptArtifact: the file is missing.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: inputs or outputs are not those of the manifest.
    """
    path = verify_artifact(bundle, artifact)
    facts = Facts(
        artifact=f"{artifact.file} sha256:{artifact.sha256[:12]}",
        precision=artifact.precision_found,
        batch_min=artifact.batch_min,
        batch_opt=artifact.batch_opt,
        batch_max=artifact.batch_max,
    )
    backend = open_file(path, options, facts)
    promised = [bundle.heads[head].output for head in artifact.heads]
    missing = [name for name in promised if name not in backend.outputs]
    if missing or backend.input_hw != artifact.size_hw:
        backend.close()
        raise SchemaMismatch(
            f"{str(path)!r} takes {backend.input_hw} and gives {', '.join(backend.outputs)}; its "
            f"manifest says {artifact.size_hw} and {', '.join(missing) or 'the same'}; export again"
        )
    return backend


def facts_of_file(path: Path, facts: Facts | None, batch: int | None) -> Facts:
    """What is known of a file: from its bundle, else its name; a fixed batch overrules both."""
    facts = facts or Facts(artifact=path.name, batch_opt=8, batch_max=64)
    if batch is None:
        return facts
    return replace(facts, batch_min=batch, batch_opt=batch, batch_max=batch)


def device_kind(device: str, allowed: Sequence[str]) -> str:
    """Kind of a device, such as "cuda" of "cuda:1".

    Raises:
        ConfigError: no device, or of a kind that is not allowed.
    """
    kind = re.split("[:.]", device)[0]
    if kind not in allowed or not re.fullmatch(DEVICES[kind][0], device):
        examples = ", ".join(DEVICES[kind][1] for kind in DEVICES if kind in allowed)
        raise ConfigError(f"no device {device!r}; allowed are auto, {examples}")
    return kind


@contextmanager
def importing(module: str, title: str, install: str) -> Generator[None]:
    """Translate what an `import` of the runtime inside the block raises.

    Raises:
        Absent: it is not installed.
        BackendUnavailable: it is, but broken.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise BackendUnavailable(f"{title} lacks the module {exc.name!r}; {install}") from exc
        raise Absent(f"{title} is not installed; {install}") from exc
    except Exception as exc:  # whatever a broken shared library makes of it
        raise BackendUnavailable(
            f"{title} is installed but cannot be imported ({first_line(exc)}); {install}"
        ) from exc


def first_line(exc: BaseException) -> str:
    """The first line of a foreign message, or the type where there is none."""
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__


def check_batch(batch: Batch, input_hw: tuple[int, int]) -> None:
    """Refuse what the graph would refuse with a riddle.

    Raises:
        InputError: wrong type, rank or size.
    """
    wanted = (*input_hw, 3)
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != wanted or not len(batch):
        raise InputError(
            f"batch is {batch.dtype} {batch.shape}; the network takes uint8 (N, {wanted[0]}, "
            f"{wanted[1]}, 3) with N of at least 1"
        )


def run_in_chunks(
    run: Callable[[Batch], Mapping[str, NDArray[Any]]], batch: Batch, facts: Facts
) -> Outputs:
    """Run a batch of any size on a graph that takes batch_min to batch_max at a time.

    A chunk that is too small is filled up with copies of its last input.
    """
    chunks = [_run_filled(run, chunk, facts.batch_min) for chunk in _chunks(batch, facts.batch_max)]
    if len(chunks) == 1:
        return dict(chunks[0])
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _chunks(batch: Batch, size: int) -> Iterator[Batch]:
    return (batch[first : first + size] for first in range(0, len(batch), size))


def _run_filled(
    run: Callable[[Batch], Mapping[str, NDArray[Any]]], chunk: Batch, size: int
) -> Mapping[str, NDArray[Any]]:
    missing = size - len(chunk)
    if missing <= 0:
        return run(chunk)
    filled = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)])
    return {name: values[: len(chunk)] for name, values in run(filled).items()}
