"""The same recipe where everything between the photo and its labels happens on the GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hp_sdk.backends.base import Backend
from hp_sdk.bundle import Bundle
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.pixels import DevicePhoto, device_photo
from hp_sdk.gpu.ticket import Ask, Ticket
from hp_sdk.recipe import Answer, NamedSource, Photo, Recipe, Request, Scored, Watch
from hp_sdk.result import Receipt, Result

_STEPS = {"label": "labels"}
"""Stages of a ticket that are called otherwise in `Result.timing`."""


def recipe_for(bundle: Bundle, backend: Backend, request: Request) -> Recipe:
    """On the GPU where the backend can; logits are asked for on the way through the host.

    Raises:
        ConfigError: labels should stay on a GPU, and there is none in this.
    """
    pipeline: DevicePipeline | None = getattr(backend, "pipeline", None)
    if request.labels_device and (pipeline is None or request.logits):
        raise ConfigError(
            "labels_device needs the whole way on an NVIDIA GPU, without logits; this model runs "
            f"in {backend.name} on {backend.provider}"
        )
    if pipeline is None or request.logits:
        return Recipe(bundle, backend, request)
    return DeviceRecipe(bundle, backend, request, pipeline=pipeline)


@dataclass(frozen=True, slots=True)
class RawPhoto(Photo):
    """A photo that the GPU fits; `image` is empty if it lies there already."""

    on_device: DevicePhoto | None = None


@dataclass(frozen=True, slots=True)
class Launched(Scored):
    """A photo on its way through the GPU, at a place in a batch; it holds no logits."""

    ticket: Ticket = field(kw_only=True)
    place: int = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class DeviceRecipe(Recipe):
    """Photos that the pipeline takes go that way; others, such as those in windows, as always.

    `run` only enqueues, so that the next batch is prepared meanwhile; `label` waits.
    """

    pipeline: DevicePipeline = field(kw_only=True)

    def load_and_fit(self, source: NamedSource) -> Photo:
        """Step one; step two only for photos that the pipeline does not take.

        Raises:
            InputError: it is not a usable photo, or lies on the GPU and has to be on the host.
        """
        watch = Watch()
        there = self._on_device(source)
        image = np.empty((0, 0, 3), np.uint8) if there else self.load(source)
        size_hw = there.size_hw if there else (image.shape[0], image.shape[1])
        if self.smoother is None and self.pipeline.takes(size_hw, self._ask_device()):
            return RawPhoto(image, [], {"load": watch.lap_ms()}, there)
        if there is not None:
            raise InputError(
                f"{source.name}the photo of {size_hw[0]} x {size_hw[1]} px lies on the GPU, but "
                "these options (windows, smoothing, many views) need it on the host; copy it there"
            )
        return self.fit(image, watch)

    def run(self, photos: Sequence[Photo]) -> list[Scored]:
        """Step three for photos of both kinds, in order.

        Raises:
            BackendError: the device failed.
        """
        raw = [photo for photo in photos if isinstance(photo, RawPhoto)]
        launched = iter(list(self._launch(raw)))  # before the host computes
        fitted = [photo for photo in photos if not isinstance(photo, RawPhoto)]
        scored = iter(Recipe.run(self, fitted))
        return [next(launched if isinstance(each, RawPhoto) else scored) for each in photos]

    def label(self, scored: Scored) -> Answer:
        """Wait for the batch of this photo, or steps four and five.

        Raises:
            BackendError: the device failed.
        """
        if not isinstance(scored, Launched):
            return Recipe.label(self, scored)
        answer = {name: self._device_result(name, scored) for name in self.request.heads}
        return answer if self.request.by_head else answer[self.request.heads[0]]

    def _on_device(self, source: NamedSource) -> DevicePhoto | None:
        try:
            return device_photo(source.source, bgr=self.request.color == "bgr")
        except InputError as exc:
            raise InputError(f"{source.name}{exc}") from exc

    def _ask_device(self) -> Ask:
        return Ask(
            heads=tuple(dict.fromkeys(self.request.heads)),
            tta=self.request.tta,
            confidence=self.request.confidence,
            keep_on_device=self.request.labels_device,
        )

    def _launch(self, photos: Sequence[RawPhoto]) -> Iterator[Scored]:
        if not photos:
            return
        inputs = [photo.on_device or photo.image for photo in photos]
        tickets = self.pipeline.start(inputs, self._ask_device())
        receipts = {name: self._device_receipt(name) for name in self.request.heads}
        places = ((ticket, place) for ticket in tickets for place in range(ticket.photos))
        for photo, (ticket, place) in zip(photos, places, strict=True):
            yield Launched(photo, {}, receipts, 0.0, ticket=ticket, place=place)

    def _device_receipt(self, head: str) -> Receipt:
        receipt = self.receipt(head)
        return replace(receipt, notes=(*receipt.notes, *self.pipeline.notes), steps="gpu")

    def _device_result(self, name: str, scored: Launched) -> Result:
        found = scored.ticket.answers()[scored.place][name]
        assert found.labels is not None
        stages = scored.ticket.device_ms.items()
        shared = {_STEPS.get(key, key): ms / scored.ticket.photos for key, ms in stages}
        timing = {**scored.photo.timing, **shared}
        return Result(
            labels=found.labels,
            domain=self.bundle.heads[name].domain,
            confidence=found.confidence,
            image=scored.photo.image if scored.photo.image.size else None,
            receipt=scored.receipts[name],
            timing=timing | {"total": sum(timing.values())},
            labels_device=found.labels_device,
        )
