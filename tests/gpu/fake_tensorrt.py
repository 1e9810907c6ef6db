"""A stand-in for TensorRT's runtime, of one version; its work goes through the CUDA driver.

A plan is JSON.  The network copies fixed scores, those of its place in the batch, so that graphs,
streams and addresses are really used.  `used` keeps every name that was looked up and found.
"""

from __future__ import annotations

import json
from ctypes import c_size_t, c_uint64, c_void_p
from types import SimpleNamespace
from typing import Any

import numpy as np

from hp_sdk.gpu import driver
from hp_sdk.gpu.device import Gpu


def plan_of(outputs: dict[str, list[int]], *, version: str = "10.16.1.11", **changes: Any) -> bytes:
    """A plan for uint8 inputs (N, 64, 96, 3), with these outputs per input."""
    plan = {
        "version": version,
        "capability": "9.0",
        "input": [-1, 64, 96, 3],
        "type": "UINT8",
        "batch": [1, 2, 4],
        "outputs": outputs,
        "scores": "FLOAT",
    }
    return json.dumps(plan | changes).encode()


def table_of(name: str, shape: list[int], place: int) -> np.ndarray:
    """What the network answers to input number `place` of a batch."""
    rng = np.random.default_rng([place, *name.encode()])
    return rng.normal(0, 3, shape).astype(np.float32)


class Spy:
    """Notes which names are used."""

    used: set[str]

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("_") and name != "used":
            self.used.add(f"{type(self).__name__}.{name}")
        return value


def make_trt(version: str, gpu: Gpu, *, fault: str = "") -> Any:  # noqa: C901 - one module
    """The module of one version: 8.6, 10, 11, or 1.7 for RTX."""
    rtx, old = version.startswith("1."), version.startswith("8.")
    used: set[str] = set()
    base = type("Spy", (Spy,), {"used": used})

    class Named:
        """A member of an enumeration."""

        def __init__(self, kind: str, name: str, value: int) -> None:
            self.kind, self.name, self.value = kind, name, value

        def __str__(self) -> str:
            return f"{self.kind}.{self.name}"

        def __int__(self) -> int:
            return self.value

    def names(kind: str, *members: str, bits: bool = False) -> Any:
        found = {n: Named(kind, n, 1 << i if bits else i) for i, n in enumerate(members)}

        class Enumeration(base):
            def __getattribute__(self, name: str) -> Any:
                if name == "__members__":
                    return found
                if name not in found:
                    raise AttributeError(name)
                used.add(f"{kind}.{name}")
                return found[name]

        return Enumeration()

    class ILogger:
        ERROR, INTERNAL_ERROR, INFO = "error", "internal error", "info"

    class Memory:
        """A block that TensorRT owns."""

        def __init__(self, values: np.ndarray) -> None:
            self.block = gpu.allocator.allocate(values.nbytes)
            gpu.open_stream().upload(self.block.pointer, np.ascontiguousarray(values))

    class IExecutionContext(base):
        def __init__(self, engine: Any) -> None:
            self._engine, self._addresses, self._count = engine, {}, 0

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            smallest, _usual, largest = self._engine._plan["batch"]
            self._count = shape[0]
            fits = smallest <= shape[0] <= largest
            return fits and list(shape[1:]) == self._engine._plan["input"][1:]

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def set_device_memory(self, memory: int, size: int) -> None:
            assert memory
            assert memory % 256 == 0
            assert size == 4096

        def execute_async_v3(self, stream_handle: int) -> bool:
            if fault == "run":
                self._engine._log.log(ILogger.ERROR, "Cask: no kernel image")
                return False
            copies = [(self._engine._seen.pointer, self._addresses["image"], 64 * 96 * 3)]
            for name in self._engine._plan["outputs"]:
                source = self._engine._tables[name].block
                size = source.size_bytes // 4 * self._count
                copies.append((self._addresses[name], source.pointer, size))
            for target, origin, size in copies:
                driver.check(
                    driver.load_driver().cuMemcpyDtoDAsync_v2(
                        *(c_uint64(target), c_uint64(origin), c_size_t(size)),
                        c_void_p(stream_handle),
                    )
                )
            return True

        if rtx:

            def is_stream_capturable(self, stream: int) -> bool:
                return True

        if old:
            device_memory = property(None, lambda self, memory: None)

    if old:
        del IExecutionContext.set_device_memory

    class IRuntimeCache(base):
        _kernels = b"kernels"

        def serialize(self) -> bytes:
            return self._kernels

        def deserialize(self, content: bytes) -> bool:
            self._kernels = content + b" again"
            return True

    class IRuntimeConfig(base):
        def __init__(self) -> None:
            self.strategy = None
            if rtx:
                self.dynamic_shapes_kernel_specialization_strategy = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            assert strategy.name == "USER_MANAGED"

        if rtx:

            def create_runtime_cache(self) -> IRuntimeCache:
                return IRuntimeCache()

            def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
                return True

    class ICudaEngine(base):
        def __init__(self, plan: dict[str, Any], log: Any) -> None:
            self._plan, self._log = plan, log
            self._seen = gpu.allocator.allocate(64 * 96 * 3)
            kind = np.float16 if plan["scores"] == "HALF" else np.float32
            self._tables = {
                name: Memory(np.stack([table_of(name, shape, i) for i in range(4)]).astype(kind))
                for name, shape in plan["outputs"].items()
            }

        @property
        def num_io_tensors(self) -> int:
            return 1 + len(self._plan["outputs"])

        def get_tensor_name(self, index: int) -> str:
            return ["image", *self._plan["outputs"]][index]

        def get_tensor_mode(self, name: str) -> Any:
            modes = module.TensorIOMode
            return modes.INPUT if name == "image" else modes.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            kind = self._plan["type"] if name == "image" else self._plan["scores"]
            return Named("DataType", kind, 0)

        def get_tensor_shape(self, name: str) -> list[int]:
            return self._plan["input"] if name == "image" else [-1, *self._plan["outputs"][name]]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
            return [[count, *self._plan["input"][1:]] for count in self._plan["batch"]]

        def create_execution_context(self, how: Any) -> Any:
            if fault == "memory":
                self._log.log(ILogger.ERROR, "Cuda Runtime (out of memory)")
                return None
            return IExecutionContext(self)

        if old:
            device_memory_size = 4096

            def create_execution_context_without_device_memory(self) -> IExecutionContext:
                return IExecutionContext(self)
        else:
            device_memory_size_v2 = 4096
        if not old and not version.startswith("10.0."):  # younger than the names beside it

            def create_runtime_config(self) -> IRuntimeConfig:
                return IRuntimeConfig()

    if old:
        del ICudaEngine.create_execution_context

    class Runtime(base):
        def __init__(self, log: Any) -> None:
            self._log = log

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            try:
                plan = json.loads(serialized_engine)
            except ValueError:
                self._log.log(ILogger.INFO, "Loaded engine size: 0 MiB")
                self._log.log(ILogger.ERROR, "Serialization assertion failed. Magic tag")
                return None
            return ICudaEngine(plan, self._log)

        if rtx:

            def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
                try:
                    plan = json.loads(buffer)
                except ValueError:
                    return module.EngineValidity.INVALID, 32
                wrong = (plan["version"] != version) + 2 * (plan["capability"] != "9.0")
                good, bad = module.EngineValidity.VALID, module.EngineValidity.INVALID
                return (bad, wrong) if wrong else (good, 0)

    module = SimpleNamespace(
        __version__=version,
        USED=used,
        ILogger=ILogger,
        Runtime=Runtime,
        TensorIOMode=names("TensorIOMode", "NONE", "INPUT", "OUTPUT"),
    )
    if not old:
        module.ExecutionContextAllocationStrategy = names(
            "ExecutionContextAllocationStrategy", "STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"
        )
    if rtx:
        module.EngineValidity = names("EngineValidity", "VALID", "SUBOPTIMAL", "INVALID")
        module.EngineInvalidityDiagnostics = names(
            "EngineInvalidityDiagnostics",
            *("VERSION_MISMATCH", "UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "OLD_CUDA_RUNTIME"),
            *("INSUFFICIENT_GPU_MEMORY", "MALFORMED_ENGINE", "CUDA_ERROR"),
            bits=True,
        )
        module.DynamicShapesKernelSpecializationStrategy = names(
            "DynamicShapesKernelSpecializationStrategy", "LAZY", "EAGER", "NONE"
        )
    return module
