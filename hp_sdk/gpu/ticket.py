"""A batch on its way: what was asked, and the answers once the device has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias

from hp_sdk.gpu.device import Memory
from hp_sdk.gpu.driver import CudaEvent
from hp_sdk.gpu.pixels import DevicePhoto
from hp_sdk.gpu.slot import Slot
from hp_sdk.image import Pixels
from hp_sdk.tta import TTA

STAGES = ("upload", "fit", "network", "label", "download")
"""What lies between the events of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What to answer about each photo of a batch."""

    heads: tuple[str, ...]
    tta: TTA
    confidence: bool = False
    to_host: bool = True
    """Copy labels and confidence down."""
    keep_on_device: bool = False
    """Leave the labels on the device too; `Answer.labels_device` holds them."""


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
class Place:
    """Where the answer to one photo and head lies in a slot's label buffer."""

    head: str
    size_hw: tuple[int, int]
    labels: int
    confidence: int

    @property
    def pixels(self) -> int:
        """Bytes of the labels."""
        return self.size_hw[0] * self.size_hw[1]


def places_of(photos: Sequence[DevicePhoto], ask: Ask) -> list[list[Place]]:
    """Photo after photo, head after head, labels before confidence."""
    start, found = 0, []
    for photo in photos:
        pixels, row = photo.size_hw[0] * photo.size_hw[1], []
        for head in ask.heads:
            row.append(Place(head, photo.size_hw, start, start + pixels))
            start += pixels * (2 if ask.confidence else 1)
        found.append(row)
    return found


def size_of(places: Sequence[Sequence[Place]], ask: Ask) -> int:
    """Bytes of all answers."""
    return sum(place.pixels for row in places for place in row) * (2 if ask.confidence else 1)


class Ticket:
    """A batch on its way.

    Whoever needs its slot may `finish` it; the answers then wait here for the one who asked.
    """

    def __init__(
        self,
        slot: Slot,
        places: Sequence[Sequence[Place]],
        events: Sequence[CudaEvent],
        ask: Ask,
        *,
        photos: Sequence[DevicePhoto],
        landed: Callable[[Ticket, Slot, Exception | None], None],
    ) -> None:
        self.device_ms: dict[str, float] = {}
        """Device time of each of `STAGES`, once answered."""
        self._places, self._ask = places, ask
        self._events: Sequence[CudaEvent] = events
        # The device reads them until the batch is done.
        self._photos: Sequence[DevicePhoto] = photos
        self._landed = landed
        self._lock = Lock()
        self._slot: Slot | None = slot
        self._answers: Answers = []
        self._problem: Exception | None = None

    @property
    def photos(self) -> int:
        """How many share the batch."""
        return len(self._places)

    def answers(self) -> Answers:
        """Wait for the batch; any thread may, and as often as it likes.

        Raises:
            BackendError: the device failed.
        """
        self.finish()
        if self._problem is not None:
            raise self._problem
        return self._answers

    def finish(self) -> None:
        """Wait for the batch, keep its answers or its error, and free its slot."""
        with self._lock:
            slot, self._slot = self._slot, None
            if slot is None:
                return
            with slot.gpu.context.entered():
                try:
                    self._answers = self._collected(slot)
                except Exception as exc:  # noqa: BLE001 - raised where the answers are asked for
                    self._problem = exc
                finally:
                    self._photos = self._events = ()
                    self._landed(self, slot, self._problem)

    def _collected(self, slot: Slot) -> Answers:
        self._events[-1].synchronize()
        pairs = zip(STAGES, self._events, self._events[1:], strict=False)
        self.device_ms = {name: after.elapsed_ms(before) for name, before, after in pairs}
        found = [{place.head: self._answer(slot, place) for place in row} for row in self._places]
        if self._ask.keep_on_device:
            slot.labels.release()  # the answers own the memory from now on
        return found

    def _answer(self, slot: Slot, place: Place) -> Answer:
        def copied(start: int) -> Pixels | None:
            if not self._ask.to_host:
                return None
            pixels = slot.labels.host[start : start + place.pixels]
            return pixels.reshape(place.size_hw).copy()

        kept = None
        if self._ask.keep_on_device:
            assert slot.labels.memory is not None
            kept = DeviceLabels(slot.labels.memory, place.labels, place.size_hw)
        confidence = copied(place.confidence) if self._ask.confidence else None
        return Answer(copied(place.labels), confidence, kept)
