"""An engine is right if it gives the golden labels; on the machine it is for, without torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hp_export.replay import Replay, replay
from hp_sdk.backends import BACKENDS
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import BackendUnavailable, ConfigError, VerificationFailed


def verify_engine(bundle: Bundle, artifact: Artifact) -> list[dict[str, Any]]:
    """Parse the golden picture with one engine; entries for the manifest's `verify`.

    Raises:
        BackendUnavailable: this machine cannot run the engine.
        ConfigError: the golden sample is for another input size.
        CorruptArtifact: there is no readable golden sample.
        VerificationFailed: too many labels differ.
    """
    _refuse_other_size(bundle, artifact)
    alone = replace(bundle, artifacts=(artifact,))
    told = replay(alone, backend=_backend(artifact.runtime))
    if not told.passed:
        head, agreement = told.worst
        raise VerificationFailed(
            f"engine {artifact.file} gives other labels than the golden ones: {head} agrees on "
            f"{agreement:.3%}, required {told.required:.3%}; it was removed: try fp32, or another "
            "version of TensorRT"
        )
    return [_entry(artifact, told, head) for head in artifact.heads]


def _refuse_other_size(bundle: Bundle, artifact: Artifact) -> None:
    if artifact.size_hw != bundle.input.size_hw:
        given, golden = ("x".join(map(str, s)) for s in (artifact.size_hw, bundle.input.size_hw))
        raise ConfigError(
            f"the golden sample of bundle {bundle.name!r} is for {golden}, and cannot verify an "
            f"engine for {given}; build that with --no-verify, and compare it yourself"
        )


def _backend(runtime: str) -> str:
    names = [name for name, entry in BACKENDS.items() if entry.reads == runtime]
    if not names:
        raise BackendUnavailable(
            f"this release of hp-sdk runs no {runtime} engines, so that none can be verified; it "
            f"has {', '.join(BACKENDS)}; install a newer one"
        )
    return names[0]


def _entry(artifact: Artifact, told: Replay, head: str) -> dict[str, Any]:
    return {
        "artifact": artifact.file,
        "runtime": told.runtime,
        "head": head,
        "batch": 1,
        "images": 1,
        "label_agreement": told.agreement[head],
        "verdict": "pass",
    }
