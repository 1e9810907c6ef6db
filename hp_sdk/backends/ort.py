"""ONNX Runtime: the only file of the package that imports it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from hp_sdk.backends.base import (
    BackendOptions,
    Batch,
    Facts,
    Outputs,
    check_batch,
    run_in_chunks,
)
from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    DeviceOutOfMemory,
    HpError,
    ProviderFallback,
    SchemaMismatch,
)

_log = logging.getLogger(__name__)

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DAMAGED = {"InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel"}
_UNREADABLE = "Load model from"  # how other errors begin when the file, not the device, is bad
_NO_MEMORY = ("allocate memory", "out of memory", "bad allocation", "CUDA_ERROR_OUT_OF_MEMORY")
_QUIET = 3  # errors only; what matters is checked and said by us


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> OrtBackend:
    """Open one ONNX file of a bundle after comparing it with the manifest.

    Raises:
        BackendUnavailable: ONNX Runtime, or the device asked for, is not there.
        ProviderFallback: the session came back on another device.
        CorruptArtifact: the file is missing or no ONNX model.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: inputs or outputs are not those of the manifest.
    """
    _runtime()  # a missing runtime is worth saying before a file is read
    path = verify_artifact(bundle, artifact)
    facts = Facts(
        artifact=f"{artifact.file} sha256:{artifact.sha256[:12]}",
        precision=artifact.precision_found,
        batch_min=artifact.batch_min,
        batch_opt=artifact.batch_opt,
        batch_max=artifact.batch_max,
    )
    backend = OrtBackend(path, options, facts=facts)
    missing = [
        bundle.heads[head].output
        for head in artifact.heads
        if bundle.heads[head].output not in backend.outputs
    ]
    if missing or backend.input_hw != artifact.size_hw:
        backend.close()
        raise SchemaMismatch(
            f"{str(path)!r} takes {backend.input_hw} and gives {', '.join(backend.outputs)}; its "
            f"manifest says {artifact.size_hw} and {', '.join(missing) or 'the same'}; export again"
        )
    return backend


class OrtBackend:
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: model with input `image`, uint8 (N, h, w, 3) RGB; h and w are fixed.
        options: device, threads, fallback; see `Parser.load`.
        facts: what the bundle says about the file; batch limits matter most.

    Raises:
        BackendUnavailable: ONNX Runtime, or the device asked for, is not there.
        ProviderFallback: the session came back on another device.
        CorruptArtifact: no ONNX model.
        SchemaMismatch: the model takes something else.
    """

    name = "onnxruntime"

    def __init__(
        self, path: str | Path, options: BackendOptions | None = None, *, facts: Facts | None = None
    ) -> None:
        options = options or BackendOptions()
        ort = _runtime()
        session, notes = _open_session(ort, Path(path), options)
        self._session: Any = session
        self.provider: str = session.get_providers()[0]
        self.outputs: tuple[str, ...] = tuple(o.name for o in session.get_outputs())
        self._input, self.input_hw, batch = _input_of(session, Path(path))
        facts = facts or Facts(batch_opt=8, batch_max=64)
        self.facts = Facts(
            version=ort.__version__,
            artifact=facts.artifact or Path(path).name,
            precision=facts.precision,
            batch_min=batch or facts.batch_min,
            batch_opt=batch or facts.batch_opt,
            batch_max=batch or facts.batch_max,
            notes=(*facts.notes, *notes),
        )

    def run(self, batch: Batch, *, outputs: Sequence[str] | None = None) -> Outputs:
        """Outputs by name for (N, h, w, 3) uint8 RGB, any N; all outputs if None are named.

        Raises:
            InputError: the batch has another type or shape.
            DeviceOutOfMemory: the batch does not fit; a smaller `batch_size` may.
            BackendError: the backend is closed, or the session failed.
        """
        check_batch(batch, self.input_hw)
        session = self._session
        if session is None:
            raise BackendError("the backend is closed; load the model again")
        names = list(outputs or self.outputs)

        def run_session(chunk: Batch) -> Outputs:
            return dict(zip(names, session.run(names, {self._input: chunk}), strict=True))

        try:
            return run_in_chunks(run_session, batch, self.facts)
        except Exception as exc:
            raise _run_error(exc, len(batch)) from exc

    def close(self) -> None:
        """Free the session; runs in other threads finish first."""
        self._session = None


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as exc:
        raise BackendUnavailable(
            f'ONNX Runtime cannot be imported ({exc}); pip install "hp-sdk[cpu]", '
            'or "hp-sdk[gpu]" for NVIDIA'
        ) from exc
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu is removed after both were there.
        raise BackendUnavailable(
            "ONNX Runtime is half removed; run pip uninstall onnxruntime onnxruntime-gpu, "
            'then pip install "hp-sdk[cpu]" or "hp-sdk[gpu]"'
        )
    return onnxruntime


def _open_session(
    ort: ModuleType, path: Path, options: BackendOptions
) -> tuple[Any, tuple[str, ...]]:
    """A session on the device asked for, and notes about accepted fallbacks."""
    wanted, strict = _wanted_providers(ort, options)
    try:
        session = _strict_session(ort, path, wanted, options)
    except (BackendUnavailable, ProviderFallback) as exc:
        if strict and not options.allow_fallback:
            raise
        session = _strict_session(ort, path, [_CPU], options)
        if not strict:
            _log.info("using the CPU: %s", exc)
            return session, ()
        _log.warning("fell back to the CPU: %s", exc)
        return session, (f"fell back to the CPU: {exc}",)
    return session, ()


def _wanted_providers(ort: ModuleType, options: BackendOptions) -> tuple[list[Any], bool]:
    """Providers to ask for, and whether the caller insists on them."""
    if options.providers is not None:
        return list(options.providers), True
    device = options.device or "auto"
    kind, _, index = device.partition(":")
    if device == "cpu":
        return [_CPU], True
    if kind == "cuda" and (index.isdecimal() or device == "cuda"):
        return [(_CUDA, {"device_id": int(index or 0)}), _CPU], True
    if device != "auto":
        raise ConfigError(f"no device {device!r}; allowed are auto, cpu, cuda and cuda:0")
    available = ort.get_available_providers()
    return [name for name in (_CUDA, _CPU) if name in available], False


def _strict_session(ort: ModuleType, path: Path, wanted: list[Any], options: BackendOptions) -> Any:
    """A session that really has every provider asked for."""
    names = [entry if isinstance(entry, str) else entry[0] for entry in wanted]
    available = ort.get_available_providers()
    unknown = [name for name in names if name not in available]
    if unknown:
        raise BackendUnavailable(
            f"this ONNX Runtime ({ort.__version__}) has no {', '.join(unknown)}, only "
            f'{", ".join(available)}; pip install "hp-sdk[gpu]", or allow the fallback to the CPU'
        )
    try:
        session = ort.InferenceSession(
            str(path), sess_options=_session_options(ort, options), providers=wanted
        )
    except HpError:
        raise
    except Exception as exc:
        raise _open_error(exc, path, names) from exc
    # onnxruntime-gpu lists CUDA without a GPU and falls back in silence; only the session knows.
    absent = [name for name in names if name not in session.get_providers()]
    if absent:
        raise ProviderFallback(
            f"you asked for {', '.join(absent)}, but ONNX Runtime {ort.__version__} started on "
            f"{', '.join(session.get_providers())}; check the driver and the CUDA libraries, "
            "or allow the fallback"
        )
    return session


def _session_options(ort: ModuleType, options: BackendOptions) -> Any:
    if options.session_options is not None:
        if options.num_threads is not None:
            raise ConfigError("give num_threads or session_options, not both")
        return options.session_options
    session_options = ort.SessionOptions()
    session_options.log_severity_level = _QUIET
    if options.num_threads is not None:
        if options.num_threads < 1:
            raise ConfigError(f"num_threads is {options.num_threads}; allowed is 1 or more")
        session_options.intra_op_num_threads = options.num_threads
    return session_options


def _input_of(session: Any, path: Path) -> tuple[str, tuple[int, int], int | None]:
    """Name, (h, w) and the batch size if it is fixed."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if (
        len(shape) != 4
        or inputs[0].type != "tensor(uint8)"
        or not all(isinstance(side, int) for side in shape[1:])
        or shape[3] != 3
    ):
        given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise SchemaMismatch(
            f"{str(path)!r} takes {given}; expected is one uint8 input (N, h, w, 3); export it "
            "with hp-export"
        )
    batch = shape[0] if isinstance(shape[0], int) else None
    return inputs[0].name, (shape[1], shape[2]), batch


def _open_error(exc: Exception, path: Path, providers: list[str]) -> HpError:
    reason = _first_line(exc)
    if type(exc).__name__ in _DAMAGED or _UNREADABLE in reason:
        return CorruptArtifact(
            f"ONNX Runtime cannot read {str(path)!r} ({reason}); fetch or export it again"
        )
    return BackendUnavailable(
        f"ONNX Runtime cannot open {str(path)!r} on {', '.join(providers)}: {reason}"
    )


def _run_error(exc: Exception, batch: int) -> HpError:
    if isinstance(exc, HpError):
        return exc
    reason = _first_line(exc)
    if any(sign.lower() in str(exc).lower() for sign in _NO_MEMORY):
        return DeviceOutOfMemory(
            f"not enough memory for {batch} inputs at once; take a smaller batch_size ({reason})"
        )
    return BackendError(f"ONNX Runtime failed on {batch} inputs: {reason}")


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
