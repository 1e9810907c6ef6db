"""An engine is right if it gives the golden labels; on the machine it is for, without torch."""

from __future__ import annotations

import zipfile
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from hp_sdk.backends import BACKENDS, open_backend
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    VerificationFailed,
)
from hp_sdk.image import Pixels
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import fit


def verify_engine(bundle: Bundle, artifact: Artifact) -> list[dict[str, Any]]:
    """Parse the golden picture with one engine; entries for the manifest's `verify`.

    Raises:
        BackendUnavailable: this machine cannot run the engine.
        ConfigError: the golden sample is for another input size.
        CorruptArtifact: there is no readable golden sample.
        VerificationFailed: too many labels differ.
    """
    name = _backend(artifact.runtime)
    golden = _read(bundle)
    required = _required(bundle, artifact)
    pixels, geometry = fit(golden["image"], bundle.input)
    alone = replace(bundle, artifacts=(artifact,))
    with closing(open_backend(alone, backend=name)) as backend:
        logits = backend.run(pixels)
    entries: list[dict[str, Any]] = []
    for head in artifact.heads:
        found = logits[bundle.heads[head].output][0]  # (Z, h/4, w/4)
        same = float((label_map(found, geometry) == golden[f"labels.{head}"]).mean())
        sane = bool(np.isfinite(found).all())
        entries.append(_entry(artifact, backend.name, head, same, passed=sane and same >= required))
    if failed := [entry for entry in entries if entry["verdict"] == "fail"]:
        raise VerificationFailed(_explain(failed[0], required))
    return entries


def _required(bundle: Bundle, artifact: Artifact) -> float:
    """Part of the golden labels that must be met."""
    if artifact.size_hw != bundle.input.size_hw:
        given, golden = ("x".join(map(str, s)) for s in (artifact.size_hw, bundle.input.size_hw))
        raise ConfigError(
            f"the golden sample of bundle {bundle.name!r} is for {golden}, and cannot verify an "
            f"engine for {given}; build that with --no-verify, and compare it yourself"
        )
    golden = bundle.golden or {}
    usual = golden.get("tolerance_label_agreement", 0.999)
    return float(golden.get("tolerances", {}).get(artifact.precision_found, usual))


def _backend(runtime: str) -> str:
    names = [name for name, entry in BACKENDS.items() if entry.reads == runtime]
    if not names:
        raise BackendUnavailable(
            f"this release of hp-sdk runs no {runtime} engines, so that none can be verified; it "
            f"has {', '.join(BACKENDS)}; install a newer one"
        )
    return names[0]


def _read(bundle: Bundle) -> dict[str, Pixels]:
    if bundle.golden is None:
        raise CorruptArtifact(f"bundle {bundle.name!r} has no golden sample; export it again")
    path = bundle.root / str(bundle.golden["file"])
    try:
        # np.load leaves a damaged file open when it is given a path.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("image", *_labels(bundle))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise CorruptArtifact(
            f"the golden sample {str(path)!r} cannot be read ({exc}); fetch the bundle again"
        ) from exc


def _labels(bundle: Bundle) -> list[str]:
    return [f"labels.{head}" for head in bundle.heads]


def _entry(
    artifact: Artifact, runtime: str, head: str, same: float, *, passed: bool
) -> dict[str, Any]:
    return {
        "artifact": artifact.file,
        "runtime": runtime,
        "head": head,
        "batch": 1,
        "images": 1,
        "label_agreement": same,
        "verdict": "pass" if passed else "fail",
    }


def _explain(entry: dict[str, Any], required: float) -> str:
    return (
        f"engine {entry['artifact']} gives other labels than the golden ones: {entry['head']} "
        f"agrees on {entry['label_agreement']:.3%}, required {required:.3%}; it was removed: try "
        "fp32, or another version of TensorRT"
    )
