"""The golden sample: a picture and the labels the network gave, replayed on any machine."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hp_export.agreement import TOLERANCES
from hp_export.probes import figure
from hp_export.verify import Reference
from hp_sdk.backends import open_backend
from hp_sdk.bundle import Bundle
from hp_sdk.errors import CorruptArtifact, VerificationFailed
from hp_sdk.files import sha256_of, write_bytes
from hp_sdk.image import Pixels
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import fit

FILE = "golden/golden.npz"
GOLDEN_AGREEMENT = {name: t.label_agreement for name, t in TOLERANCES.items()} | {"int8": 0.9}
"""Precision → part of the golden labels it must give; int8 is calibrated on photographs, and the
golden picture is drawn."""


@dataclass(frozen=True, slots=True)
class Replay:
    """How a machine reproduces the golden labels."""

    runtime: str
    provider: str
    precision: str
    agreement: dict[str, float]
    """Head → part of pixels with the golden label."""


def write_golden(
    folder: Path,
    reference: Reference,
    size_hw: tuple[int, int],
    precisions: Sequence[str] = ("fp32",),
) -> dict[str, Any]:
    """Write `golden/golden.npz`: `image` (h, w, 3) and `labels.<head>` (h, w), all uint8.

    Labels are the network's own: its logits resized to the image in torch, then argmax.
    """
    image = figure(size_hw)
    arrays: dict[str, Pixels] = {"image": image}
    for head, logits in reference(image[np.newaxis]).items():
        large = functional.interpolate(
            torch.from_numpy(logits), size=size_hw, mode="bilinear", align_corners=False
        )
        arrays[f"labels.{head}"] = large[0].argmax(0).to(torch.uint8).numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    path = write_bytes(folder / FILE, buffer.getvalue())
    return {
        "file": FILE,
        "sha256": sha256_of(path),
        "tolerance_label_agreement": GOLDEN_AGREEMENT[precisions[0]],
        "tolerances": {precision: GOLDEN_AGREEMENT[precision] for precision in precisions},
    }


def read_golden(bundle: Bundle) -> dict[str, Pixels]:
    """The arrays of `write_golden`.

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


def replay_golden(bundle: Bundle, *, backend: str = "auto", precision: str = "auto") -> Replay:
    """Parse the golden picture on this machine, as the product does, and compare the labels.

    `precision` picks the artifact, as in `Parser.load`.

    Raises:
        CorruptArtifact: there is no readable golden sample.
        VerificationFailed: too many pixels have another label.
    """
    arrays = read_golden(bundle)
    pixels, geometry = fit(arrays["image"], bundle.input)
    with closing(open_backend(bundle, backend=backend, precision=precision)) as opened:
        logits = opened.run(pixels)
        agreement = {
            name: _same_labels(
                label_map(logits[head.output][0], geometry), arrays[f"labels.{name}"]
            )
            for name, head in bundle.heads.items()
        }
        replay = Replay(opened.name, opened.provider, opened.facts.precision, agreement)
    _judge(bundle, replay)
    return replay


def _same_labels(found: Pixels, golden: Pixels) -> float:
    if found.shape != golden.shape:
        raise CorruptArtifact(
            f"the golden labels are {golden.shape}, the picture {found.shape}; export again"
        )
    return float((found == golden).mean())


def _judge(bundle: Bundle, replay: Replay) -> None:
    golden = bundle.golden or {}
    fallback = golden.get("tolerance_label_agreement", 1.0)
    required = float(golden.get("tolerances", {}).get(replay.precision, fallback))
    head, agreement = min(replay.agreement.items(), key=lambda item: item[1])
    if agreement < required:
        raise VerificationFailed(
            f"{replay.runtime} ({replay.provider}) gives other labels than the golden ones of "
            f"bundle {bundle.name!r}: {head} agrees on {agreement:.3%}, required {required:.3%}; "
            "try another device or export again"
        )
