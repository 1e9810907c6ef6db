"""From photos to results in five steps: load, fit, run, merge, label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.backends.base import Backend
from hp_sdk.bundle import Bundle, HeadSpec
from hp_sdk.errors import InputError, SchemaMismatch
from hp_sdk.image import Color, Pixels, load_image
from hp_sdk.postprocess import merged_labels, merged_labels_and_confidence
from hp_sdk.result import Receipt, Result
from hp_sdk.tta import TTA, FittedView, are_logits, fit_views, merge_views


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to answer about each photo."""

    heads: tuple[str, ...]
    tta: TTA
    color: Color | None = None
    confidence: bool = False
    logits: bool = False


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A photo as the caller gave it, and how to call it when it is unusable."""

    source: Any
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Photo:
    """One photo on its way; `timing` in milliseconds per step."""

    image: Pixels
    views: list[FittedView]
    timing: dict[str, float]


@dataclass(slots=True)
class _Watch:
    """Milliseconds since the last look."""

    start: float = field(default_factory=perf_counter)

    def lap_ms(self) -> float:
        """Milliseconds since the last call, or since the beginning."""
        last, self.start = self.start, perf_counter()
        return 1e3 * (self.start - last)


def parse_photos(
    sources: Sequence[NamedSource], bundle: Bundle, backend: Backend, request: Request
) -> Iterator[dict[str, Result]]:
    """Parse a few photos in one run of the network; one result per photo and head.

    Raises:
        InputError: a source is not a usable photo.
        SchemaMismatch: the network's output does not fit the bundle's domain.
        BackendError: the runtime failed.
    """
    photos = [_load_and_fit(source, bundle, request) for source in sources]
    outputs = _run(photos, bundle, backend, request)
    receipts = {name: _receipt(name, bundle, backend, request.tta) for name in request.heads}
    for place, photo in enumerate(photos):
        views = slice(place * request.tta.num_views, (place + 1) * request.tta.num_views)
        yield {
            name: _label(photo, outputs[name][views], bundle.heads[name], request, receipts[name])
            for name in request.heads
        }


def _load_and_fit(source: NamedSource, bundle: Bundle, request: Request) -> _Photo:
    watch = _Watch()
    try:
        image = load_image(source.source, color=request.color)
    except InputError as exc:
        raise InputError(f"{source.name}{exc}") from exc
    timing = {"load": watch.lap_ms()}
    views = fit_views(image, bundle.input, request.tta)
    return _Photo(image, views, timing | {"fit": watch.lap_ms()})


def _run(
    photos: Sequence[_Photo], bundle: Bundle, backend: Backend, request: Request
) -> dict[str, NDArray[Any]]:
    """Logits (photos x views, K, h, w) per head; the time is shared among the photos."""
    watch = _Watch()
    inputs = [view.pixels for photo in photos for view in photo.views]
    batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
    heads = {name: bundle.heads[name] for name in request.heads}
    outputs = backend.run(batch, outputs=[head.output for head in heads.values()])
    elapsed_ms = watch.lap_ms()
    for photo in photos:
        photo.timing["network"] = elapsed_ms / len(photos)
    return {name: _checked_logits(outputs, head) for name, head in heads.items()}


def _label(
    photo: _Photo,
    logits: NDArray[Any],
    head: HeadSpec,
    request: Request,
    receipt: Receipt,
) -> Result:
    """Label one photo from the logits (V, K, h, w) of its views."""
    watch = _Watch()
    views = merge_views(photo.views, logits, head.domain, request.tta)
    confidence = None
    if request.confidence:
        labels, confidence = merged_labels_and_confidence(views, are_logits=are_logits(request.tta))
    else:
        labels = merged_labels(views)
    timing = photo.timing | {"labels": watch.lap_ms()}
    return Result(
        labels=labels,
        domain=head.domain,
        confidence=confidence,
        logits=logits[0] if request.logits else None,
        image=photo.image,
        receipt=receipt,
        timing=timing | {"total": sum(timing.values())},
    )


def _receipt(head: str, bundle: Bundle, backend: Backend, tta: TTA) -> Receipt:
    return Receipt(
        model=f"{bundle.name} {bundle.version}",
        head=head,
        backend=f"{backend.name} {backend.facts.version}".strip(),
        provider=backend.provider,
        artifact=backend.facts.artifact,
        precision=backend.facts.precision,
        network_hw=backend.input_hw,
        tta=str(tta),
        notes=backend.facts.notes,
    )


def _checked_logits(outputs: Mapping[str, NDArray[Any]], head: HeadSpec) -> NDArray[Any]:
    logits = outputs.get(head.output)
    if logits is None or logits.ndim != 4 or logits.shape[1] != head.domain.num_classes:
        given = "nothing" if logits is None else f"shape {logits.shape}"
        raise SchemaMismatch(
            f"the network gives {given} as {head.output!r}, but domain {head.domain.name!r} has "
            f"{head.domain.num_classes} classes; export the bundle again"
        )
    return logits
