"""A network that runs on the host in place of an engine, and the CPU path to compare with."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.ticket import Answers
from hp_sdk.postprocess import merged_labels_and_confidence
from hp_sdk.tta import TTA, are_logits, fit_views, merge_views

SPEC = InputSpec(size_hw=(64, 96), pad_value=9)
HEADS = {name: HeadSpec(load_domain(name), f"logits.{name}") for name in ("pascal", "cihp")}
PLAIN = TTA()
SIZES = [(64, 96), (200, 150), (31, 47), (400, 300), (1, 1), (96, 64), (120, 500)]


def scores_of(batch: np.ndarray, classes: int) -> np.ndarray:
    """A small network: local means, mixed with fixed weights, bent (N, K, h/4, w/4)."""
    n, h, w, _ = batch.shape
    cells = batch.reshape(n, h // 4, 4, w // 4, 4, 3).astype(np.float32).mean((2, 4)) / 64
    weights = np.random.default_rng(classes).normal(0, 2, (4, classes)).astype(np.float32)
    bent = np.concatenate([cells, np.sin(3 * cells.sum(-1, keepdims=True))], -1)
    return np.ascontiguousarray((bent @ weights).transpose(0, 3, 1, 2), np.float32)


def memory_at(pointer: int, shape: Sequence[int], dtype: type) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_uint8 * count).from_address(pointer)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


class HostEngine:
    """The network above in place of an engine."""

    def __init__(self, *, batch_min: int = 1, batch_max: int = 4, half: bool = False) -> None:
        self.input_hw, self.batch_min, self.batch_max = SPEC.size_hw, batch_min, batch_max
        self.dtype = np.float16 if half else np.float32
        self.outputs = {
            head.output: Tensor((head.domain.num_classes, 16, 24), np.dtype(self.dtype))
            for head in HEADS.values()
        }
        self.scratch_bytes = 0
        self.counts: list[int] = []
        self.contexts = 0
        self.closed = False

    def open_context(self, scratch: int) -> HostEngine:
        self.contexts += 1
        return self

    def can_capture(self, stream: CudaStream) -> bool:
        return False

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        self.counts.append(count)
        batch = memory_at(image, (count, *SPEC.size_hw, 3), np.uint8)
        for name, pointer in outputs.items():
            tensor = self.outputs[name]
            memory_at(pointer, (count, *tensor.shape), self.dtype)[:] = scores_of(
                batch, tensor.shape[0]
            )

    def close(self) -> None:
        self.closed = True


class CopyingEngine(HostEngine):
    """All its work goes through the stream, so that it can be recorded."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.calls = 0
        self.refuses = False
        self.sources = {}
        for name, tensor in self.outputs.items():
            scores = scores_of(photo(64, 96)[None], tensor.shape[0]).repeat(4, 0)
            self.sources[name] = gpu.allocator.allocate(scores.nbytes), scores.nbytes
            gpu.open_stream().upload(self.sources[name][0].pointer, scores)

    def can_capture(self, stream: CudaStream) -> bool:
        return True

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        self.calls += 1
        if self.refuses and self.calls > 1:
            self.refuses = False
            raise BackendError("not while a stream records")
        for name, pointer in outputs.items():
            memory, size = self.sources[name]
            stream.copy(pointer, memory.pointer, size)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3))
    fine = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.ascontiguousarray(np.clip(fine + rng.normal(0, 6, fine.shape), 0, 255), np.uint8)


def on_the_cpu(image: np.ndarray, head: str, tta: TTA) -> tuple[np.ndarray, np.ndarray]:
    domain = HEADS[head].domain
    fitted = fit_views(image, SPEC, tta)
    scores = scores_of(np.concatenate([view.pixels for view in fitted]), domain.num_classes)
    views = merge_views(fitted, scores, domain, tta)
    return merged_labels_and_confidence(views, are_logits=are_logits(tta))


def pipeline_of(gpu: Gpu, engine: HostEngine | None = None, **options: Any) -> DevicePipeline:
    return DevicePipeline(gpu, engine or HostEngine(), SPEC, HEADS, **options)


def assert_same(answers: Answers, images: Sequence[np.ndarray], tta: TTA = PLAIN) -> None:
    for answer, image in zip(answers, images, strict=True):
        for head, found in answer.items():
            labels, confidence = on_the_cpu(image, head, tta)
            assert found.labels is not None
            # one grey level of the input may differ, and with it a label at a border
            assert (found.labels != labels).mean() < 5e-3
            if found.confidence is not None:
                error = np.abs(found.confidence.astype(int) - confidence)
                assert np.percentile(error, 99) <= 6


class OnDevice:
    """An array in "device" memory, as torch or cupy would show it."""

    def __init__(self, gpu: Gpu, values: np.ndarray, strides: tuple[int, ...] | None) -> None:
        flat = values if values.flags.c_contiguous else np.ascontiguousarray(values)
        self.memory = gpu.allocator.allocate(flat.nbytes)
        gpu.open_stream().upload(self.memory.pointer, flat)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": "|u1" if values.dtype == np.uint8 else "<f4",
            "data": (self.memory.pointer, False),
            "strides": strides,
            "version": 3,
        }
