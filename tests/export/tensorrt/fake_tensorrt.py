"""A stand-in for TensorRT: the names of one version, plans with the right header, and faults.

Copied as `tensorrt.py` or `tensorrt_rtx.py` to where a child process finds it.  The environment
says which version it is (FAKE_VERSION), what goes wrong (FAKE_FAULT) and where builds are counted
(FAKE_BUILDS).  `USED` keeps every name that was looked up and found.
"""

import hashlib
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

__version__ = os.environ.get("FAKE_VERSION", "1.7.1.116")
FAULT = os.environ.get("FAKE_FAULT", "")
RTX = __version__.startswith("1.")
V8, V10 = __version__.startswith("8."), __version__.startswith("10.")
USED: set[str] = set()

if FAULT == "import":
    raise ImportError("libnvinfer.so.11: cannot open shared object file")


class Names(type):
    """Notes which names of a class are used."""

    def __getattribute__(cls, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("_") or name == "__members__":
            note(cls, name)
        return value


class Spy(metaclass=Names):
    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("_"):
            note(type(self), name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if not name.startswith("_"):
            note(type(self), name)


def note(cls: type, name: str) -> None:
    if vars(sys.modules[__name__]).get(cls.__name__) is cls:  # not what others derive from it
        USED.add(f"{cls.__name__}.{name}")


def numbers(name: str, *members: str) -> Any:
    values = {member: index for index, member in enumerate(members)}
    return Names(name, (), values | {"__members__": values})


NetworkDefinitionCreationFlag = numbers(
    "NetworkDefinitionCreationFlag",
    *(["EXPLICIT_BATCH"] if V8 or V10 else ["GAP"]),
    *([] if V8 else ["STRONGLY_TYPED"]),
)
BuilderFlag = numbers("BuilderFlag", "TF32", *(["FP16", "INT8"] if V8 or V10 else []))
TacticSource = numbers("TacticSource", "CUBLAS", "CUBLAS_LT", "CUDNN", "EDGE_MASK_CONVOLUTIONS")
if not (V8 or V10):
    TacticSource = numbers("TacticSource", "EDGE_MASK_CONVOLUTIONS")
MemoryPoolType = numbers("MemoryPoolType", "WORKSPACE")
OnnxParserFlag = numbers("OnnxParserFlag", "NATIVE_INSTANCENORM")
if RTX:
    ComputeCapability = Names(
        "ComputeCapability",
        (),
        (capabilities := {"NONE": 0, "SM75": 75, "SM80": 80, "SM89": 89, "SM120": 120})
        | {"__members__": capabilities},
    )


class ILogger(metaclass=Names):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


if not V8:

    class IProgressMonitor(metaclass=Names):
        pass


class ITensor(Spy):
    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype


class INetworkDefinition(Spy):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._onnx = b""
        self.num_layers = 3

    num_inputs = num_outputs = 1

    def get_input(self, _index: int) -> ITensor:
        return ITensor("image", (-1, 32, 32, 3), "DataType.UINT8")

    def get_output(self, _index: int) -> ITensor:
        return ITensor("logits.pascal", (-1, 7, 8, 8), "DataType.FLOAT")


class ParserError(Spy):
    def desc(self) -> str:
        return "Assertion failed: Plugin not found\n[x.cpp] (cudaError 35: no driver)"

    def node(self) -> int:
        return 2

    if not V8:

        def node_name(self) -> str:
            return "sampler"

        def node_operator(self) -> str:
            return "DeformConv"


class OnnxParser(Spy):
    num_errors = 1

    def __init__(self, network: INetworkDefinition, _log: Any) -> None:
        self._network = network
        self._flags: list[int] = []

    def set_flag(self, flag: int) -> None:
        self._flags.append(flag)

    def parse_from_file(self, path: str) -> bool:
        self._network._onnx = Path(path).read_bytes()
        return FAULT != "parse"

    def get_error(self, _index: int) -> ParserError:
        return ParserError()


class ITimingCache(Spy):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"timed;"


class IOptimizationProfile(Spy):
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self._shapes[name] = shapes


class IBuilderConfig(Spy):
    builder_optimization_level = 3

    def __init__(self) -> None:
        self._flags = {"TF32"}
        self._sources = 0b1111 if V8 or V10 else 0b1
        self._limits: dict[int, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache = ITimingCache(b"")
        self._capabilities: list[int] = [0]
        if not V8:
            self.progress_monitor: Any = None
        if RTX:
            self.num_compute_capabilities = 1

    def _flag(self, value: int) -> str:
        return next(k for k, v in BuilderFlag.__members__.items() if v == value)

    def set_flag(self, flag: int) -> None:
        self._flags.add(self._flag(flag))

    def clear_flag(self, flag: int) -> None:
        self._flags.discard(self._flag(flag))

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self._limits[pool] = size

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_tactic_sources(self, sources: int) -> bool:
        self._sources = sources
        return True

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, content: bytes) -> ITimingCache | None:
        return None if content.startswith(b"damaged") else ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache

    if RTX:

        def set_compute_capability(self, capability: int, index: int) -> bool:
            self._capabilities[index:] = [capability]
            return True


class Builder(Spy):
    last: Any = None
    """Network and configuration of the last build, for tests in the same process."""

    def __init__(self, log: Any) -> None:
        if FAULT == "gpu":
            log.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._log = log

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        type.__setattr__(Builder, "last", (network, config))
        with Path(os.environ.get("FAKE_BUILDS", os.devnull)).open("a") as builds:
            builds.write("build\n")
        run_phases(None if V8 else config.progress_monitor)
        if FAULT == "refuse":
            self._log.log(ILogger.ERROR, "[x.cpp] Error Code 1: Cuda Runtime (cudaError 35: none)")
            self._log.log(ILogger.ERROR, "no runners for node sampler")
            return None
        misbehave()
        shapes = repr([profile._shapes for profile in config._profiles]).encode()
        return plan(hashlib.sha256(network._onnx + shapes).digest() * 8, config._capabilities)


def run_phases(monitor: Any) -> None:
    if monitor is not None:
        monitor.phase_start("Timing tactics", None, 2)
        assert monitor.step_complete("Timing tactics", 0)
        monitor.phase_finish("Timing tactics")


def misbehave() -> None:
    sys.stderr.write("about to compile kernel 7\n")
    sys.stderr.flush()
    if FAULT in ("SIGSEGV", "SIGABRT", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, FAULT))
    if FAULT == "exit":
        os._exit(9)
    if FAULT.startswith("sleep"):
        time.sleep(float(FAULT.partition(" ")[2]))


def plan(payload: bytes, capabilities: list[int]) -> bytes:
    """A plan as far as its header goes."""
    version = bytes(int(number) for number in __version__.split("."))
    bits = {75: 1, 80: 2, 89: 8, 120: 16, 0: 0x7E}
    mask = sum(bits[each] for each in capabilities)
    inner = struct.pack("<4sI", b"vtrt", mask) if RTX else b""
    tag = b"vtrt" if RTX else b"ftrt"
    return (
        struct.pack("<4sIQQ", tag, 0, 2, 28 + len(inner) + len(payload)) + version + inner + payload
    )
