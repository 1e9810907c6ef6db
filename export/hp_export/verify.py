"""The artifact must say what the network says: both run on varied pictures, and are compared."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hp_export.agreement import TOLERANCES, Agreement, Logits, Tolerance, compare
from hp_export.graph import output_name
from hp_export.half import rounded_in_float
from hp_export.labels import label_names
from hp_export.observe import FRUGAL, Values, run_model
from hp_export.photos import Photos
from hp_export.probes import probe_images
from hp_export.progress import Progress, silent
from hp_sdk.backends import BACKENDS, Backend, BackendOptions
from hp_sdk.backends.base import Absent
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import BackendUnavailable, VerificationFailed
from hp_sdk.image import Pixels

__all__ = ["RUNTIME", "TOLERANCES", "Agreement", "Pictures", "Reference", "compare", "verify"]

_log = logging.getLogger(__name__)

RUNTIME = "onnxruntime"
"""Backend that must answer for ONNX files."""
OTHER_RUNTIMES = ("openvino",)
"""Backends that answer too where they are installed."""
ROUNDED = "onnxruntime, rounding to float16"
"""The float16 arithmetic of a GPU, which ONNX Runtime's CPU does not do by itself."""
_LARGEST_BATCH_PIXELS = 8 * 224 * 224
"""A larger batch shows nothing more, and takes gigabytes and minutes."""
_SOME = 8
"""Photographs for the precisions that are not judged on photographs alone."""


class Reference:
    """The bare network in torch: pixels (N, h, w, 3) uint8 → {head: logits (N, Z, h/4, w/4)}.

    It normalises by itself, so that a wrong normalisation inside the graph shows.
    """

    def __init__(
        self,
        network: nn.Module,
        heads: Sequence[str],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.heads = tuple(heads)
        self._network = network.eval()
        self._mean, self._std = (np.asarray(v, np.float32) for v in (mean, std))
        self._last: tuple[Pixels, dict[str, Logits]] | None = None

    def __call__(self, pixels: Pixels) -> dict[str, Logits]:
        """Logits of every head; asked for the same pixels again, it remembers them."""
        if self._last is None or not np.array_equal(self._last[0], pixels):
            self._last = pixels, self._run(pixels)
        return self._last[1]

    def _run(self, pixels: Pixels) -> dict[str, Logits]:
        x = (pixels.astype(np.float32) - self._mean) / self._std
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            logits = self._network(image, self.heads)
        return {head: logits[head].float().numpy() for head in self.heads}


@dataclass(frozen=True, slots=True)
class Pictures:
    """What artifacts of one input size are judged on, and what the network says to it."""

    images: Pixels
    expected: Mapping[str, Logits]

    @staticmethod
    def of(images: Pixels, reference: Reference) -> Pictures:
        """Ask the network once, one picture at a time."""
        answers = [reference(image[np.newaxis]) for image in images]
        return Pictures(
            images, {h: np.concatenate([a[h] for a in answers]) for h in reference.heads}
        )

    def take(self, count: int) -> Pictures:
        """The first `count` pictures, the same ones again if there are fewer."""
        index = np.arange(count) % len(self.images)
        return Pictures(self.images[index], {h: v[index] for h, v in self.expected.items()})


@dataclass(frozen=True, slots=True)
class Jury:
    """How a bundle is judged."""

    reference: Reference
    photos: Mapping[tuple[int, int], Photos] = field(default_factory=dict)
    """Input size → photographs, where some were given."""
    suspect: Callable[[Artifact], str] = lambda _artifact: ""
    """Names the layer that went wrong in a failed artifact."""
    progress: Progress = silent

    def pictures(self, artifact: Artifact) -> Pictures:
        """Probe pictures and some photographs; for int8 the photographs it has not seen."""
        photos = self.photos.get(artifact.size_hw)
        if photos is not None and artifact.precision_asked == "int8":
            return Pictures.of(photos.held_out, self.reference)
        images = np.stack(list(probe_images(artifact.size_hw).values()))
        if photos is not None:
            images = np.concatenate([images, photos.held_out[:_SOME]])
        return Pictures.of(images, self.reference)


def verify(bundle: Bundle, jury: Jury | Reference) -> list[dict[str, Any]]:
    """Compare every ONNX artifact with the network; entries for the manifest's `verify`.

    Raises:
        VerificationFailed: a head is out of tolerance at batch 1, 2 or the largest.  What another
            runtime than ONNX Runtime makes of int8 is warned of and recorded, with verdict "fail".
        CorruptArtifact: an artifact cannot be opened.
    """
    jury = Jury(jury) if isinstance(jury, Reference) else jury
    entries: list[dict[str, Any]] = []
    doubts: dict[tuple[str, str], str] = {}
    known: dict[tuple[tuple[int, int], bool], Pictures] = {}
    for artifact in (a for a in bundle.artifacts if a.runtime == "onnx"):
        key = (artifact.size_hw, artifact.precision_asked == "int8")
        jury.progress(f"asking the network at {artifact.size_hw[0]}x{artifact.size_hw[1]}")
        if key not in known:
            known[key] = jury.pictures(artifact)
        for runtime, agreement in _agreements(bundle, artifact, known[key], jury.progress):
            tolerance = TOLERANCES[artifact.precision_asked]
            faults = agreement.faults(tolerance)
            if faults and artifact.precision_asked == "int8" and runtime in OTHER_RUNTIMES:
                # Made for one runtime: others rewrite the pairs of int8 in their own way.
                doubts.setdefault((artifact.file, runtime), f"head {agreement.head}: {faults[-1]}")
            elif faults:
                raise VerificationFailed(_explain(artifact, runtime, agreement, faults, jury))
            entries.append(_entry(agreement, tolerance, artifact.file, runtime))
    for (file, runtime), doubt in doubts.items():
        advice = f"open it with backend {RUNTIME}, or take another precision there"
        _log.warning("%s answers otherwise on %s (%s); %s", file, runtime, doubt, advice)
    return entries


def compare_artifact(
    bundle: Bundle, artifact: Artifact, pictures: Pictures
) -> list[dict[str, Any]]:
    """Entries like those of `verify`, for pictures of one's own, whatever the verdict."""
    tolerance = TOLERANCES[artifact.precision_asked]
    found = _agreements(bundle, artifact, pictures, silent, batches=(1,))
    return [_entry(agreement, tolerance, artifact.file, runtime) for runtime, agreement in found]


def check_labels(logits: Logits, labels: Pixels, confidence: Pixels, *, head: str) -> None:
    """Compare the labels in the graph with those that torch makes of the same logits.

    Raises:
        VerificationFailed: they differ by more than rounding.
    """
    large = functional.interpolate(
        torch.from_numpy(logits.astype(np.float32)),
        size=labels.shape[1:],
        mode="bilinear",
        align_corners=False,
    )
    best, where = large.softmax(1).max(1)
    same = float((where.numpy() == labels).mean())
    off = np.abs(best.numpy() * 255 - confidence)[where.numpy() == labels].max(initial=0.0)
    if same < TOLERANCES["fp32"].label_agreement or off > 1:
        raise VerificationFailed(
            f"{', '.join(label_names(head))} are not those of the logits: labels agree on "
            f"{same:.2%}, confidence is off by {off:.1f} of 255; no bundle was written"
        )


def _agreements(
    bundle: Bundle,
    artifact: Artifact,
    pictures: Pictures,
    progress: Progress,
    batches: Sequence[int] = (),
) -> Iterator[tuple[str, Agreement]]:
    for runtime in (RUNTIME, *OTHER_RUNTIMES):
        try:
            opened = _open(runtime, bundle, artifact)
        except BackendUnavailable as exc:
            if runtime == RUNTIME:
                raise
            level = logging.INFO if isinstance(exc, Absent) else logging.WARNING
            _log.log(level, "%s was not asked: %s", runtime, exc)
            continue
        with closing(opened) as backend:
            for batch in batches or _batches(artifact):
                progress(f"{artifact.file}: {runtime}, batch {batch}")
                chosen = pictures.take(_count(artifact, batch, len(pictures.images)))
                found = _run(backend, chosen.images, batch)
                yield from _compare(runtime, chosen.expected, found, batch)
                _check_e2e(artifact, found, pictures.expected)
    if artifact.precision_found == "fp16":
        progress(f"{artifact.file}: {ROUNDED}")
        found = _run_rounded(bundle, artifact, pictures)
        yield from _compare(ROUNDED, pictures.expected, found, 1)


def _open(runtime: str, bundle: Bundle, artifact: Artifact) -> Backend:
    module = import_module(BACKENDS[runtime].module)
    options = FRUGAL if runtime == RUNTIME else BackendOptions(device="cpu")
    return module.open_artifact(bundle, artifact, options)


def _batches(artifact: Artifact) -> list[int]:
    height, width = artifact.size_hw
    largest = min(artifact.batch_max, max(2, _LARGEST_BATCH_PIXELS // (height * width)))
    return sorted({1, min(2, artifact.batch_max), largest})


def _count(artifact: Artifact, batch: int, there: int) -> int:
    """Pictures to ask about: all alone, and one full batch of the first, which are figures.

    int8 is judged by the mean over its photographs, which a few of them do not give.
    """
    if batch == 1 or artifact.precision_asked == "int8":
        return max(there, batch)
    return batch


def _run(backend: Backend, images: Pixels, batch: int) -> dict[str, Values]:
    parts = [backend.run(images[k : k + batch]) for k in range(0, len(images), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _run_rounded(bundle: Bundle, artifact: Artifact, pictures: Pictures) -> dict[str, Values]:
    from hp_export.census import read_onnx

    model = rounded_in_float(read_onnx(bundle.root / artifact.file))
    return run_model(model, pictures.images)


def _compare(
    runtime: str, expected: Mapping[str, Logits], found: Mapping[str, Values], batch: int
) -> Iterator[tuple[str, Agreement]]:
    for head, logits in expected.items():
        yield runtime, compare(logits, found[output_name(head)], head=head, batch=batch)


def _check_e2e(
    artifact: Artifact, found: Mapping[str, Values], heads: Mapping[str, Logits]
) -> None:
    for head in heads:
        labels, confidence = label_names(head)
        if labels in artifact.outputs:
            logits = found[output_name(head)]
            check_labels(logits, found[labels], found[confidence], head=head)


def _entry(agreement: Agreement, tolerance: Tolerance, file: str, runtime: str) -> dict[str, Any]:
    verdict = "pass" if agreement.within(tolerance) else "fail"
    return {"artifact": file, "runtime": runtime, **asdict(agreement), "verdict": verdict}


def _explain(
    artifact: Artifact, runtime: str, agreement: Agreement, faults: Sequence[str], jury: Jury
) -> str:
    jury.progress("looking for the layer that went wrong")
    return (
        f"the {artifact.precision_asked} artifact disagrees with the network on head "
        f"{agreement.head} at batch {agreement.batch} ({runtime}): {'; '.join(faults)}"
        f"{jury.suspect(artifact)}; no bundle was written"
    )
