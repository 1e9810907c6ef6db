"""Torch, for exported programs (`torch.export.save`): the only file of the package that imports it.

A program carries its own graph and weights, so no network of ours is needed to run it.  The format
also has places for pickled objects and compiled libraries, which would run whatever they hold; a
file with any of them is refused unread.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
from hp_sdk.backends.on_device import DeviceBackend, open_on_gpu, open_pipeline
from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import (
    BackendUnavailable,
    ConfigError,
    CorruptArtifact,
    EngineIncompatible,
    HpError,
    SchemaMismatch,
)
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.torch_baseline import TorchBaseline, matmul_tflops
from hp_sdk.gpu.torch_engine import TorchEngine, autocast

_DEVICES = ("cpu", "cuda")
_INSTALL = 'pip install "hp-sdk[torch]"'
_NUMPY_HAS = {"torch.float32", "torch.float16"}
_SAMPLE = r"data/sample_inputs/\w+\.pt"
_CONFIG = r"data/(weights|constants)/\w+_config\.json"
_HARMLESS = re.compile(
    rf"archive_\w+|byteorder|\.data/\w+|models/\w+\.json|{_CONFIG}|{_SAMPLE}"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|extra/.+"
)
"""Members of the archive, below its root folder, that are data."""


def open_artifact(bundle: Bundle, artifact: Artifact, options: BackendOptions) -> FileBackend:
    """Open one exported program of a bundle after comparing it with the manifest.

    On "cuda" it reads and writes the buffers of a pipeline, so that photos stay on the GPU.

    Raises:
        BackendUnavailable: torch, or the device asked for, is not there.
        EngineIncompatible: the program was written by another version of torch.
        ConfigError: an option torch does not have.
        CorruptArtifact: the file is missing or no exported program.
        ChecksumMismatch: the file is truncated or another one.
        SchemaMismatch: inputs or outputs are not those of the manifest.
    """
    torch = _runtime()  # a missing runtime is worth saying before a file is read

    def open_file(path: Path, options: BackendOptions, facts: Facts) -> FileBackend:
        def with_pipeline(gpu: Gpu) -> TorchDeviceBackend:
            program = _Program.open(torch, path, artifact.outputs, options, facts)
            engine = _engine(torch, program, gpu.context.index)
            pipeline = open_pipeline(gpu, engine, bundle, artifact)
            return TorchDeviceBackend(TorchBackend.name, pipeline, program.facts)

        def network_alone(options: BackendOptions) -> FileBackend:
            return TorchBackend(path, artifact.outputs, options, facts)

        _refuse_foreign_options(options)
        if _existing_device(torch, options.device or "cpu") == "cpu":
            return network_alone(options)
        return open_on_gpu(options, with_pipeline=with_pipeline, network_alone=network_alone)

    return open_verified(open_file, bundle, artifact, options)


def describe() -> Installed:
    """Version and devices.

    Raises:
        BackendUnavailable: torch is not there, or broken.
    """
    torch = _runtime()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ("cpu", *(f"cuda:{index}" for index in range(count)))
    return Installed(version=torch.__version__, listed=devices, devices=devices)


def open_baseline(
    bundle: Bundle, artifact: Artifact, index: int, *, compiled: bool
) -> TorchBaseline:
    """The program alone on a GPU in float16, as it is or compiled, to compare with.

    Raises:
        BackendUnavailable: torch or the GPU is not there.
        ModelError: the file is damaged or another one.
    """
    torch = _runtime()
    options = BackendOptions(device=f"cuda:{index}")
    path = verify_artifact(bundle, artifact)
    program = _Program.open(torch, path, artifact.outputs, options, None)
    return TorchBaseline(
        torch, program.module, input_hw=program.input_hw, index=index, compiled=compiled
    )


def matmul_peak(index: int) -> float:
    """Of a float16 product on a GPU, in TFLOP/s.

    Raises:
        BackendUnavailable: torch or the GPU is not there.
    """
    torch = _runtime()
    _existing_device(torch, f"cuda:{index}")
    return matmul_tflops(torch, index)


class TorchBackend(GraphBackend):
    """An exported program on one device.

    Args:
        path: `.pt2` file; its program takes one uint8 (N, h, w, 3) RGB and gives a tensor, a
            tuple of tensors.
        outputs: names of the tensors, in their order.
        options: device "cpu", "cuda" or "cuda:0"; threads, which torch shares in the process.
        facts: what the bundle says about the file; batch limits matter most.

    Raises:
        BackendUnavailable: torch, or the device asked for, is not there.
        EngineIncompatible: the program was written by another version of torch.
        ConfigError: an option torch does not have.
        CorruptArtifact: no exported program.
        SchemaMismatch: the program takes something else, or gives another number of outputs.
    """

    name = "torch"
    title = "torch"
    no_memory = ("OutOfMemoryError", "allocate memory")

    def __init__(
        self,
        path: str | Path,
        outputs: Sequence[str],
        options: BackendOptions | None = None,
        facts: Facts | None = None,
    ) -> None:
        options, torch = options or BackendOptions(), _runtime()
        _refuse_foreign_options(options)
        program = _Program.open(torch, Path(path), outputs, options, facts)
        self._torch, self._graph, self._half = torch, program.module, program.half
        self.provider, self.input_hw = program.device, program.input_hw
        self.outputs, self.facts = program.outputs, program.facts

    def _run(self, graph: Any, chunk: Batch, names: Sequence[str]) -> Outputs:
        with self._torch.inference_mode(), autocast(self._torch, half=self._half):
            # A copy, because torch warns of arrays that cannot be written to.
            pixels = self._torch.from_numpy(np.array(chunk, order="C")).to(self.provider)
            answer = graph(pixels)
            tensors = answer if isinstance(answer, (tuple, list)) else (answer,)
            named = dict(zip(self.outputs, tensors, strict=True))
            return {name: _to_numpy(named[name]) for name in names}


class TorchDeviceBackend(DeviceBackend):
    """An exported program on the buffers of a pipeline."""

    title = "torch"


class _Program(NamedTuple):
    """An exported program, ready to run on its device."""

    module: Any
    device: str
    input_hw: tuple[int, int]
    outputs: tuple[str, ...]
    facts: Facts
    half: bool
    """Computes a program in float32 in float16 where autocast takes it."""

    @classmethod
    def open(
        cls,
        torch: ModuleType,
        path: Path,
        outputs: Sequence[str],
        options: BackendOptions,
        facts: Facts | None,
    ) -> _Program:
        """Read the file, check what it takes and gives, and move it to the device."""
        device = _existing_device(torch, options.device or "cpu")
        program = _load(torch, path)
        input_hw, batch = network_input(path, _ports(program))
        names, facts = _output_names(program, outputs, path), facts_of_file(path, facts, batch)
        half = _computes_in_half(device, options, facts)
        module = _moved(torch, program, device, path)
        notes = (*facts.notes, *options.notes, *_set_threads(torch, options.num_threads))
        precision = options.precision if half else facts.precision
        facts = replace(facts, version=torch.__version__, precision=precision, notes=notes)
        return cls(module, device, input_hw, names, facts, half)


def _computes_in_half(device: str, options: BackendOptions, facts: Facts) -> bool:
    asked = options.precision == "fp16" != facts.precision
    if asked and device == "cpu":
        raise ConfigError("torch computes fp32 in fp16 on cuda only; take precision='auto'")
    return asked


def _engine(torch: ModuleType, program: _Program, index: int) -> TorchEngine:
    return TorchEngine(
        torch,
        program.module,
        input_hw=program.input_hw,
        names=program.outputs,
        index=index,
        batch=(program.facts.batch_min, program.facts.batch_max),
        half=program.half,
    )


def _runtime() -> ModuleType:
    with importing("torch", "torch", _INSTALL):
        import torch
        import torch.export
        import torch.export.passes
    return torch


def _refuse_foreign_options(options: BackendOptions) -> None:
    for name in ("providers", "session_options"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name} is for other runtimes; torch takes device and num_threads")


def _existing_device(torch: ModuleType, device: str) -> str:
    """Torch's name of a device that is there; "cuda" alone is the first."""
    if device_kind(device, _DEVICES) == "cpu":
        return "cpu"
    if not torch.backends.cuda.is_built():
        raise Absent(
            f"this torch ({torch.__version__}) was built without CUDA; install a CUDA build, or "
            "allow the fallback to the CPU"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        raise BackendUnavailable(
            f"torch {torch.__version__} finds {count} CUDA devices, not {device}; check the "
            "driver, or allow the fallback to the CPU"
        )
    return f"cuda:{index}"


def _load(torch: ModuleType, path: Path) -> Any:
    with _withheld("torch.export") as swallowed:
        try:
            _refuse_code(torch, path)
            return torch.export.load(path)
        except HpError:
            raise
        except Exception as exc:
            raise _load_error(torch, path, first_line([*swallowed, exc][0])) from exc


def _load_error(torch: ModuleType, path: Path, reason: str) -> HpError:
    if "version" in reason.lower():
        return EngineIncompatible(
            f"torch {torch.__version__} does not read {str(path)!r} ({reason}); export it again "
            "with this torch"
        )
    return _unreadable(path, reason)


def _refuse_code(torch: ModuleType, path: Path) -> None:
    """Look at every member of the archive before torch unpickles or links one."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.partition("/")[2]
            if not _HARMLESS.fullmatch(name):
                raise _unreadable(path, f"{name!r} may hold code")
            if re.fullmatch(_CONFIG, name):
                _refuse_pickles(json.loads(archive.read(member)), path)
            if re.fullmatch(_SAMPLE, name) and (content := archive.read(member)):
                # torch.export.load would fall back to running the pickle.
                torch.load(io.BytesIO(content), weights_only=True)


def _refuse_pickles(config: Any, path: Path) -> None:
    for name, payload in config["config"].items():
        if payload["use_pickle"] or not re.match("weight_|tensor_", payload["path_name"]):
            raise _unreadable(path, f"{name!r} is pickled, which may hold code")


def _unreadable(path: Path, reason: str) -> CorruptArtifact:
    return CorruptArtifact(f"torch cannot read {str(path)!r} ({reason}); fetch or export it again")


@contextmanager
def _withheld(logger: str) -> Iterator[list[BaseException]]:
    """The exceptions that are logged in the block instead of raised; the log does not show them."""
    swallowed: list[BaseException] = []

    def withhold(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            swallowed.append(record.exc_info[1])
        return False

    logging.getLogger(logger).addFilter(withhold)
    try:
        yield swallowed
    finally:
        logging.getLogger(logger).removeFilter(withhold)


def _ports(program: Any) -> list[Port]:
    names = program.graph_signature.user_inputs
    given = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    kinds = [str(getattr(each, "dtype", "?")) for each in given]
    shapes = [tuple(getattr(each, "shape", ())) for each in given]
    return [
        Port(f"{kind} {shape}", kind == "torch.uint8", shape)
        for kind, shape in zip(kinds, shapes, strict=True)
    ]


def _output_names(program: Any, outputs: Sequence[str], path: Path) -> tuple[str, ...]:
    count = len(program.graph_signature.user_outputs)
    if len(outputs) != count or program.call_spec.out_spec.type is dict:
        raise SchemaMismatch(
            f"{str(path)!r} gives {count} tensors; {len(outputs)} are named "
            f"({', '.join(outputs) or 'none'}), and wanted is a tuple of those; export it again"
        )
    return tuple(outputs)


def _moved(torch: ModuleType, program: Any, device: str, path: Path) -> Any:
    try:
        if device != "cpu":
            program = torch.export.passes.move_to_device_pass(program, device)
        return program.module()
    except Exception as exc:
        raise BackendUnavailable(
            f"torch cannot open {str(path)!r} on {device}: {first_line(exc)}"
        ) from exc


def _set_threads(torch: ModuleType, num_threads: int | None) -> tuple[str, ...]:
    if num_threads is None:
        return ()
    torch.set_num_threads(num_threads)
    return (f"torch computes with {num_threads} threads in this whole process",)


def _to_numpy(tensor: Any) -> NDArray[Any]:
    return (tensor if str(tensor.dtype) in _NUMPY_HAS else tensor.float()).cpu().numpy()
