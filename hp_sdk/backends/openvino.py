"""OpenVINO: the only file of the package that imports it."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from hp_sdk.backends.base import (
    Absent,
    BackendOptions,
    Batch,
    Facts,
    GraphBackend,
    Installed,
    Outputs,
    Port,
    device_kind,
    facts_of_file,
    importing,
    network_input,
    open_verified,
)
from hp_sdk.bundle import Artifact, Bundle
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    HpError,
    ProviderFallback,
)

_DEVICES = {"cpu": "CPU", "GPU": "GPU", "NPU": "NPU"}
_INSTALL = 'pip install "hp-sdk[openvino]"'
_HINTS = {"bf16": "bf16", "fp16": "f16"}
"""Precision asked for → what OpenVINO is told; everything else is computed in float32."""
_NAMES = {"f32": "fp32", "f16": "fp16"}
_STORED = {"fp16": "fp16-weights", "bf16": "bf16-weights"}
"""What a graph of half precision amounts to when it is computed in float32."""
_CANNOT_CONVERT = {"OpConversionFailure", "NotImplementedFailure", "OpValidationFailure"}
_TELEMETRY = "openvino_telemetry"
_importing = Lock()


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> OpenVinoBackend:
    """Open one ONNX file of a bundle after comparing it with the manifest.

    Raises:
        BackendUnavailable: OpenVINO, the device or the precision asked for is not there.
        ProviderFallback: the model was compiled for another device.
        ConfigError: an option OpenVINO does not have.
        CorruptArtifact: the file is missing or no ONNX model.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: inputs or outputs are not those of the manifest.
    """
    _runtime()  # a missing runtime is worth saying before a file is read
    return open_verified(OpenVinoBackend, bundle, artifact, options)


def describe() -> Installed:
    """Version and devices.

    Raises:
        BackendUnavailable: OpenVINO is not there, or broken.
    """
    openvino = _runtime()
    with _translated("OpenVINO does not start", BackendUnavailable):
        listed = tuple(openvino.Core().available_devices)
    known = [device for device in listed if device.partition(".")[0] in _DEVICES.values()]
    devices = ("cpu" if device == "CPU" else device for device in known)
    return Installed(version=_version(openvino), listed=listed, devices=tuple(devices))


class OpenVinoBackend(GraphBackend):
    """An ONNX file compiled by OpenVINO, in float32 unless another precision is asked for.

    Args:
        path: model with input `image`, uint8 (N, h, w, 3) RGB; h and w are fixed.
        options: device "cpu", or "GPU", "GPU.1", "NPU" as OpenVINO lists them; precision "bf16"
            or "fp16" where the device computes in it; threads; `session_options` is a mapping of
            OpenVINO's own properties, which go before ours.
        facts: what the bundle says about the file; batch limits matter most.

    Raises:
        BackendUnavailable: OpenVINO, the device or the precision asked for is not there.
        ProviderFallback: the model was compiled for another device.
        ConfigError: an option OpenVINO does not have.
        CorruptArtifact: no ONNX model.
        SchemaMismatch: the model takes something else.
    """

    name = "openvino"
    title = "OpenVINO"
    no_memory = ("allocate", "out of memory", "bad_alloc", "CL_OUT_OF", "std::bad_array_new")

    def __init__(
        self, path: str | Path, options: BackendOptions | None = None, facts: Facts | None = None
    ) -> None:
        path, options = Path(path), options or BackendOptions()
        settings = _settings(options)
        openvino = _runtime()
        with _translated("OpenVINO does not start", BackendUnavailable):
            core = openvino.Core()
        device = _listed_device(core, options.device or "cpu")
        model = _read(openvino, path)
        self.input_hw, batch = network_input(path, [_port(each) for each in model.inputs])
        self._input: str = model.inputs[0].get_any_name()
        with _translated(f"OpenVINO cannot open {str(path)!r} on {device}", BackendUnavailable):
            compiled = core.compile_model(model, device, settings)
            self.provider = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
            computed = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        _check_device(device, self.provider)
        _check_precision(options.precision, computed, device)
        self.outputs = tuple(o.get_any_name() for o in compiled.outputs)
        self._graph = compiled
        self._tensor: Any = openvino.Tensor
        self._idle: deque[Any] = deque()
        facts = facts_of_file(path, facts, batch)
        self.facts = replace(
            facts,
            version=_version(openvino),
            precision=_precision(facts.precision, computed),
            notes=(*facts.notes, *options.notes),
        )

    def close(self) -> None:
        """Free the graph; runs in other threads finish first."""
        super().close()
        self._idle.clear()

    def _run(self, graph: Any, chunk: Batch, names: Sequence[str]) -> Outputs:
        """One request serves one thread at a time; as many are kept as threads have met here."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = graph.create_infer_request()
        pixels = np.ascontiguousarray(chunk)  # lent to the request until it has run
        request.set_tensor(self._input, self._tensor(pixels, shared_memory=True))
        request.infer()
        # The request writes over its outputs in its next run.
        answer = {name: request.get_tensor(name).data.copy() for name in names}
        if self._graph is not None:
            self._idle.append(request)
        return answer

    def _reason(self, exc: Exception) -> str:
        return _reason(exc)


def _runtime() -> ModuleType:
    with _importing, _no_telemetry(), importing("openvino", "OpenVINO", _INSTALL):
        import openvino
    if not hasattr(openvino, "Core"):
        raise BackendUnavailable(f"OpenVINO is half removed; {_INSTALL} --force-reinstall")
    return openvino


@contextmanager
def _no_telemetry() -> Iterator[None]:
    """Import OpenVINO as if its telemetry package were not installed.

    Otherwise the mere import writes into the user's home and reports to Google Analytics.
    """
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # pyright: ignore[reportArgumentType] - so an import fails
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def _version(openvino: ModuleType) -> str:
    return openvino.__version__.partition("-")[0]  # the rest names the commit


def _settings(options: BackendOptions) -> dict[str, Any]:
    own = options.session_options if options.session_options is not None else {}
    if options.providers is not None:
        raise ConfigError("providers is ONNX Runtime's list; OpenVINO takes a device")
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"session_options is a {type(own).__name__}; OpenVINO takes a mapping of its "
            "properties, such as {'NUM_STREAMS': 2}"
        )
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Left alone, OpenVINO computes in bfloat16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": _HINTS.get(options.precision, "f32"),
    }
    if options.num_threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.num_threads
    if options.cache_dir is not None:
        settings["CACHE_DIR"] = str(options.cache_dir / "openvino")
    return settings | dict(own)


def _listed_device(core: Any, device: str) -> str:
    """OpenVINO's own name of a device that it lists."""
    kind = device_kind(device, tuple(_DEVICES))
    wanted = device.replace(kind, _DEVICES[kind], 1)
    listed: list[str] = core.available_devices
    # One GPU is listed as GPU, several as GPU.0, GPU.1; the plain name then means the first.
    aliases = {name.removesuffix(".0") for name in listed} | {f"{name}.0" for name in listed}
    if wanted not in {*listed, *aliases}:
        raise Absent(
            f"OpenVINO lists no {wanted}, only {', '.join(listed)}; install the device's driver, "
            "or allow the fallback to the CPU"
        )
    return wanted


def _read(openvino: ModuleType, path: Path) -> Any:
    """The graph of an ONNX file; asked by name, so that no other reader guesses at it."""
    try:
        reader = openvino.frontend.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
    except Exception as exc:
        if type(exc).__name__ in _CANNOT_CONVERT:
            raise BackendUnavailable(
                f"OpenVINO does not know every operator of {str(path)!r} ({_reason(exc)}); use "
                "another backend"
            ) from exc
        raise _unreadable(path, _reason(exc)) from exc
    if not model.inputs and not model.outputs:  # what it makes of an empty file
        raise _unreadable(path, "no graph")
    return model


def _unreadable(path: Path, reason: str) -> CorruptArtifact:
    return CorruptArtifact(
        f"OpenVINO cannot read {str(path)!r} ({reason}); fetch or export it again"
    )


def _port(given: Any) -> Port:
    kind: str = given.element_type.to_string()
    shape = [side.get_length() if side.is_static else None for side in given.partial_shape]
    return Port(f"{given.get_any_name()} {kind} {given.partial_shape}", kind == "u8", shape)


def _check_device(device: str, provider: str) -> None:
    wanted = device.partition(".")[0]
    if any(each.partition(".")[0] != wanted for each in provider.split(", ")):
        raise ProviderFallback(
            f"OpenVINO compiled for {provider} instead of {device}; check the device's driver, or "
            "allow the fallback"
        )


def _check_precision(asked: str, computed: str, device: str) -> None:
    # Asked for float16 on a processor without it, OpenVINO takes bfloat16 and says nothing.
    if asked in _HINTS and computed != _HINTS[asked]:
        raise BackendUnavailable(
            f"{device} does not compute in {asked}: OpenVINO took {_NAMES.get(computed, computed)} "
            "instead; ask for that, or leave the precision at auto"
        )


def _precision(stored: str, computed: str) -> str:
    """Named after what computes, as everywhere."""
    if computed == "f32":
        return _STORED.get(stored, stored)
    return _NAMES.get(computed, computed)


@contextmanager
def _translated(what: str, error: type[HpError]) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise error(f"{what}: {_reason(exc)}") from exc


def _reason(exc: Exception) -> str:
    """The last line that is not about OpenVINO's own source files."""
    lines = [line.strip() for line in str(exc).splitlines()]
    telling = [line for line in lines if line and not re.match("Exception from |Check '", line)]
    return telling[-1] if telling else type(exc).__name__
