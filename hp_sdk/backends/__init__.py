"""Runtimes by name.  Each is imported by one file of this folder, and only when opened.

A runtime opens a file on one device or says why not; what is tried instead is decided here, once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from hp_sdk.backends.base import (
    DEVICES,
    Absent,
    Backend,
    BackendOptions,
    Facts,
    Installed,
    device_kind,
)
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import BackendError, BackendUnavailable, ConfigError, HpError

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendEntry",
    "BackendOptions",
    "Facts",
    "Installed",
    "describe_backend",
    "open_backend",
]

_log = logging.getLogger(__name__)


class BackendEntry(NamedTuple):
    """Where a runtime is wrapped, and what a user installs to have it."""

    module: str
    """Holds `open_artifact(bundle, artifact, options) -> Backend` and `describe() -> Installed`."""
    extra: str
    """`pip install "hp-sdk[<extra>]"`."""
    reads: str
    """`Artifact.runtime` that it opens."""
    devices: tuple[str, ...] = ("cpu",)
    """Kinds of device, as `base.DEVICES` names them."""
    computes: tuple[str, ...] = ()
    """Precisions in which it can compute a float32 artifact if asked to."""


BACKENDS: dict[str, BackendEntry] = {
    "tensorrt": BackendEntry("hp_sdk.backends.tensorrt", "tensorrt", "tensorrt", ("cuda",)),
    "tensorrt-rtx": BackendEntry(
        "hp_sdk.backends.tensorrt_rtx", "tensorrt-rtx", "tensorrt-rtx", ("cuda",)
    ),
    "onnxruntime": BackendEntry("hp_sdk.backends.ort", "cpu", "onnx", ("cuda", "cpu")),
    "openvino": BackendEntry(
        "hp_sdk.backends.openvino", "openvino", "onnx", ("cpu", "GPU", "NPU"), ("bf16", "fp16")
    ),
    "torch": BackendEntry("hp_sdk.backends.torch", "torch", "torch", ("cuda", "cpu"), ("fp16",)),
}
"""In the order in which "auto" tries them on a device.  docs/performance.md compares them."""

AUTO_DEVICES = ("cuda", "cpu")
"""In the order in which "auto" tries them; other devices are used when asked for by name."""

_COMPUTED_IN_FP32 = ("fp32", "fp16-weights")


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
    cache_dir: Path | None = None,
) -> Backend:
    """Open an artifact of the bundle; the caller closes it.

    "auto" takes the first runtime that is installed and fits, and says at INFO which and why.  A
    device (or provider) asked for by name works or raises; `allow_fallback` goes on to the CPU
    with a warning, and `Backend.facts.notes` keep the reason.

    Raises:
        ConfigError: no such backend, device or precision.
        BackendUnavailable: a runtime or device that was asked for is not there.
        ProviderFallback: the runtime silently chose another device.
        CorruptArtifact: the artifact is damaged.
        ChecksumMismatch: the artifact is not the file the bundle describes.
    """
    names = tuple(BACKENDS) if backend == "auto" else (_checked(backend),)
    options = BackendOptions(
        device=None if device in (None, "", "auto") else device,
        precision=precision,
        num_threads=num_threads,
        providers=providers,
        session_options=session_options,
        cache_dir=cache_dir,
    )
    insists = options.device is not None or providers is not None
    refusals: list[HpError] = []
    for stage in _stages(names, options, allow_fallback=allow_fallback):
        notes = tuple(_notes(refusals, insists=insists))
        for name in _able(names, stage):
            try:
                opened = _open(name, bundle, replace(stage, notes=notes))
            except (BackendError, ConfigError) as exc:
                refusals.append(exc)
                continue
            _announce(opened, refusals, is_fallback=insists and stage.device != options.device)
            return opened
    raise _verdict(refusals)


def describe_backend(name: str) -> Installed:
    """What an installed runtime says of itself.

    Raises:
        ConfigError: no such backend.
        BackendUnavailable: it is not installed, or broken.
    """
    return import_module(BACKENDS[_checked(name)].module).describe()


def _checked(backend: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"no backend {backend!r}; there are auto, {', '.join(BACKENDS)}")
    return backend


def _stages(
    names: Iterable[str], options: BackendOptions, *, allow_fallback: bool
) -> list[BackendOptions]:
    """The devices to try, one after another."""
    known = {kind for name in names for kind in BACKENDS[name].devices}
    if options.providers is not None:
        asked = [options]
    elif options.device is not None:
        device_kind(options.device, tuple(known))
        asked = [options]
    else:
        return [replace(options, device=kind) for kind in AUTO_DEVICES if kind in known]
    on_cpu = replace(options, device="cpu", providers=None)
    return [*asked, on_cpu] if allow_fallback and on_cpu != options else asked


def _able(names: Iterable[str], stage: BackendOptions) -> Iterator[str]:
    for name in names:
        kinds = BACKENDS[name].devices
        if stage.device is None or device_kind(stage.device, tuple(DEVICES)) in kinds:
            yield name


def _open(name: str, bundle: Bundle, options: BackendOptions) -> Backend:
    entry = BACKENDS[name]
    artifact = _artifact(name, entry, bundle, options.precision)
    return import_module(entry.module).open_artifact(bundle, artifact, options)


def _artifact(name: str, entry: BackendEntry, bundle: Bundle, precision: str) -> Artifact:
    fitting = [artifact for artifact in bundle.artifacts if artifact.runtime == entry.reads]
    if not fitting:
        there = ", ".join(dict.fromkeys(a.runtime for a in bundle.artifacts)) or "none"
        raise Absent(
            f"backend {name!r} needs an artifact of kind {entry.reads!r}; bundle {bundle.name!r} "
            f"has {there}; export it in that format"
        )
    if precision == "auto":
        return fitting[0]
    stored = [artifact for artifact in fitting if artifact.precision_found == precision]
    if precision in entry.computes:
        stored += [a for a in fitting if a.precision_found in _COMPUTED_IN_FP32]
    if not stored:
        there = ", ".join(dict.fromkeys(artifact.precision_found for artifact in fitting))
        able = ", ".join(other for other, e in BACKENDS.items() if precision in e.computes)
        hint = f"; {able} can compute fp32 in {precision}" if able else ""
        raise ConfigError(
            f"bundle {bundle.name!r} has no {precision} artifact for {name}; it has {there}{hint}"
        )
    return stored[0]


def _notes(refusals: Iterable[HpError], *, insists: bool) -> Iterator[str]:
    """What the receipt keeps of earlier devices: what is broken, or why one asked for is unused."""
    kept = [refusal for refusal in _culprits(refusals) if insists or _is_broken(refusal)]
    return (f"fell back to the CPU: {refusal}" for refusal in kept)


def _is_broken(refusal: HpError) -> bool:
    """Something is there that should work and does not."""
    return isinstance(refusal, BackendError) and not isinstance(refusal, Absent)


def _announce(opened: Backend, refusals: Iterable[HpError], *, is_fallback: bool) -> None:
    reasons = "; ".join(dict.fromkeys(str(refusal) for refusal in refusals))
    if is_fallback:
        _log.warning("fell back to %s on %s: %s", opened.name, opened.provider, reasons)
        return
    passed_over = f"; passed over: {reasons}" if reasons else ""
    _log.info("chose %s on %s%s", opened.name, opened.provider, passed_over)


def _culprits(refusals: Iterable[HpError]) -> list[HpError]:
    """What is broken, else what is misused, else everything that is not there; each once."""
    unlike = list({str(refusal): refusal for refusal in refusals}.values())
    broken = [refusal for refusal in unlike if _is_broken(refusal)]
    return broken or [refusal for refusal in unlike if isinstance(refusal, ConfigError)] or unlike


def _verdict(refusals: Sequence[HpError]) -> HpError:
    """The one culprit itself, or one error that tells everything that was tried."""
    culprits = _culprits(refusals)
    if len(culprits) == 1:
        return culprits[0]
    kind = ConfigError if isinstance(culprits[0], ConfigError) else BackendUnavailable
    return kind("no backend works: " + "; ".join(dict.fromkeys(map(str, refusals))))
