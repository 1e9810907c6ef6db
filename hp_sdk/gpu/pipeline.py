"""A batch's whole way on the device: photos up, fit, network, labels, labels down.

    host    decode ─ pinned ┐                                       ┌ pinned ─ Result
    device        photos ───┴ fit ─► input ─ engine ─► scores ─ label ┴ labels

A slot holds the stream and the buffers of one batch. With two slots the copies of one batch overlap
the network of the other. `submit` only enqueues; where every slot is taken, it first finishes the
oldest batch, whose answers then wait in its ticket.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.errors import BackendError, DeviceOutOfMemory
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.engine import Engine
from hp_sdk.gpu.layouts import MAX_VIEWS
from hp_sdk.gpu.pixels import (
    DevicePhoto,
    DeviceView,
    LabelJob,
    fit_photos,
    label_photos,
    softmax_scores,
)
from hp_sdk.gpu.replay import bucket_of
from hp_sdk.gpu.slot import FittedPhoto, Photo, Slot, upload
from hp_sdk.gpu.ticket import Answers, Ask, Place, Ticket, places_of, size_of
from hp_sdk.image import Pixels
from hp_sdk.preprocess import plan
from hp_sdk.tta import TTA, are_logits

_log = logging.getLogger(__name__)
_WARM_UPS = 3  # as it is, recorded, replayed


class DevicePipeline:
    """Parses batches on one GPU; any thread may call any method.

    Args:
        gpu: the open GPU.
        engine: the network.
        spec: size and padding of its input.
        heads: what its outputs mean.
        slots: batches on the device at once.
        graphs: replay the network from a CUDA graph per batch size, where the engine allows it.
    """

    def __init__(
        self,
        gpu: Gpu,
        engine: Engine,
        spec: InputSpec,
        heads: Mapping[str, HeadSpec],
        *,
        slots: int = 2,
        graphs: bool = True,
    ) -> None:
        self.gpu, self.engine, self.spec, self.heads = gpu, engine, spec, heads
        self.limit = engine.batch_max
        """Network inputs at once; smaller after the device ran out of memory."""
        classes = max(head.domain.num_classes for head in heads.values())
        self._changed = Condition()  # guards everything below
        self._free = deque(Slot(gpu, engine, classes, graphs=graphs) for _ in range(slots))
        self._flying: deque[Ticket] = deque()
        self._slots, self._failed = slots, ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What belongs on a receipt."""
        if self.limit == self.engine.batch_max:
            return ()
        return (f"out of device memory: {self.limit} inputs at once since then",)

    def takes(self, size_hw: tuple[int, int], ask: Ask) -> bool:
        """Whether photos of that size can be answered here; windows and a few others cannot."""
        if ask.tta.num_views > min(MAX_VIEWS, self.engine.batch_max):
            return False
        if not set(ask.heads) <= set(self.heads):
            return False
        if not are_logits(ask.tta) and any(self._dtype(k) != np.float32 for k in ask.heads):
            return False
        scales = ask.tta.scales
        plans = (plan(size_hw, self.spec, content_scale=scale) for scale in scales)
        return all(each.network_hw == self.spec.size_hw for each in plans)

    def submit(self, photos: Sequence[Photo], ask: Ask) -> Ticket:
        """Enqueue a batch; at most `limit` network inputs with all views.

        Raises:
            DeviceOutOfMemory: the batch does not fit; the pipeline can be used on.
            BackendError: the device failed, now or earlier.
        """
        with self._slot() as slot:
            ticket = self._enqueue(slot, photos, ask)
        with self._changed:
            self._flying.append(ticket)
            self._changed.notify_all()
        return ticket

    def start(self, photos: Sequence[Photo], ask: Ask) -> list[Ticket]:
        """Enqueue any number of photos, in order; batches shrink where memory runs out.

        Raises:
            DeviceOutOfMemory: not even one photo fits.
            BackendError: the device failed.
        """
        tickets: list[Ticket] = []
        first = 0
        while first < len(photos):
            chunk = photos[first : first + max(1, self.limit // ask.tta.num_views)]
            try:
                tickets.append(self.submit(chunk, ask))
            except DeviceOutOfMemory:
                if len(chunk) > 1:
                    self._shrink(len(chunk) * ask.tta.num_views)
                elif not self._narrow():
                    raise
                continue
            first += len(chunk)
        return tickets

    def parse(self, photos: Sequence[Photo], ask: Ask) -> Answers:
        """Answers to any number of photos, in order.

        Raises:
            DeviceOutOfMemory: not even one photo fits.
            BackendError: the device failed.
        """
        return [each for ticket in self.start(photos, ask) for each in ticket.answers()]

    def scores(self, batch: Pixels, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Outputs by name for network inputs (N, h, w, 3), copied to the host; N to `batch_max`.

        Raises:
            DeviceOutOfMemory: the batch does not fit.
            BackendError: the device failed.
        """
        with self._slot() as slot:
            image = self._input(slot)
            slot.stream.upload(image, np.ascontiguousarray(batch))
            pointers = self._run(slot, len(batch), image)
            found: dict[str, NDArray[Any]] = {}
            for name in names:
                tensor = self.engine.outputs[name]
                found[name] = np.empty((len(batch), *tensor.shape), tensor.dtype)
                slot.stream.download(found[name], pointers[name])
            slot.stream.synchronize()
        self._put_back(slot)
        return found

    def network_ms(self, count: int, runs: int) -> float:
        """Device time of one run of the network alone, out of `runs` in a row after a warm-up.

        Raises:
            BackendError: the device failed.
        """
        with self._slot() as slot:
            image = self._input(slot)
            for _ in range(_WARM_UPS):
                self._run(slot, count, image)
            start = slot.stream.record()
            for _ in range(runs):
                self._run(slot, count, image)
            end = slot.stream.record()
            end.synchronize()
            found = end.elapsed_ms(start) / runs
        self._put_back(slot)
        return found

    def close(self) -> None:
        """Free engine and buffers; batches on their way are finished first."""
        with self._changed:
            if not self._slots:
                return
            self._failed = "the parser is closed"
            self._changed.notify_all()
            flying = list(self._flying)
        for ticket in flying:
            ticket.finish()
        with self._changed:
            self._changed.wait_for(lambda: len(self._free) == self._slots)
            self._slots = 0
        with self.gpu.context.entered():
            for slot in self._free:
                slot.release()
            self._free.clear()
            self.engine.close()
            self.gpu.close()

    @contextmanager
    def _slot(self) -> Generator[Slot]:
        """A slot to fill; it goes back by itself only if that fails."""
        slot = self._take()
        with self.gpu.context.entered():
            try:
                yield slot
            except BaseException as exc:
                self._give_up(slot, exc)
                raise

    def _take(self) -> Slot:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._failed or self._free or self._flying)
                if self._failed:
                    raise BackendError(f"{self._failed}; load the model again")
                if self._free:
                    return self._free.popleft()
                oldest = self._flying[0]
            oldest.finish()

    def _put_back(self, slot: Slot) -> None:
        slot.clear()
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def _landed(self, ticket: Ticket, slot: Slot, problem: Exception | None) -> None:
        with self._changed:
            self._flying.remove(ticket)
            if isinstance(problem, BackendError):
                self._failed = self._failed or str(problem)
        self._put_back(slot)

    def _give_up(self, slot: Slot, exc: BaseException) -> None:
        if isinstance(exc, BackendError) and not isinstance(exc, DeviceOutOfMemory):
            self._failed = self._failed or str(exc)  # a lost device stays lost
        else:
            slot.stream.synchronize()
            if isinstance(exc, DeviceOutOfMemory):
                slot.release()
        self._put_back(slot)

    def _enqueue(self, slot: Slot, photos: Sequence[Photo], ask: Ask) -> Ticket:
        uploaded, begun = upload(slot, photos)
        events = [begun, slot.stream.record()]
        views = _views(uploaded, self.spec, ask.tta)
        image = self._fit(slot, views)
        events.append(slot.stream.record())
        scores = self._run(slot, len(views), image)
        events.append(slot.stream.record())
        places = self._label(slot, uploaded, views, scores, ask)
        events.append(slot.stream.record())
        if ask.to_host:
            used = size_of(places, ask)
            slot.stream.download(slot.labels.host[:used], slot.labels.reserve(used))
        events.append(slot.stream.record())
        return Ticket(slot, places, events, ask, photos=uploaded, landed=self._landed)

    def _input(self, slot: Slot) -> int:
        height, width = self.spec.size_hw
        # the whole range at once: graphs remember the address
        return slot.input.reserve(self.engine.batch_max * height * width * 3)

    def _fit(self, slot: Slot, views: Sequence[FittedPhoto]) -> int:
        image = self._input(slot)
        fit_photos(
            self.gpu,
            [view.photo for view in views],
            [view.geometry for view in views],
            pad_value=self.spec.pad_value,
            target=image,
            table=slot.tables[0],
            stream=slot.stream,
        )
        return image

    def _run(self, slot: Slot, count: int, image: int) -> dict[str, int]:
        """The network on `count` inputs; what fills up the batch is whatever was there."""
        engine = self.engine
        scores = {
            name: slot.scores[name].reserve(engine.batch_max * tensor.size_bytes)
            for name, tensor in engine.outputs.items()
        }
        scratch = slot.scratch.reserve(engine.scratch_bytes) if engine.scratch_bytes else 0
        slot.replays.run(bucket_of(count, engine), image, scores, scratch, slot.stream)
        return scores

    def _label(
        self,
        slot: Slot,
        photos: Sequence[DevicePhoto],
        views: Sequence[FittedPhoto],
        scores: Mapping[str, int],
        ask: Ask,
    ) -> list[list[Place]]:
        places = places_of(photos, ask)
        base = slot.labels.reserve(size_of(places, ask))
        for number, head in enumerate(ask.heads):
            pointer, dtype = scores[self.heads[head].output], self._dtype(head)
            flip_perm = self.heads[head].domain.flip_perm  # once: the table holds it once per array
            if not are_logits(ask.tta):
                shape = (len(views), *self._grid(head))
                softmax_scores(self.gpu, pointer, shape, dtype, slot.stream)
            jobs = [
                LabelJob(
                    seen,
                    labels=base + row[number].labels,
                    confidence=base + row[number].confidence if ask.confidence else 0,
                    flip_perm=flip_perm,
                )
                for row, seen in zip(places, self._seen(head, pointer, views, ask), strict=True)
            ]
            label_photos(
                self.gpu,
                jobs,
                dtype=dtype,
                are_logits=are_logits(ask.tta),
                table=slot.tables[1],
                stream=slot.stream,
            )
        return places

    def _seen(
        self, head: str, pointer: int, views: Sequence[FittedPhoto], ask: Ask
    ) -> list[list[DeviceView]]:
        """The scores of each photo's views."""
        step = self.engine.outputs[self.heads[head].output].size_bytes
        found = [
            DeviceView(pointer + i * step, self._grid(head), view.geometry, view.mirrored)
            for i, view in enumerate(views)
        ]
        size = ask.tta.num_views
        return [found[first : first + size] for first in range(0, len(found), size)]

    def _dtype(self, head: str) -> np.dtype[Any]:
        return self.engine.outputs[self.heads[head].output].dtype

    def _grid(self, head: str) -> tuple[int, int, int]:
        classes, rows, columns = self.engine.outputs[self.heads[head].output].shape
        return classes, rows, columns

    def _narrow(self) -> bool:
        """Keep one slot, which then has all the memory; False if no other could be given up."""
        with self._changed:
            flying = list(self._flying)
        for ticket in flying:
            ticket.finish()
        with self._changed, self.gpu.context.entered():
            surplus = [self._free.pop() for _ in range(len(self._free) - 1)]
            self._slots -= len(surplus)
            for slot in (*surplus, *self._free):
                slot.release()
        if surplus:
            _log.warning("out of device memory: %d batches at once since then", self._slots)
        return bool(surplus)

    def _shrink(self, tried: int) -> None:
        with self._changed:
            self.limit = min(self.limit, max(1, tried // 2))
        _log.warning("out of device memory: %d inputs at once since then", self.limit)


def _views(photos: Sequence[DevicePhoto], spec: InputSpec, tta: TTA) -> list[FittedPhoto]:
    """In the order of `hp_sdk.tta.fit_views`: per photo, per scale, plain then mirrored."""
    return [
        FittedPhoto(
            photo.mirrored() if mirrored else photo,
            plan(photo.size_hw, spec, content_scale=scale),
            mirrored,
        )
        for photo in photos
        for scale in tta.scales
        for mirrored in ((False, True) if tta.flip else (False,))
    ]
