"""The golden sample on this machine: the labels that a runtime gives, beside the network's own.

Nothing here needs torch or onnx, so that a kit replays it on the machine of its engine.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.backends import open_backend
from hp_sdk.bundle import Bundle
from hp_sdk.errors import CorruptArtifact, VerificationFailed
from hp_sdk.image import Pixels
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import Geometry, fit


@dataclass(frozen=True, slots=True)
class Replay:
    """How a machine reproduces the golden labels."""

    runtime: str
    provider: str
    precision: str
    agreement: Mapping[str, float]
    """Head → part of pixels with the golden label; 0 where a logit is not finite."""
    required: float
    """Part of the pixels that every head has to reach."""

    @property
    def worst(self) -> tuple[str, float]:
        """The head that agrees least, and how much."""
        return min(self.agreement.items(), key=lambda item: item[1])

    @property
    def passed(self) -> bool:
        """The verdict."""
        return self.worst[1] >= self.required


def read_golden(bundle: Bundle) -> dict[str, Pixels]:
    """The arrays of `golden.write_golden`.

    Raises:
        CorruptArtifact: the bundle has none, or its file is damaged.
    """
    if bundle.golden is None:
        raise CorruptArtifact(f"bundle {bundle.name!r} has no golden sample; export it again")
    path = bundle.root / str(bundle.golden["file"])
    wanted = ("image", *(f"labels.{head}" for head in bundle.heads))
    try:
        # np.load leaves a damaged file open when it is given a path.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in wanted}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise CorruptArtifact(
            f"the golden sample {str(path)!r} cannot be read ({exc}); fetch the bundle again"
        ) from exc


def replay(bundle: Bundle, *, backend: str = "auto", precision: str = "auto") -> Replay:
    """Parse the golden picture as the product does, and compare the labels, whatever the verdict.

    `precision` picks the artifact, as in `Parser.load`.

    Raises:
        CorruptArtifact: there is no readable golden sample.
    """
    arrays = read_golden(bundle)
    pixels, geometry = fit(arrays["image"], bundle.input)
    with closing(open_backend(bundle, backend=backend, precision=precision)) as opened:
        logits = opened.run(pixels)
        found = opened.facts.precision
        names = [name for name, head in bundle.heads.items() if head.output in logits]
        agreement = {
            name: _same_labels(
                logits[bundle.heads[name].output][0], geometry, arrays[f"labels.{name}"]
            )
            for name in names
        }
        return Replay(opened.name, opened.provider, found, agreement, _required(bundle, found))


def replay_golden(bundle: Bundle, *, backend: str = "auto", precision: str = "auto") -> Replay:
    """`replay`, where any other verdict than "pass" is an error.

    Raises:
        CorruptArtifact: there is no readable golden sample.
        VerificationFailed: too many pixels have another label.
    """
    told = replay(bundle, backend=backend, precision=precision)
    if not told.passed:
        head, agreement = told.worst
        raise VerificationFailed(
            f"{told.runtime} ({told.provider}) gives other labels than the golden ones of "
            f"bundle {bundle.name!r}: {head} agrees on {agreement:.3%}, required "
            f"{told.required:.3%}; try another device or export again"
        )
    return told


def _same_labels(logits: NDArray[Any], geometry: Geometry, golden: Pixels) -> float:
    if not np.isfinite(logits).all():
        return 0.0
    found = label_map(logits, geometry)
    if found.shape != golden.shape:
        raise CorruptArtifact(
            f"the golden labels are {golden.shape}, the picture {found.shape}; export again"
        )
    return float((found == golden).mean())


def _required(bundle: Bundle, precision: str) -> float:
    golden = bundle.golden or {}
    usual = golden.get("tolerance_label_agreement", 0.999)
    return float(golden.get("tolerances", {}).get(precision, usual))
