"""A TensorRT engine: 8.6, 10, 11 and TensorRT-RTX by one path.

What a version lacks is found by looking for the name, never by comparing version numbers.  The
module itself is an argument: `hp_sdk.backends` imports it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hp_sdk.errors import BackendUnavailable, ConfigError, SchemaMismatch
from hp_sdk.files import write_bytes
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor
from hp_sdk.gpu.engine_file import Origin, check_origin
from hp_sdk.gpu.trt_log import new_log

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
"""TensorRT's name of a type → NumPy's; others have none there."""

_TROUBLES = {
    "VERSION_MISMATCH": "another version of TensorRT wrote it",
    "UNSUPPORTED_CC": "it is for GPUs of another compute capability",
    "OLD_CUDA_DRIVER": "the driver is too old for it (update that instead)",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is damaged, or no engine of this TensorRT",
    "CUDA_ERROR": "CUDA fails on this machine",
}
"""`EngineInvalidityDiagnostics`, bit by bit."""


class TrtEngine:
    """A deserialised engine, for the GPU whose context is current.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        plan: content of the engine file.
        origin: what is known of the file.
        capability: of the GPU, such as "9.0".
        cache_file: where TensorRT-RTX may keep the kernels it compiles on first use.

    Raises:
        BackendUnavailable: TensorRT does not start.
        EngineIncompatible: the engine does not run here; the message says how to build it again.
        SchemaMismatch: it takes or gives something else than a parsing network.
    """

    def __init__(
        self,
        trt: Any,
        plan: bytes,
        *,
        origin: Origin,
        capability: str,
        cache_file: Path | None = None,
    ) -> None:
        self._engine: Any
        self._trt, self._log = trt, new_log(trt)
        self._runtime = _new_runtime(trt, self._log)
        _check(trt, self._runtime, plan, origin, capability)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None and self._log.lacks_memory():
            raise self._log.failure(f"no room for engine {origin.name!r}")
        if self._engine is None:
            raise origin.refused(self._log.reason())
        inputs, outputs = _names(trt, self._engine)
        self.input = inputs[0] if len(inputs) == 1 else ""
        self.input_hw = _input_hw(self._engine, inputs, origin)
        smallest, usual, largest = self._engine.get_tensor_profile_shape(self.input, 0)
        self.batch_min, self.batch_opt = int(smallest[0]), int(usual[0])
        self.batch_max = int(largest[0])
        self.outputs = {name: _tensor(self._engine, name, origin) for name in outputs}
        self.scratch_bytes = _scratch_bytes(self._engine)
        self._cache_file, self._cache = cache_file, None
        self._config = self._new_config()

    def open_context(self, scratch: int) -> TrtContext:
        """A context whose runs use `scratch_bytes` at that address, one after the other.

        Raises:
            DeviceOutOfMemory: no memory is left for what it needs besides.
            BackendError: TensorRT makes none.
        """
        strategies = getattr(self._trt, "ExecutionContextAllocationStrategy", None)
        if self._config is not None:
            context = self._engine.create_execution_context(self._config)
        elif strategies is not None:
            context = self._engine.create_execution_context(strategies.USER_MANAGED)
        else:
            context = self._engine.create_execution_context_without_device_memory()
        if context is None:
            raise self._log.failure("TensorRT makes no execution context")
        if not self.scratch_bytes:
            return TrtContext(self, context, self._log)
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch, self.scratch_bytes)
        else:
            context.device_memory = scratch
        return TrtContext(self, context, self._log)

    def close(self) -> None:
        """Free the engine, and keep what TensorRT-RTX compiled."""
        if self._cache is not None and self._cache_file is not None:
            with contextlib.suppress(
                ConfigError, OSError
            ):  # a convenience for the next start, no more
                write_bytes(self._cache_file, bytes(memoryview(self._cache.serialize())))
        self._config = self._cache = self._engine = self._runtime = None

    def _new_config(self) -> Any:
        """How contexts are made, where the version has such a thing."""
        if not hasattr(self._engine, "create_runtime_config"):
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            # All kernels at the first run, so that the second can be recorded.
            eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        if hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            if self._cache_file is not None and self._cache_file.is_file():
                self._cache.deserialize(self._cache_file.read_bytes())
            config.set_runtime_cache(self._cache)
        return config


class TrtContext:
    """One execution context."""

    def __init__(self, engine: TrtEngine, context: Any, log: Any) -> None:
        self._engine, self._context, self._log = engine, context, log
        self._bound: tuple[int, ...] = ()

    def can_capture(self, stream: CudaStream) -> bool:
        """Whether `enqueue` may be recorded; TensorRT-RTX may still be compiling."""
        if hasattr(self._context, "is_stream_capturable"):
            return bool(self._context.is_stream_capturable(stream.handle))
        return True

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        """Enqueue the network for `count` inputs (N, h, w, 3) uint8 at `image`.

        Raises:
            DeviceOutOfMemory: TensorRT says so.
            BackendError: it fails.
        """
        self._bind(count, image, outputs)
        if not self._context.execute_async_v3(stream.handle):
            raise self._log.failure(f"TensorRT does not run a batch of {count}")

    def _bind(self, count: int, image: int, outputs: Mapping[str, int]) -> None:
        bound = (count, image, *outputs.values())
        if bound == self._bound:
            return
        name, context = self._engine.input, self._context
        taken = context.set_input_shape(name, (count, *self._engine.input_hw, 3))
        for tensor, pointer in {name: image, **outputs}.items():
            taken = context.set_tensor_address(tensor, pointer) and taken
        if not taken:
            raise self._log.failure(f"TensorRT does not take a batch of {count}")
        self._bound = bound


def _new_runtime(trt: Any, log: Any) -> Any:
    try:
        return trt.Runtime(log)
    except TypeError as exc:  # what the bindings make of a null pointer
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} does not start ({log.reason()}); check the driver"
        ) from exc


def _check(trt: Any, runtime: Any, plan: bytes, origin: Origin, capability: str) -> None:
    """Whether the engine runs here, asked before it is opened."""
    knows = hasattr(runtime, "get_engine_validity")
    check_origin(origin, version=str(trt.__version__), capability=None if knows else capability)
    if not knows:
        return
    validity, bits = runtime.get_engine_validity(plan)
    if validity == trt.EngineValidity.INVALID:
        names: Mapping[str, Any] = trt.EngineInvalidityDiagnostics.__members__
        found = [_TROUBLES.get(name, name) for name, bit in names.items() if int(bits) & int(bit)]
        raise origin.refused(", ".join(found) or "TensorRT does not say why")


def _names(trt: Any, engine: Any) -> tuple[list[str], list[str]]:
    """Inputs and outputs."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    return inputs, [name for name in names if name not in inputs]


def _input_hw(engine: Any, inputs: list[str], origin: Origin) -> tuple[int, int]:
    given = [f"{name} {_kind(engine, name)} {_shape(engine, name)}" for name in inputs]
    if len(inputs) == 1 and _kind(engine, inputs[0]) == "UINT8":
        shape = _shape(engine, inputs[0])
        if len(shape) == 4 and shape[3] == 3 and min(shape[1:]) > 0:
            return shape[1], shape[2]
    raise SchemaMismatch(
        f"engine {origin.name!r} takes {', '.join(given) or 'nothing'}; expected is one UINT8 "
        f"input (N, h, w, 3); build it again: {origin.rebuild}"
    )


def _tensor(engine: Any, name: str, origin: Origin) -> Tensor:
    shape, kind = _shape(engine, name)[1:], _kind(engine, name)
    if kind not in _DTYPES or (shape and min(shape) <= 0):
        raise SchemaMismatch(
            f"engine {origin.name!r} gives {name} {kind} {shape}; expected are "
            f"{', '.join(_DTYPES)} of fixed size; build it again: {origin.rebuild}"
        )
    return Tensor(shape, np.dtype(_DTYPES[kind]))


def _kind(engine: Any, name: str) -> str:
    return str(engine.get_tensor_dtype(name)).rpartition(".")[2]


def _shape(engine: Any, name: str) -> tuple[int, ...]:
    return tuple(int(side) for side in engine.get_tensor_shape(name))


def _scratch_bytes(engine: Any) -> int:
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)
