"""Stream and buffers of one batch on its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from hp_sdk.gpu.device import Bytes, Gpu, Memory
from hp_sdk.gpu.driver import CudaEvent
from hp_sdk.gpu.engine import Engine
from hp_sdk.gpu.pixels import DevicePhoto, Table, table_bytes
from hp_sdk.gpu.replay import Replays
from hp_sdk.image import Pixels
from hp_sdk.preprocess import Geometry

Photo: TypeAlias = Pixels | DevicePhoto
_ROOM = 1 << 16  # growing buffers are multiples of this


@dataclass(frozen=True, slots=True)
class FittedPhoto:
    """One network input of a photo."""

    photo: DevicePhoto
    geometry: Geometry
    mirrored: bool


class Buffer:
    """Device memory, with pinned memory beside it if wanted, that grows as it must."""

    def __init__(self, gpu: Gpu, *, pinned: bool) -> None:
        self._gpu, self._is_pinned = gpu, pinned
        self.memory: Memory | None = None
        self.host: Bytes = np.empty(0, np.uint8)

    def reserve(self, size_bytes: int) -> int:
        """Device address of at least that many bytes."""
        if self.memory is None or self.memory.size_bytes < size_bytes:
            size = -(-size_bytes // _ROOM) * _ROOM
            self.memory = None  # freed before more is asked for
            self.memory = self._gpu.allocator.allocate(size)
            if self._is_pinned:
                self.host = self._gpu.allocator.allocate_pinned(size)
        return self.memory.pointer

    def release(self) -> None:
        """Give the memory back, after the device had none left."""
        self.memory, self.host = None, np.empty(0, np.uint8)


class Slot:
    """Stream and buffers of one batch."""

    def __init__(self, gpu: Gpu, engine: Engine, classes: int, *, graphs: bool) -> None:
        self.gpu, self.stream = gpu, gpu.open_stream()
        room = table_bytes(engine.batch_max, len(engine.outputs), classes)
        self.tables = (Table(gpu, room), Table(gpu, room))
        self.photos, self.labels = Buffer(gpu, pinned=True), Buffer(gpu, pinned=True)
        self.input, self.scratch = Buffer(gpu, pinned=False), Buffer(gpu, pinned=False)
        self.scores = {name: Buffer(gpu, pinned=False) for name in engine.outputs}
        self.replays = Replays(engine, graphs=graphs)

    def clear(self) -> None:
        """Ready for the next batch; the stream must be done."""
        for table in self.tables:
            table.clear()

    def release(self) -> None:
        """Give all growing buffers back; graphs know their addresses and go too."""
        self.replays.clear()
        ours = (self.photos, self.labels, self.input, self.scratch, *self.scores.values())
        for buffer in ours:
            buffer.release()


def upload(slot: Slot, photos: Sequence[Photo]) -> tuple[list[DevicePhoto], CudaEvent]:
    """Photos of the host go to the device in one copy; those that are there stay where they are.

    The event lies before that copy and after all that the host did for it.
    """
    sizes = [photo.nbytes for photo in photos if isinstance(photo, np.ndarray)]
    start, base = 0, slot.photos.reserve(sum(sizes)) if sizes else 0
    found: list[DevicePhoto] = []
    for photo in photos:
        if isinstance(photo, DevicePhoto):
            slot.stream.follow(photo.stream)
            found.append(photo)
            continue
        flat = slot.photos.host[start : start + photo.nbytes]
        flat[:] = np.ascontiguousarray(photo).reshape(-1)
        height, width = photo.shape[:2]
        found.append(DevicePhoto(base + start, (height, width), (3 * width, 3, 1)))
        start += photo.nbytes
    begun = slot.stream.record()
    if start:
        slot.stream.upload(base, slot.photos.host[:start])
    return found, begun
