"""The fused kernels as two functions: photos into the network's input, scores into labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import ConfigError, InputError
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.dlpack import handed_over
from hp_sdk.gpu.driver import LEGACY_STREAM, CudaStream
from hp_sdk.gpu.layouts import FIT_TASK, LABEL_TASK, MAX_VIEWS, VIEW
from hp_sdk.preprocess import Geometry

_BLOCK = (32, 8, 1)
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class DevicePhoto:
    """A photo (H, W, 3) uint8 in device memory, in any order of strides."""

    pointer: int
    size_hw: tuple[int, int]
    strides: tuple[int, int, int]
    """Bytes from one row, column and channel to the next; channel 0 is red."""
    owner: Any = None
    """Keeps the memory alive."""
    stream: int = LEGACY_STREAM
    """Handle of the stream that writes it."""

    def mirrored(self) -> DevicePhoto:
        """The same pixels from right to left, without a copy."""
        row, column, channel = self.strides
        last = self.pointer + (self.size_hw[1] - 1) * column
        return DevicePhoto(last, self.size_hw, (row, -column, channel), self.owner, self.stream)


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What the network said about one view of a photo: scores (K, h, w) in device memory."""

    pointer: int
    shape: tuple[int, int, int]
    geometry: Geometry
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class LabelJob:
    """One photo and one head: the views to merge, and where the answer goes (0: nowhere)."""

    views: Sequence[DeviceView]
    labels: int
    confidence: int = 0
    margin: int = 0
    flip_perm: NDArray[np.integer[Any]] | None = None
    """Class k of the answer is class flip_perm[k] of a mirrored view."""


class Table:
    """Descriptors of one batch: written on the host, sent in one copy."""

    def __init__(self, gpu: Gpu, size_bytes: int) -> None:
        self._pinned = gpu.allocator.allocate_pinned(size_bytes)
        self._memory = gpu.allocator.allocate(size_bytes)
        self._sent = self._used = 0

    def put(self, values: NDArray[Any]) -> int:
        """Where a copy of `values` will lie on the device."""
        values = np.ascontiguousarray(values)
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        self._used = start + values.nbytes
        assert self._used <= len(self._pinned)  # sized by `table_bytes`
        self._pinned[start : self._used] = values.view(np.uint8).reshape(-1)
        return self._memory.pointer + start

    def send(self, stream: CudaStream) -> None:
        """Enqueue the copy of what is new; it must stay as it is until the stream is done."""
        stream.upload(self._memory.pointer + self._sent, self._pinned[self._sent : self._used])
        self._sent = self._used

    def clear(self) -> None:
        """Begin anew; only once the stream is done."""
        self._sent = self._used = 0


def table_bytes(inputs: int, heads: int, classes: int) -> int:
    """Room for the descriptors of a batch of that many network inputs."""
    per_input = FIT_TASK.itemsize + heads * (LABEL_TASK.itemsize + VIEW.itemsize)
    return inputs * per_input + heads * (4 * classes + _ALIGNMENT) + 8 * heads * _ALIGNMENT


def fit_photos(  # noqa: PLR0913 - what one launch needs, by name
    gpu: Gpu,
    photos: Sequence[DevicePhoto],
    geometries: Sequence[Geometry],
    *,
    pad_value: int,
    target: int,
    table: Table,
    stream: CudaStream,
) -> None:
    """Enqueue one launch that fits all photos into the batch (N, h, w, 3) uint8 at `target`."""
    tasks = np.zeros(len(photos), FIT_TASK)
    for task, photo, geometry in zip(tasks, photos, geometries, strict=True):
        task["photo"] = (photo.pointer, *photo.strides, *photo.size_hw)
        task["place"] = (*geometry.content_hw, pad_value)
    at = table.put(tasks)
    table.send(stream)
    height, width = geometries[0].network_hw
    arguments = [np.uint64(at), np.uint64(target), np.int32(height), np.int32(width)]
    _launch(gpu, "hp_fit", (height, width), len(photos), arguments, stream)


def label_photos(
    gpu: Gpu,
    jobs: Sequence[LabelJob],
    *,
    dtype: np.dtype[Any],
    are_logits: bool,
    table: Table,
    stream: CudaStream,
) -> None:
    """Enqueue one launch that writes labels (H, W) uint8 of all jobs, and what else they want.

    Raises:
        ConfigError: more views of one photo than the kernel takes.
    """
    rows, views = np.zeros(len(jobs), LABEL_TASK), []
    orders: dict[int, int] = {}
    for row, job in zip(rows, jobs, strict=True):
        if len(job.views) > MAX_VIEWS:
            raise ConfigError(f"{len(job.views)} views of one photo; the GPU merges {MAX_VIEWS}")
        first = job.views[0]
        row["labels"], row["confidence"], row["margin"] = job.labels, job.confidence, job.margin
        row["height"], row["width"] = first.geometry.source_hw
        row["first_view"], row["num_views"] = len(views), len(job.views)
        row["num_classes"], row["are_logits"] = first.shape[0], are_logits
        views += [_view(view, job, table, orders) for view in job.views]
    at, views_at = table.put(rows), table.put(np.array(views, VIEW))
    table.send(stream)
    kind = "merge" if any(len(job.views) > 1 for job in jobs) else "label"
    name = f"hp_{kind}_{'half' if dtype == np.float16 else 'float'}"
    sizes = np.stack([rows["height"], rows["width"]]).max(axis=1)
    largest = (int(sizes[0]), int(sizes[1]))
    _launch(gpu, name, largest, len(jobs), [np.uint64(at), np.uint64(views_at)], stream)


def softmax_scores(
    gpu: Gpu,
    pointer: int,
    shape: tuple[int, int, int, int],
    dtype: np.dtype[Any],
    stream: CudaStream,
) -> None:
    """Enqueue: float32 logits (N, K, h, w) become probabilities, in place.

    Raises:
        ConfigError: they are no float32.
    """
    if dtype != np.float32:
        raise ConfigError(f"probabilities need float32 scores, not {dtype}; average logits")
    images, classes, cells = shape[0], shape[1], shape[2] * shape[3]
    grid = (-(-images * cells // 256), 1, 1)
    arguments = [np.uint64(pointer), np.int32(images), np.int32(classes), np.int32(cells)]
    gpu.kernels.launch("hp_softmax", grid, (256, 1, 1), arguments, stream.handle)


def device_photo(source: Any, *, bgr: bool = False) -> DevicePhoto | None:
    """A photo that lies on a GPU already, as it lies there; None for anything else.

    Takes what has `__cuda_array_interface__` (torch, cupy, numba) or hands itself over by DLPack:
    uint8 (H, W, 3) or (3, H, W).  What the stream that the interface names still has to do is
    waited for, on the device; the default stream if it names none.

    Raises:
        InputError: it is on the GPU, but no such photo.
    """
    found = handed_over(source)
    if found is None:
        return None
    shape = found.shape
    if found.typestr != "|u1" or len(shape) != 3 or 3 not in (shape[0], shape[2]) or 0 in shape:
        raise InputError(
            f"a GPU array is {found.typestr} {shape}; a photo is uint8 (H, W, 3) or (3, H, W)"
        )
    order = (0, 1, 2) if shape[2] == 3 else (1, 2, 0)
    height, width = shape[order[0]], shape[order[1]]
    row, column, channel = (found.strides[i] for i in order)
    pointer = found.pointer
    if bgr:
        pointer, channel = pointer + 2 * channel, -channel
    strides = (row, column, channel)
    return DevicePhoto(pointer, (height, width), strides, found.owner, found.stream)


def _view(
    view: DeviceView, job: LabelJob, table: Table, orders: dict[int, int]
) -> tuple[int | bool, ...]:
    order = 0
    if view.mirrored and job.flip_perm is not None:
        key = id(job.flip_perm)
        orders[key] = orders.get(key) or table.put(np.asarray(job.flip_perm, np.int32))
        order = orders[key]
    _, height, width = view.shape
    geometry = view.geometry
    stride = geometry.network_hw[0] // height
    cells = (height * width, height, width, stride)
    return (view.pointer, order, *cells, *geometry.content_hw, view.mirrored)


def _launch(
    gpu: Gpu,
    name: str,
    size_hw: tuple[int, int],
    images: int,
    arguments: Sequence[Any],
    stream: CudaStream,
) -> None:
    grid = (-(-size_hw[1] // _BLOCK[0]), -(-size_hw[0] // _BLOCK[1]), images)
    gpu.kernels.launch(name, grid, _BLOCK, arguments, stream.handle)
