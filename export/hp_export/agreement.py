"""How far an artifact is from the network, and how far it may be."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.errors import VerificationFailed

Logits = NDArray[np.float32]

COMMON = 1e-3
"""Part of all pixels from which a class counts as common."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an artifact may be from the network."""

    max_abs: float
    """Largest difference of a logit, as a part of the largest logit (at least of 1)."""
    label_agreement: float
    """Smallest part of pixels with the same label."""
    boundary_agreement: float
    """The same of the pixels at which two labels meet."""
    miou: float
    """Smallest mean IoU of the two label maps."""


TOLERANCES = {
    "fp32": Tolerance(1e-3, 0.999, 0.99, 0.99),
    "fp16-weights": Tolerance(2e-2, 0.99, 0.95, 0.9),
    "fp16": Tolerance(3e-2, 0.99, 0.95, 0.9),
    "int8": Tolerance(0.5, 0.95, 0.8, 0.97),
}
"""Precision → what is accepted; int8 is judged on photographs, the others on probe pictures."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two networks compare on one head over all pictures at one batch size."""

    head: str
    batch: int
    images: int
    max_abs: float
    largest_logit: float
    label_agreement: float
    boundary_agreement: float
    """Over the pixels that have a neighbour of another label in the network's map."""
    miou: float
    """Mean over the classes that hold at least `COMMON` of the network's labels: the IoU of a
    handful of pixels says nothing."""
    miou_all: float
    """Mean over the classes present in either label map."""
    margin: float
    """Largest lead, in the network's logits, of its own label where the labels differ."""
    nans: int
    """Values of the artifact that are not finite."""

    def within(self, tolerance: Tolerance) -> bool:
        """The verdict."""
        return not self.faults(tolerance)

    def faults(self, tolerance: Tolerance) -> list[str]:
        """What is out of tolerance, in words."""
        allowed = tolerance.max_abs * max(1.0, self.largest_logit)
        faults = [f"{self.nans} values are not finite"] if self.nans else []
        if not self.max_abs <= allowed:
            faults.append(f"largest difference {self.max_abs:.3g} (allowed {allowed:.3g})")
        for what, found, least in (
            ("labels agree", self.label_agreement, tolerance.label_agreement),
            ("boundaries agree", self.boundary_agreement, tolerance.boundary_agreement),
            ("mean IoU is", self.miou, tolerance.miou),
        ):
            if not found >= least:
                faults.append(f"{what} {found:.2%} (required {least:.2%})")
        return faults


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
    edge = boundaries(a)
    return Agreement(
        head=head,
        batch=batch,
        images=len(expected),
        max_abs=float(np.abs(expected - found).max()),
        largest_logit=float(np.abs(expected).max()),
        label_agreement=float((a == b).mean()),
        boundary_agreement=float((a == b)[edge].mean()) if edge.any() else 1.0,
        miou=mean_iou(a, b, expected.shape[1], share=COMMON),
        miou_all=mean_iou(a, b, expected.shape[1]),
        margin=float((expected.max(1) - other)[a != b].max(initial=0.0)),
        nans=int((~finite).sum()),
    )


def boundaries(labels: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Pixels (N, h, w) with another label among their eight neighbours."""
    kernel = np.ones((3, 3), np.uint8)
    planes = labels.astype(np.uint8)
    return np.stack([cv2.dilate(p, kernel) != cv2.erode(p, kernel) for p in planes])


def mean_iou(
    a: NDArray[np.intp], b: NDArray[np.intp], classes: int, *, share: float = 0.0
) -> float:
    """Mean IoU of two label maps over the classes present in either, or in `share` of `a`."""
    pairs = np.bincount((a * classes + b).ravel(), minlength=classes**2).reshape(classes, classes)
    both, either = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
    counted = (either > 0) & (pairs.sum(1) >= share * a.size)
    return float((both[counted] / either[counted]).mean())
