"""ONNX Runtime: the only file of the package that imports it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from hp_sdk.backends.base import (
    Absent,
    BackendOptions,
    Batch,
    Facts,
    FileBackend,
    GraphBackend,
    Installed,
    Outputs,
    Port,
    device_kind,
    facts_of_file,
    first_line,
    importing,
    network_input,
    open_verified,
)
from hp_sdk.backends.on_device import DeviceBackend, gpu_index, open_on_gpu, open_pipeline
from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    HpError,
    ProviderFallback,
)
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.ort_engine import OrtEngine, provider_options
from hp_sdk.gpu.pipeline import DevicePipeline

_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DEVICES = {"cpu": _CPU, "cuda": _CUDA}
_INSTALL = 'pip install "hp-sdk[cpu]", or "hp-sdk[gpu]" for NVIDIA'
_DAMAGED = {"InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel"}
_UNREADABLE = "Load model from"  # how other errors begin when the file, not the device, is bad
_WARNINGS, _ERRORS, _NOTHING = 2, 3, 4  # severities from which ONNX Runtime logs


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> FileBackend:
    """Open one ONNX file of a bundle after comparing it with the manifest.

    On "cuda" its session is bound to the buffers of a pipeline, so that photos stay on the GPU.

    Raises:
        BackendUnavailable: ONNX Runtime, or the device asked for, is not there.
        ProviderFallback: the session came back on another device.
        ConfigError: an option ONNX Runtime does not have.
        CorruptArtifact: the file is missing or no ONNX model.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: inputs or outputs are not those of the manifest.
    """
    ort = _runtime()  # a missing runtime is worth saying before a file is read

    def open_file(path: Path, options: BackendOptions, facts: Facts) -> FileBackend:
        def with_pipeline(gpu: Gpu) -> OrtDeviceBackend:
            engine, found = _open_engine(ort, path, gpu, options, facts)
            pipeline = open_pipeline(gpu, engine, bundle, artifact)
            return OrtDeviceBackend(OrtBackend.name, pipeline, found)

        def network_alone(options: BackendOptions) -> FileBackend:
            return OrtBackend(path, options, facts)

        if options.providers is not None or _kind(options) == "cpu":
            return network_alone(options)
        return open_on_gpu(options, with_pipeline=with_pipeline, network_alone=network_alone)

    return open_verified(open_file, bundle, artifact, options)


def describe() -> Installed:
    """Version and execution providers.

    Raises:
        BackendUnavailable: ONNX Runtime is not there, or broken.
    """
    ort = _runtime()
    listed = tuple(ort.get_available_providers())
    devices = tuple(kind for kind, provider in _DEVICES.items() if provider in listed)
    return Installed(version=ort.__version__, listed=listed, devices=devices)


def open_baseline(bundle: Bundle, artifact: Artifact, index: int) -> OrtBaseline:
    """The session alone on a GPU, replayed from its own CUDA graphs; for one thread, to compare.

    Raises:
        BackendError: ONNX Runtime or the GPU is not there, or the model cannot be recorded.
        ModelError: the file is damaged or another one.
    """
    ort, options = _runtime(), BackendOptions(device=f"cuda:{index}")
    facts = Facts(batch_min=artifact.batch_min, batch_max=artifact.batch_max)
    path, gpu = verify_artifact(bundle, artifact), Gpu(index)
    try:
        engine, _ = _open_engine(ort, path, gpu, options, facts, graphs=True)
        return OrtBaseline(open_pipeline(gpu, engine, bundle, artifact))
    except BaseException:
        gpu.close()
        raise


class OrtBackend(GraphBackend):
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: model with input `image`, uint8 (N, h, w, 3) RGB; h and w are fixed.
        options: device "cpu", "cuda" or "cuda:0"; threads, providers, session options.
        facts: what the bundle says about the file; batch limits matter most.

    Raises:
        BackendUnavailable: ONNX Runtime, or the device asked for, is not there.
        ProviderFallback: the session came back on another device.
        ConfigError: an option ONNX Runtime does not have.
        CorruptArtifact: no ONNX model.
        SchemaMismatch: the model takes something else.
    """

    name = "onnxruntime"
    title = "ONNX Runtime"
    no_memory = ("allocate memory", "out of memory", "bad allocation", "CUDA_ERROR_OUT_OF_MEMORY")

    def __init__(
        self, path: str | Path, options: BackendOptions | None = None, facts: Facts | None = None
    ) -> None:
        path, options = Path(path), options or BackendOptions()
        ort = _runtime()
        session = _open_session(ort, path, _wanted_providers(options), options)
        self._graph = session
        self.provider = session.get_providers()[0]
        self.outputs = tuple(o.name for o in session.get_outputs())
        inputs = session.get_inputs()
        self.input_hw, batch = network_input(path, [_port(each) for each in inputs])
        self._input: str = inputs[0].name
        self.facts = _facts(ort, facts_of_file(path, facts, batch), options)

    def _run(self, graph: Any, chunk: Batch, names: Sequence[str]) -> Outputs:
        return dict(zip(names, graph.run(list(names), {self._input: chunk}), strict=True))


class OrtBaseline:
    """A session that replays its own CUDA graphs."""

    name = "onnxruntime with CUDA graphs"

    def __init__(self, pipeline: DevicePipeline) -> None:
        self.network_ms, self.close = pipeline.network_ms, pipeline.close


class OrtDeviceBackend(DeviceBackend):
    """A session of the CUDA provider on the buffers of a pipeline."""

    title = "ONNX Runtime"


def _open_engine(
    ort: ModuleType,
    path: Path,
    gpu: Gpu,
    options: BackendOptions,
    facts: Facts,
    *,
    graphs: bool = False,
) -> tuple[OrtEngine, Facts]:
    stream, index = gpu.open_stream(), gpu.context.index
    wanted = [(_CUDA, provider_options(index, stream, graphs=graphs)), _CPU]
    session = _open_session(ort, path, wanted, options)
    _, batch = network_input(path, [_port(each) for each in session.get_inputs()])
    facts = _facts(ort, facts_of_file(path, facts, batch), options)
    limits = facts.batch_min, facts.batch_max
    return OrtEngine(ort, session, stream, index=index, batch=limits, graphs=graphs), facts


def _facts(ort: ModuleType, facts: Facts, options: BackendOptions) -> Facts:
    return replace(facts, version=ort.__version__, notes=(*facts.notes, *options.notes))


def _kind(options: BackendOptions) -> str:
    return device_kind(options.device or "cpu", tuple(_DEVICES))


def _runtime() -> ModuleType:
    with importing("onnxruntime", "ONNX Runtime", _INSTALL):
        import onnxruntime
    if not hasattr(onnxruntime, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu is removed after both were there.
        raise BackendUnavailable(
            "ONNX Runtime is half removed; run pip uninstall onnxruntime onnxruntime-gpu, "
            'then pip install "hp-sdk[cpu]" or "hp-sdk[gpu]"'
        )
    return onnxruntime


def _wanted_providers(options: BackendOptions) -> list[Any]:
    if options.providers is not None:
        return list(options.providers)
    if _kind(options) == "cpu":
        return [_CPU]
    # The CPU stands behind CUDA for the few nodes that have no kernel there.
    return [(_CUDA, {"device_id": gpu_index(options.device or "cuda")}), _CPU]


def _open_session(ort: ModuleType, path: Path, wanted: list[Any], options: BackendOptions) -> Any:
    """A session that really has every provider asked for."""
    names = [entry if isinstance(entry, str) else entry[0] for entry in wanted]
    available = ort.get_available_providers()
    unknown = [name for name in names if name not in available]
    if unknown:
        raise Absent(
            f"this ONNX Runtime ({ort.__version__}) has no {', '.join(unknown)}, only "
            f'{", ".join(available)}; pip install "hp-sdk[gpu]", or allow the fallback to the CPU'
        )
    complaint = _load_cuda_libraries(ort) if _CUDA in names else ""
    settings = _session_options(ort, options)
    try:
        with _hushed(ort) if names != [_CPU] else nullcontext():
            session = ort.InferenceSession(str(path), sess_options=settings, providers=wanted)
    except Exception as exc:
        raise _open_error(exc, path, names) from exc
    # onnxruntime-gpu lists CUDA without a GPU and falls back in silence; only the session knows.
    absent = [name for name in names if name not in session.get_providers()]
    if absent:
        raise ProviderFallback(
            f"{', '.join(absent)} did not start: ONNX Runtime {ort.__version__} came back on "
            f"{', '.join(session.get_providers())}{complaint}; check the driver and the CUDA "
            "libraries, or allow the fallback"
        )
    return session


@lru_cache(maxsize=1)
def _load_cuda_libraries(ort: ModuleType) -> str:
    """Load the CUDA libraries that pip installed, where no loader would look; its complaint."""
    if not hasattr(ort, "preload_dlls"):  # before 1.21
        return ""
    said = io.StringIO()
    with redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ort.preload_dlls()
        except Exception as exc:  # noqa: BLE001 - the session says whether it matters
            said.write(first_line(exc))
    first = said.getvalue().strip().partition("\n")[0]
    return f" ({first})" if first else ""


@contextmanager
def _hushed(ort: ModuleType) -> Iterator[None]:
    """No log of a provider that does not start: that is checked and said by us, in one line."""
    if not hasattr(ort, "set_default_logger_severity"):
        yield
        return
    ort.set_default_logger_severity(_NOTHING)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNINGS)  # its default; it does not tell what it had


def _session_options(ort: ModuleType, options: BackendOptions) -> Any:
    own = options.session_options if options.session_options is not None else {}
    if not isinstance(own, Mapping):
        if options.num_threads is not None:
            raise ConfigError("give num_threads or session_options, not both")
        return own
    session_options = ort.SessionOptions()
    session_options.log_severity_level = _ERRORS
    if options.num_threads is not None:
        session_options.intra_op_num_threads = options.num_threads
    for name, value in own.items():
        if not hasattr(session_options, name):
            raise ConfigError(
                f"session_options names {name!r}, which ONNX Runtime's SessionOptions do not have; "
                "allowed are its attributes, such as enable_cpu_mem_arena"
            )
        try:
            setattr(session_options, name, value)
        except TypeError as exc:
            own_type = type(getattr(session_options, name)).__name__
            raise ConfigError(
                f"session_options: {name} cannot be {value!r}; give a value of type {own_type}"
            ) from exc
    return session_options


def _port(given: Any) -> Port:
    text = f"{given.name} {given.type} {given.shape}"
    return Port(text, given.type == "tensor(uint8)", given.shape)


def _open_error(exc: Exception, path: Path, providers: list[str]) -> HpError:
    reason = first_line(exc)
    if type(exc).__name__ in _DAMAGED or _UNREADABLE in reason:
        return CorruptArtifact(
            f"ONNX Runtime cannot read {str(path)!r} ({reason}); fetch or export it again"
        )
    return BackendUnavailable(
        f"ONNX Runtime cannot open {str(path)!r} on {', '.join(providers)}: {reason}"
    )
