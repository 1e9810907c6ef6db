"""Runtimes by name.  Each is imported by one file of this folder, and only when opened."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from hp_sdk.backends.base import Backend, BackendOptions, Facts
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import BackendError, BackendUnavailable, ConfigError

__all__ = ["BACKENDS", "Backend", "BackendEntry", "BackendOptions", "Facts", "open_backend"]

_log = logging.getLogger(__name__)


class BackendEntry(NamedTuple):
    """Where a runtime is wrapped, and what a user installs to have it."""

    module: str
    """Holds `open_artifact(bundle, artifact, options) -> Backend`."""
    extra: str
    """`pip install "hp-sdk[<extra>]"`."""
    reads: str
    """`Artifact.runtime` that it opens."""


BACKENDS: dict[str, BackendEntry] = {
    "onnxruntime": BackendEntry("hp_sdk.backends.ort", "cpu", "onnx"),
}
"""In the order in which "auto" tries them."""


def open_backend(  # noqa: PLR0913 - the options of Parser.load, which users pass by name
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    num_threads: int | None = None,
    allow_fallback: bool = False,
    providers: Sequence[Any] | None = None,
    session_options: Any = None,
) -> Backend:
    """Open an artifact of the bundle; the caller closes it.

    "auto" takes the first runtime that is installed and fits, and says at INFO which and why.

    Raises:
        ConfigError: no such backend, device or precision.
        BackendUnavailable: a runtime or device that was asked for is not there.
        ProviderFallback: the runtime silently chose another device.
        CorruptArtifact: the artifact is damaged.
        ChecksumMismatch: the artifact is not the file the bundle describes.
    """
    options = BackendOptions(
        device=device,
        num_threads=num_threads,
        allow_fallback=allow_fallback,
        providers=providers,
        session_options=session_options,
    )
    if backend != "auto":
        return _open(_checked(backend), bundle, precision, options)
    refusals: list[BackendError] = []
    for name in BACKENDS:
        try:
            opened = _open(name, bundle, precision, options)
        except BackendError as exc:
            refusals.append(exc)
            continue
        reasons = "".join(f"; passed over: {refusal}" for refusal in refusals)
        _log.info("chose %s on %s%s", name, opened.provider, reasons)
        return opened
    if len(refusals) == 1:
        raise refusals[0]
    raise BackendUnavailable("no backend works: " + "; ".join(str(exc) for exc in refusals))


def _checked(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"no backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
    return backend


def _open(name: str, bundle: Bundle, precision: str, options: BackendOptions) -> Backend:
    entry = BACKENDS[name]
    artifact = _artifact(name, entry, bundle, precision)
    return import_module(entry.module).open_artifact(bundle, artifact, options)


def _artifact(name: str, entry: BackendEntry, bundle: Bundle, precision: str) -> Artifact:
    fitting = [artifact for artifact in bundle.artifacts if artifact.runtime == entry.reads]
    if not fitting:
        there = ", ".join(dict.fromkeys(a.runtime for a in bundle.artifacts)) or "none"
        raise BackendUnavailable(
            f"backend {name!r} needs an artifact of kind {entry.reads!r}; bundle {bundle.name!r} "
            f"has {there}; export it with --format {entry.reads}"
        )
    if precision == "auto":
        return fitting[0]
    for artifact in fitting:
        if artifact.precision_found == precision:
            return artifact
    there = ", ".join(dict.fromkeys(artifact.precision_found for artifact in fitting))
    raise ConfigError(
        f"bundle {bundle.name!r} has no {precision} artifact for {name}; it has {there}"
    )
