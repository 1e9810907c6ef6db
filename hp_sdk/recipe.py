"""From photos to results in five steps: load, fit, run, merge, label."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hp_sdk.backends.base import Backend, Facts
from hp_sdk.bundle import Bundle, HeadSpec, InputSpec
from hp_sdk.errors import InputError, SchemaMismatch
from hp_sdk.image import Color, Pixels, load_image
from hp_sdk.native import accelerator
from hp_sdk.postprocess import merged_labels, merged_labels_and_confidence
from hp_sdk.result import Receipt, Result
from hp_sdk.smoothing import Smoother
from hp_sdk.sources import Item
from hp_sdk.tta import TTA, FittedView, are_logits, fit_views, merge_views
from hp_sdk.windows import Corner, Mosaic, corners, window_of

Answer: TypeAlias = Result | dict[str, Result]
"""What one photo gives: the head's result, or one per head where heads were asked for."""

_NOT_IN_PIXELS = ("mean", "std")  # fields of InputSpec that only document the graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to answer about each photo; photos of equal requests may share a run."""

    heads: tuple[str, ...]
    tta: TTA
    color: Color | None = None
    confidence: bool = False
    logits: bool = False
    labels_device: bool = False
    by_head: bool = False
    """Answer with a dict from head to result, also for one head."""


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A photo as the caller gave it, and how to call it when it is unusable."""

    source: Any
    name: str = ""


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo, decoded and fitted; `timing` in milliseconds per step."""

    image: Pixels
    views: list[FittedView]
    timing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Scored:
    """One photo after the network: per head the logits (K, h, w) of each view, and what ran."""

    photo: Photo
    logits: Mapping[str, Sequence[NDArray[Any]]]
    receipts: Mapping[str, Receipt]
    network_ms: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """The steps for one request; several threads may take them at once, each with its photos."""

    bundle: Bundle
    backend: Backend
    request: Request
    smoother: Smoother | None = None
    """Mixes the scores of each photo with those of the one before; `run` then is for one thread."""

    def load_and_fit(self, source: NamedSource) -> Photo:
        """Steps one and two: the photo upright, and its views as the network takes them.

        Raises:
            InputError: it is not a usable photo.
        """
        watch = Watch()
        return self.fit(self.load(source), watch)

    def fit(self, image: Pixels, watch: Watch) -> Photo:
        """Step two; `watch` has run since before step one."""
        timing = {"load": watch.lap_ms()}
        views = fit_views(image, self.bundle.input, self.request.tta)
        return Photo(image, views, timing | {"fit": watch.lap_ms()})

    def load(self, source: NamedSource) -> Pixels:
        """Step one; the error names the photo.

        Raises:
            InputError: it is not a usable photo.
        """
        try:
            return _load(source.source, self.request.color)
        except InputError as exc:
            raise InputError(f"{source.name}{exc}") from exc

    def run(self, photos: Sequence[Photo]) -> list[Scored]:
        """Step three: all photos in one batch, more where they have windows; they share its time.

        Raises:
            SchemaMismatch: the network's output does not fit the bundle's domain.
            BackendError: the runtime failed.
        """
        if not photos:
            return []
        watch = Watch()
        views = [view for photo in photos for view in photo.views]
        logits = self._ask(views)
        receipts = {name: self.receipt(name) for name in logits}
        share_ms, step = watch.lap_ms() / len(photos), self.request.tta.num_views
        scored = [
            Scored(
                photo, {k: v[first : first + step] for k, v in logits.items()}, receipts, share_ms
            )
            for photo, first in zip(photos, range(0, len(views), step), strict=True)
        ]
        return scored if self.smoother is None else [self._smoothed(each) for each in scored]

    def label(self, scored: Scored) -> Answer:
        """Steps four and five: the views of one photo merged and labelled in its own pixels."""
        answer = {name: self._result(name, scored) for name in self.request.heads}
        return answer if self.request.by_head else answer[self.request.heads[0]]

    def parse(self, sources: Sequence[NamedSource]) -> Iterator[Answer]:
        """All steps for a few photos in one run of the network, in order."""
        return map(self.label, self.run([self.load_and_fit(source) for source in sources]))

    def _ask(self, views: Sequence[FittedView]) -> dict[str, list[NDArray[Any]]]:
        """Per head the logits (K, h, w) of every view; all views at once, or as many windows."""
        spec, heads = self.bundle.input, {k: self.bundle.heads[k] for k in self.request.heads}
        mosaics = {
            name: [Mosaic(view.geometry.network_hw, spec) for view in views] for name in heads
        }
        wanted = [head.output for head in heads.values()]
        for chunk in self._chunks(views):
            inputs = [window_of(views[at].pixels, corner, spec) for at, corner in chunk]
            outputs = self.backend.run(_joined(inputs), outputs=wanted)
            for name, head in heads.items():
                answers = zip(chunk, _checked_logits(outputs, head), strict=True)
                for (at, corner), logits in answers:
                    mosaics[name][at].add(corner, logits)
        return {name: [mosaic.mean() for mosaic in each] for name, each in mosaics.items()}

    def _chunks(self, views: Sequence[FittedView]) -> Iterator[Sequence[tuple[int, Corner]]]:
        """Number of a view and place of a window in it, for each input of each run."""
        spec, size = self.bundle.input, max(len(views), self.backend.facts.batch_opt)
        windows = [
            (at, corner)
            for at, view in enumerate(views)
            for corner in corners(view.geometry.network_hw, spec)
        ]
        return (windows[first : first + size] for first in range(0, len(windows), size))

    def _smoothed(self, scored: Scored) -> Scored:
        assert self.smoother is not None
        return replace(scored, logits=self.smoother.smooth(scored.photo.image, scored.logits))

    def _result(self, name: str, scored: Scored) -> Result:
        watch = Watch()
        head, logits = self.bundle.heads[name], scored.logits[name]
        views = merge_views(scored.photo.views, logits, head.domain, self.request.tta)
        confidence = None
        if self.request.confidence:
            labels, confidence = merged_labels_and_confidence(
                views, are_logits=are_logits(self.request.tta)
            )
        else:
            labels = merged_labels(views)
        timing = {**scored.photo.timing, "network": scored.network_ms, "labels": watch.lap_ms()}
        return Result(
            labels=labels,
            domain=head.domain,
            confidence=confidence,
            # A copy, or one result would keep the logits of the whole batch.
            logits=logits[0].copy() if self.request.logits else None,
            image=scored.photo.image,
            receipt=scored.receipts[name],
            timing=timing | {"total": sum(timing.values())},
        )

    def receipt(self, head: str) -> Receipt:
        """What runs, for the result of one head."""
        backend, facts = self.backend, self.backend.facts
        return Receipt(
            model=f"{self.bundle.name} {self.bundle.version}",
            head=head,
            backend=f"{backend.name} {facts.version}".strip(),
            provider=backend.provider,
            artifact=facts.artifact,
            precision=facts.precision,
            network_hw=backend.input_hw,
            tta=str(self.request.tta),
            notes=facts.notes if self.smoother is None else (*facts.notes, str(self.smoother)),
            model_sha256=_model_sha256(self.bundle, facts),
            preprocess_hash=preprocess_hash(self.bundle.input),
            steps=accelerator().name,
        )


def named(sources: Iterable[Any]) -> Iterator[NamedSource]:
    """Each source with its place among the others; an `Item` knows its own name."""
    total = f" of {len(sources)}" if isinstance(sources, Sized) else ""
    for number, source in enumerate(sources, start=1):
        yield NamedSource(source, "" if isinstance(source, Item) else f"photo {number}{total}: ")


def preprocess_hash(spec: InputSpec) -> str:
    """16 hex digits that change with anything that changes the network's input."""
    fields = {key: value for key, value in spec.to_dict().items() if key not in _NOT_IN_PIXELS}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Watch:
    """Milliseconds since the last look."""

    start: float = field(default_factory=perf_counter)

    def lap_ms(self) -> float:
        """Milliseconds since the last call, or since the beginning."""
        last, self.start = self.start, perf_counter()
        return 1e3 * (self.start - last)


def _load(source: Any, color: Color | None) -> Pixels:
    return source.load() if isinstance(source, Item) else load_image(source, color=color)


def _joined(inputs: Sequence[Pixels]) -> Pixels:
    return inputs[0] if len(inputs) == 1 else np.concatenate(inputs)


def _model_sha256(bundle: Bundle, facts: Facts) -> str:
    """Of the artifact that the backend says it opened; empty if it names none of the bundle."""
    file, _, digest = facts.artifact.rpartition(" sha256:")
    matches = (a.sha256 for a in bundle.artifacts if a.file == file and a.sha256.startswith(digest))
    return next(matches, "")


def _checked_logits(outputs: Mapping[str, NDArray[Any]], head: HeadSpec) -> NDArray[Any]:
    logits = outputs.get(head.output)
    if logits is None or logits.ndim != 4 or logits.shape[1] != head.domain.num_classes:
        given = "nothing" if logits is None else f"shape {logits.shape}"
        raise SchemaMismatch(
            f"the network gives {given} as {head.output!r}, but domain {head.domain.name!r} has "
            f"{head.domain.num_classes} classes; export the bundle again"
        )
    return logits
