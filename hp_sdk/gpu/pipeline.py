"""A batch's whole way on the device: photos up, fit, network, labels, labels down.

    host    decode ─ pinned ┐                                       ┌ pinned ─ Result
    device        photos ───┴ fit ─► input ─ engine ─► scores ─ label ┴ labels

A slot holds the stream and the buffers of one batch. With two slots the copies of one batch overlap
the network of the other. `submit` only enqueues; it waits when every slot is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeAlias

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.errors import BackendError, DeviceOutOfMemory
from hp_sdk.gpu.device import Gpu, Memory
from hp_sdk.gpu.driver import CudaEvent
from hp_sdk.gpu.engine import Engine
from hp_sdk.gpu.pixels import (
    DevicePhoto,
    DeviceView,
    LabelJob,
    fit_photos,
    label_photos,
    softmax_scores,
)
from hp_sdk.gpu.slot import FittedPhoto, Photo, Slot, upload
from hp_sdk.image import Pixels
from hp_sdk.preprocess import plan
from hp_sdk.tta import TTA, are_logits

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to answer about each photo of a batch."""

    heads: tuple[str, ...]
    tta: TTA
    confidence: bool = False
    keep_on_device: bool = False
    """Leave the labels on the device; `Answer.labels_device` holds them."""


@dataclass(frozen=True, slots=True)
class DeviceLabels:
    """Labels (H, W) uint8 in device memory, readable by torch, cupy and numba without a copy."""

    memory: Memory
    offset: int
    size_hw: tuple[int, int]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        pointer = self.memory.pointer + self.offset
        return {"shape": self.size_hw, "typestr": "|u1", "data": (pointer, False), "version": 3}


@dataclass(frozen=True, slots=True)
class Answer:
    """One photo and one head."""

    labels: Pixels | None
    confidence: Pixels | None
    labels_device: DeviceLabels | None


Answers: TypeAlias = list[dict[str, Answer]]
"""One dict from head to answer per photo."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the answer to one photo and head lies in a slot's label buffer."""

    head: str
    size_hw: tuple[int, int]
    labels: int
    confidence: int

    @property
    def pixels(self) -> int:
        return self.size_hw[0] * self.size_hw[1]


class Ticket:
    """A batch on its way."""

    def __init__(
        self,
        pipeline: DevicePipeline,
        slot: Slot,
        places: Sequence[Sequence[_Place]],
        events: Sequence[CudaEvent],
        ask: Ask,
    ) -> None:
        self._pipeline, self._slot, self._places = pipeline, slot, places
        self._events, self._ask = events, ask
        self.device_ms: dict[str, float] = {}
        """Device time of "upload", "fit", "network", "label" and "download", once answered."""

    def answers(self) -> Answers:
        """Wait for the batch and free its slot; call it once.

        Raises:
            BackendError: the device failed.
        """
        try:
            self._pipeline.gpu.enter()
            self._events[-1].synchronize()
            pairs = zip(STAGES, self._events, self._events[1:], strict=False)
            self.device_ms = {name: after.elapsed_ms(before) for name, before, after in pairs}
            found = [{place.head: self._answer(place) for place in photo} for photo in self._places]
            if self._ask.keep_on_device:
                self._slot.labels.release()  # the answers own the memory from now on
            return found
        finally:
            self._pipeline.free(self._slot)

    def _answer(self, place: _Place) -> Answer:
        labels = self._slot.labels
        if self._ask.keep_on_device:
            assert labels.memory is not None
            on_device = DeviceLabels(labels.memory, place.labels, place.size_hw)
            return Answer(None, None, on_device)

        def copied(start: int) -> Pixels:
            return labels.host[start : start + place.pixels].reshape(place.size_hw).copy()

        confidence = copied(place.confidence) if self._ask.confidence else None
        return Answer(copied(place.labels), confidence, None)


STAGES = ("upload", "fit", "network", "label", "download")
"""What lies between the events of a batch."""


class DevicePipeline:
    """Parses batches on one GPU; any thread may submit.

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
        self._graphs = graphs and engine.can_capture
        self._lock, self._failed = Lock(), ""
        self._free: SimpleQueue[Slot] = SimpleQueue()
        classes = max(head.domain.num_classes for head in heads.values())
        for _ in range(slots):
            self._free.put(Slot(gpu, engine, classes))

    def submit(self, photos: Sequence[Photo], ask: Ask) -> Ticket:
        """Enqueue a batch; at most `limit` network inputs with all views.

        Raises:
            DeviceOutOfMemory: the batch does not fit; the pipeline can be used on.
            BackendError: the device failed, now or earlier.
        """
        self._check()
        slot = self._free.get()
        try:
            self.gpu.enter()
            return self._enqueue(slot, photos, ask)
        except BaseException as exc:
            self._give_up(slot, exc)
            raise

    def parse(self, photos: Sequence[Photo], ask: Ask) -> Answers:
        """Answers to any number of photos, in order; batches shrink where memory runs out.

        Raises:
            DeviceOutOfMemory: not even one photo fits.
            BackendError: the device failed.
        """
        found: Answers = []
        first = 0
        while first < len(photos):
            size = max(1, self.limit // ask.tta.num_views)
            chunk = photos[first : first + size]
            try:
                found += self.submit(chunk, ask).answers()
            except DeviceOutOfMemory:
                if len(chunk) == 1:
                    raise
                self._shrink(len(chunk) * ask.tta.num_views)
                continue
            first += len(chunk)
        return found

    def free(self, slot: Slot) -> None:
        """Take a slot back; its stream must be done."""
        slot.clear()
        self._free.put(slot)

    def close(self) -> None:
        """Free engine and buffers; batches on their way are finished first."""
        self._failed = "the parser is closed"
        self.gpu.enter()
        while not self._free.empty():
            slot = self._free.get()
            slot.stream.synchronize()
            slot.release()
        self.engine.close()
        self.gpu.close()

    def _enqueue(self, slot: Slot, photos: Sequence[Photo], ask: Ask) -> Ticket:
        events = [slot.stream.record()]
        uploaded = upload(slot, photos)
        events.append(slot.stream.record())
        views = _views(uploaded, self.spec, ask.tta)
        image = self._fit(slot, views)
        events.append(slot.stream.record())
        scores = self._run(slot, len(views), image)
        events.append(slot.stream.record())
        places = self._label(slot, uploaded, views, scores, ask)
        events.append(slot.stream.record())
        if not ask.keep_on_device:
            used = _size_of(places, confidence=ask.confidence)
            slot.stream.download(slot.labels.host[:used], slot.labels.reserve(used))
        events.append(slot.stream.record())
        return Ticket(self, slot, places, events, ask)

    def _fit(self, slot: Slot, views: Sequence[FittedPhoto]) -> int:
        height, width = self.spec.size_hw
        # the whole range at once: graphs remember the address
        image = slot.input.reserve(self.engine.batch_max * height * width * 3)
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
        """The network on `count` inputs, filled up to the engine's smallest batch."""
        engine = self.engine
        count = max(count, engine.batch_min)
        scores = {
            name: slot.scores[name].reserve(engine.batch_max * tensor.size_bytes)
            for name, tensor in engine.outputs.items()
        }

        def work() -> None:
            engine.enqueue(count, image, scores, slot.stream)

        if not self._graphs:
            work()
            return scores
        key = (count, image, *scores.values())
        if key not in slot.graphs:
            work()  # the first run may allocate, which a recording must not
            slot.stream.synchronize()
            slot.graphs[key] = slot.stream.capture(work)
        slot.graphs[key].launch(slot.stream)
        return scores

    def _label(
        self,
        slot: Slot,
        photos: Sequence[DevicePhoto],
        views: Sequence[FittedPhoto],
        scores: Mapping[str, int],
        ask: Ask,
    ) -> list[list[_Place]]:
        places = _places(photos, ask)
        base = slot.labels.reserve(_size_of(places, confidence=ask.confidence))
        per_photo = ask.tta.num_views
        for number, head in enumerate(ask.heads):
            output = self.heads[head].output
            tensor, pointer = self.engine.outputs[output], scores[output]
            if not are_logits(ask.tta):
                shape = (len(views), *tensor.shape)
                softmax_scores(self.gpu, pointer, shape, tensor.dtype, slot.stream)
            jobs = [
                LabelJob(
                    [
                        DeviceView(
                            pointer + (i * per_photo + v) * tensor.size_bytes,
                            tensor.shape,
                            views[i * per_photo + v].geometry,
                            views[i * per_photo + v].mirrored,
                        )
                        for v in range(per_photo)
                    ],
                    labels=base + row[number].labels,
                    confidence=base + row[number].confidence if ask.confidence else 0,
                    flip_perm=self.heads[head].domain.flip_perm,
                )
                for i, row in enumerate(places)
            ]
            label_photos(
                self.gpu,
                jobs,
                dtype=tensor.dtype,
                are_logits=are_logits(ask.tta),
                table=slot.tables[1],
                stream=slot.stream,
            )
        return places

    def _shrink(self, tried: int) -> None:
        with self._lock:
            self.limit = min(self.limit, max(1, tried // 2))
        _log.warning("out of device memory: %d inputs at once since then", self.limit)

    def _give_up(self, slot: Slot, exc: BaseException) -> None:
        if isinstance(exc, BackendError) and not isinstance(exc, DeviceOutOfMemory):
            self._failed = str(exc)  # a lost device stays lost
        else:
            slot.stream.synchronize()
            if isinstance(exc, DeviceOutOfMemory):
                slot.release()
        self.free(slot)

    def _check(self) -> None:
        if self._failed:
            raise BackendError(f"{self._failed}; load the model again")


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


def _places(photos: Sequence[DevicePhoto], ask: Ask) -> list[list[_Place]]:
    start, found = 0, []
    for photo in photos:
        pixels, row = photo.size_hw[0] * photo.size_hw[1], []
        for head in ask.heads:
            row.append(_Place(head, photo.size_hw, start, start + pixels))
            start += pixels * (2 if ask.confidence else 1)
        found.append(row)
    return found


def _size_of(places: Sequence[Sequence[_Place]], *, confidence: bool) -> int:
    return sum(p.pixels * (2 if confidence else 1) for row in places for p in row)
