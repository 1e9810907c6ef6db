"""A network on the GPU whose photos and labels need not leave it, whichever runtime computes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from hp_sdk.backends.base import (
    Backend,
    BackendOptions,
    Batch,
    Facts,
    GraphBackend,
    Outputs,
    device_kind,
)
from hp_sdk.bundle import Artifact, Bundle, HeadSpec
from hp_sdk.errors import BackendUnavailable, SchemaMismatch
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.engine import Engine
from hp_sdk.gpu.pipeline import DevicePipeline

B = TypeVar("B", bound=Backend)


class DeviceBackend(GraphBackend):
    """An engine on one GPU.

    `pipeline` parses photos without leaving the device; `run` is for logits, which it copies to
    the host.
    """

    no_memory: ClassVar[tuple[str, ...]] = ("out of memory",)

    def __init__(self, name: str, pipeline: DevicePipeline, facts: Facts) -> None:
        context = pipeline.gpu.context
        self.name, self.facts, self.pipeline = name, facts, pipeline
        self.provider = f"cuda:{context.index} {context.name}"
        self.input_hw = pipeline.engine.input_hw
        self.outputs = tuple(pipeline.engine.outputs)
        self._graph = pipeline

    def close(self) -> None:
        """Free the engine and all device memory; batches on their way are finished first."""
        self._graph = None
        self.pipeline.close()

    def _run(self, graph: Any, chunk: Batch, names: Sequence[str]) -> Outputs:
        return graph.scores(chunk, names)


def gpu_index(device: str) -> int:
    """Which of the visible GPUs "cuda" or "cuda:1" is.

    Raises:
        ConfigError: it names no GPU.
    """
    device_kind(device, ("cuda",))
    return int(device.partition(":")[2] or 0)


def open_on_gpu(
    options: BackendOptions,
    *,
    with_pipeline: Callable[[Gpu], B],
    network_alone: Callable[[BackendOptions], B],
) -> B:
    """The whole way on the GPU; where our kernels do not run, the network alone, with a note.

    Raises:
        BackendError: what either of the two raises.
    """
    try:
        gpu = Gpu(gpu_index(options.device or "cuda"))
    except BackendUnavailable as exc:
        note = f"photos are fitted and labelled on the CPU: {exc}"
        return network_alone(replace(options, notes=(*options.notes, note)))
    try:
        return with_pipeline(gpu)
    except BaseException:
        gpu.close()
        raise


def open_pipeline(gpu: Gpu, engine: Engine, bundle: Bundle, artifact: Artifact) -> DevicePipeline:
    """The engine in a pipeline for the bundle's photos and heads.

    Raises:
        SchemaMismatch: it takes or gives something else than the manifest says.
    """
    if not engine.input_hw == artifact.size_hw == bundle.input.size_hw:
        raise SchemaMismatch(
            f"{artifact.file!r} takes {engine.input_hw}, its manifest says {artifact.size_hw} and "
            f"the bundle {bundle.input.size_hw}; export again"
        )
    heads = {name: bundle.heads[name] for name in artifact.heads}
    for name, head in heads.items():
        _check_scores(engine, artifact, name, head)
    return DevicePipeline(gpu, engine, bundle.input, heads)


def _check_scores(engine: Engine, artifact: Artifact, name: str, head: HeadSpec) -> None:
    tensor = engine.outputs.get(head.output)
    if (
        tensor is None
        or tensor.dtype not in (np.float32, np.float16)
        or len(tensor.shape) != 3
        or tensor.shape[0] != head.domain.num_classes
    ):
        given = "nothing" if tensor is None else f"{tensor.dtype} {tensor.shape}"
        raise SchemaMismatch(
            f"{artifact.file!r} gives {given} as {head.output!r}, but head {name!r} has "
            f"{head.domain.num_classes} classes, in float32 or float16; export again"
        )
