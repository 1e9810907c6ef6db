"""The artifact must say what the network says: both run on varied pictures, and are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hp_export.graph import output_name
from hp_export.probes import probe_images
from hp_sdk.backends import Backend, open_backend
from hp_sdk.bundle import Bundle
from hp_sdk.errors import VerificationFailed
from hp_sdk.image import Pixels

Logits = NDArray[np.float32]

RUNTIME = "onnxruntime"
"""Backend that answers for ONNX files."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an artifact may be from the network."""

    max_abs: float
    """Largest difference of a logit, as a part of the largest logit (at least of 1)."""
    label_agreement: float
    """Smallest part of pixels with the same label."""


TOLERANCES = {"fp32": Tolerance(1e-3, 0.999), "fp16-weights": Tolerance(2e-2, 0.99)}
"""Precision → what is accepted."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two networks compare on one head over all pictures at one batch size."""

    head: str
    batch: int
    images: int
    max_abs: float
    largest_logit: float
    label_agreement: float
    miou: float
    """Mean over the classes present in either label map."""
    margin: float
    """Largest lead, in the network's logits, of its own label where the labels differ."""
    nans: int
    """Values of the artifact that are not finite."""

    def within(self, tolerance: Tolerance) -> bool:
        """The verdict."""
        return (
            self.nans == 0
            and self.max_abs <= tolerance.max_abs * max(1.0, self.largest_logit)
            and self.label_agreement >= tolerance.label_agreement
        )


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

    def __call__(self, pixels: Pixels) -> dict[str, Logits]:
        """Logits of every head."""
        x = (pixels.astype(np.float32) - self._mean) / self._std
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
            logits = self._network(image, self.heads)
        return {head: logits[head].float().numpy() for head in self.heads}


def compare(expected: Logits, found: Logits, *, head: str, batch: int) -> Agreement:
    """Compare logits (N, Z, h, w) of the network and of an artifact.

    Raises:
        VerificationFailed: the shapes differ.
    """
    if expected.shape != found.shape:
        raise VerificationFailed(
            f"{head}: the artifact answers {found.shape}, the network {expected.shape}"
        )
    finite = np.isfinite(found)
    found = np.where(finite, found, 0).astype(np.float32)
    a, b = expected.argmax(1), found.argmax(1)
    other = np.take_along_axis(expected, b[:, None], axis=1)[:, 0]
    return Agreement(
        head=head,
        batch=batch,
        images=len(expected),
        max_abs=float(np.abs(expected - found).max()),
        largest_logit=float(np.abs(expected).max()),
        label_agreement=float((a == b).mean()),
        miou=_mean_iou(a, b, expected.shape[1]),
        margin=float((expected.max(1) - other)[a != b].max(initial=0.0)),
        nans=int((~finite).sum()),
    )


def verify(bundle: Bundle, reference: Reference) -> list[dict[str, Any]]:
    """Compare the bundle's artifact with the network; entries for the manifest's `verify`.

    Raises:
        VerificationFailed: a head is out of tolerance at batch 1 or 3.
    """
    artifact = bundle.artifacts[0]
    tolerance = TOLERANCES[artifact.precision_asked]
    images = probe_images(artifact.size_hw)
    with closing(open_backend(bundle, backend=RUNTIME, device="cpu")) as backend:
        agreements = [
            agreement
            for batch in sorted({1, min(3, artifact.batch_max)})
            for agreement in _agreements(_batches(images, batch), reference, backend)
        ]
        entries = [_entry(a, tolerance, artifact.file, backend.name) for a in agreements]
    failed = [a for a in agreements if not a.within(tolerance)]
    if failed:
        raise VerificationFailed(_explain(failed[0], tolerance, artifact.precision_asked))
    return entries


def _batches(images: Mapping[str, Pixels], batch: int) -> list[Pixels]:
    """Each picture alone, or the first `batch` of them together."""
    stack = np.stack(list(images.values()))
    return [stack[k : k + 1] for k in range(len(stack))] if batch == 1 else [stack[:batch]]


def _agreements(
    batches: Sequence[Pixels], reference: Reference, backend: Backend
) -> Iterator[Agreement]:
    expected = [reference(pixels) for pixels in batches]
    found = [backend.run(pixels) for pixels in batches]
    for head in reference.heads:
        yield compare(
            np.concatenate([logits[head] for logits in expected]),
            np.concatenate([logits[output_name(head)] for logits in found]),
            head=head,
            batch=len(batches[0]),
        )


def _entry(agreement: Agreement, tolerance: Tolerance, file: str, runtime: str) -> dict[str, Any]:
    verdict = "pass" if agreement.within(tolerance) else "fail"
    return {"artifact": file, "runtime": runtime, **asdict(agreement), "verdict": verdict}


def _explain(agreement: Agreement, tolerance: Tolerance, precision: str) -> str:
    return (
        f"the {precision} artifact disagrees with the network on head {agreement.head} at batch "
        f"{agreement.batch}: largest difference {agreement.max_abs:.3g} (largest logit "
        f"{agreement.largest_logit:.3g}, allowed {tolerance.max_abs:g} of it), labels agree on "
        f"{agreement.label_agreement:.2%} (required {tolerance.label_agreement:.2%}), "
        f"{agreement.nans} values not finite; no bundle was written"
    )


def _mean_iou(a: NDArray[np.intp], b: NDArray[np.intp], classes: int) -> float:
    pairs = np.bincount((a * classes + b).ravel(), minlength=classes**2).reshape(classes, classes)
    both, either = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    present = either > 0
    return float((both[present] / either[present]).mean())
