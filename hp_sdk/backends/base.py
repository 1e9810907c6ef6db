"""What every runtime looks like from above: pixels in, logits out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import InputError

Batch: TypeAlias = NDArray[np.uint8]
"""Network inputs (N, h, w, 3) uint8 RGB."""
Outputs: TypeAlias = dict[str, NDArray[Any]]
"""Output tensors by name; `logits.<head>` is (N, K, h/stride, w/stride)."""


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
class BackendOptions:
    """How to open an artifact; see `Parser.load`."""

    device: str | None = None
    """"auto" or None, "cpu", "cuda" or "cuda:0"."""
    num_threads: int | None = None
    allow_fallback: bool = False
    providers: Sequence[Any] | None = None
    """The runtime's own list of devices; replaces `device`."""
    session_options: Any = None
    """The runtime's own options object, passed on as it is."""


class Backend(Protocol):
    """An open model.  `run` may be called from several threads at once."""

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
