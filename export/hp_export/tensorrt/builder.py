"""One ONNX file becomes one plan: the same steps for TensorRT 8.6, 10, 11 and TensorRT-RTX.

What a version lacks is found by looking for the name, never by comparing version numbers.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hp_export.tensorrt.library import Refusal, capability_member

Tell = Callable[[dict[str, Any]], None]

_NOISE = ("cudaError 35", "error: 35", "Cuda Runtime (In catchCudaError")
"""Said at every turn on a machine without a driver, whatever the real trouble is."""


def build_plan(trt: Any, request: Mapping[str, Any], tell: Tell) -> tuple[Any, dict[str, Any]]:
    """The plan (a buffer) and what the network turned out to be.

    `request`: onnx, profile {input: {min, opt, max}}, compute_capabilities, workspace_bytes,
    optimization_level, tf32, weak_flags, timing_cache.

    Raises:
        Refusal: no GPU where one is needed, or a graph that TensorRT does not take.
    """
    log = _new_log(trt)
    builder = _new_builder(trt, log)
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, log, request["onnx"])
    config = builder.create_builder_config()
    _configure(trt, config, request)
    _set_capabilities(trt, config, request["compute_capabilities"])
    _add_profile(builder, network, config, request["profile"])
    monitor = _watch(trt, config, tell)  # the library does not keep it alive
    save_timings = _use_timings(config, request["timing_cache"])
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        raise Refusal("graph", f"{_title(trt)} builds no engine: {log.reason()}")
    save_timings()
    return plan, _facts(network)


def _new_log(trt: Any) -> Any:
    """A logger that keeps errors for us and shows them, with warnings, on stderr."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            if severity not in (trt.ILogger.INFO, trt.ILogger.VERBOSE):
                sys.stderr.write(f"{msg}\n")
                sys.stderr.flush()

        def reason(self) -> str:
            return _first_words(self.errors) or "it does not say why"

    return Log()


def _new_builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as exc:  # what the bindings make of a null pointer
        raise Refusal(
            "gpu",
            f"{_title(trt)} builds only on a machine with a GPU and driver "
            f"({log.reason()}); write a kit for the target machine instead (--defer)",
        ) from exc


def _title(trt: Any) -> str:
    return f"{trt.__name__} {trt.__version__}"


def _network_flags(trt: Any) -> int:
    known = trt.NetworkDefinitionCreationFlag
    names = [name for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(known, name)]
    return sum(1 << int(getattr(known, name)) for name in names)


def _parse(trt: Any, network: Any, log: Any, onnx: str) -> None:
    parser = trt.OnnxParser(network, log)
    native = getattr(getattr(trt, "OnnxParserFlag", None), "NATIVE_INSTANCENORM", None)
    if native is not None:  # otherwise 8.6 takes a plugin that needs cuDNN
        parser.set_flag(native)
    if parser.parse_from_file(onnx):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = _explain(errors[0]) if errors else log.reason()
    raise Refusal("graph", f"{_title(trt)} does not take {Path(onnx).name}: {told}")


def _explain(error: Any) -> str:
    """One parser error in one sentence, with the node it is about."""
    said = _first_words(error.desc().splitlines()) or str(error.desc())
    if not hasattr(error, "node_name"):  # TensorRT 8.6 knows the position only
        return f"node {error.node()}: {said}"
    return f"node {error.node_name()!r} ({error.node_operator()}): {said}"


def _configure(trt: Any, config: Any, request: Mapping[str, Any]) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace_bytes"])
    if request["optimization_level"] is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = request["optimization_level"]
    flag = trt.BuilderFlag
    if hasattr(flag, "TF32") and not request["tf32"]:
        config.clear_flag(flag.TF32)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        # 8.6 may use a type of the graph only if a flag allows it.
        for name in request["weak_flags"]:
            if hasattr(flag, name):
                config.set_flag(getattr(flag, name))
    _without_foreign_tactics(trt, config)


def _without_foreign_tactics(trt: Any, config: Any) -> None:
    """No cuBLAS or cuDNN: the engine needs TensorRT's own libraries only, as from 11 on."""
    sources = config.get_tactic_sources()
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    config.set_tactic_sources(sources)


def _set_capabilities(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    """None is a portable engine with TensorRT-RTX, the GPU at hand with classic TensorRT."""
    if not capabilities:
        return
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if not config.set_compute_capability(capability_member(trt, capability), index):
            raise Refusal("option", f"TensorRT refuses compute capability {capability}")


def _add_profile(
    builder: Any, network: Any, config: Any, shapes: Mapping[str, Mapping[str, Sequence[int]]]
) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        sizes = shapes[name]
        profile.set_shape(name, *(tuple(sizes[key]) for key in ("min", "opt", "max")))
    if config.add_optimization_profile(profile) < 0:
        raise Refusal("graph", f"TensorRT refuses the optimisation profile {dict(shapes)}")


def _watch(trt: Any, config: Any, tell: Tell) -> Any:
    """Report phases and steps of the build, where the version can."""
    if not (hasattr(trt, "IProgressMonitor") and hasattr(config, "progress_monitor")):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self.steps[phase_name] = num_steps
            tell({"phase": phase_name, "step": 0, "steps": num_steps})

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell({"phase": phase_name, "step": step + 1, "steps": self.steps.get(phase_name, 0)})
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    config.progress_monitor = monitor = Monitor()
    return monitor


def _use_timings(config: Any, path: str | None) -> Callable[[], None]:
    """Start from the timings of earlier builds; the function that keeps them for later ones."""
    if path is None or not hasattr(config, "create_timing_cache"):
        return lambda: None
    file = Path(path)
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if cache is None:  # damaged, or of another version
        cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        return lambda: None

    def save() -> None:
        temporary = file.with_name(f".{file.name}.tmp")
        with contextlib.suppress(OSError):  # a convenience for the next build, no more
            temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
            temporary.replace(file)

    return save


def _facts(network: Any) -> dict[str, Any]:
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return {
        "layers": network.num_layers,
        "outputs": {
            tensor.name: {"dtype": _dtype(tensor), "shape": [int(size) for size in tensor.shape]}
            for tensor in outputs
        },
    }


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2].lower()


def _first_words(messages: Sequence[str]) -> str:
    """The first message that is about the matter; two lines of it at most."""
    lines = [line.strip() for text in messages for line in text.splitlines() if line.strip()]
    matter = [line for line in lines if not any(noise in line for noise in _NOISE)]
    return " ".join((matter or lines)[:2])
