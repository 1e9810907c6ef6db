"""ONNX Runtime's CUDA provider on the pipeline's own buffers, bound by address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from hp_sdk.errors import BackendError, DeviceOutOfMemory, SchemaMismatch
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_NO_MEMORY = ("allocate memory", "out of memory", "out_of_memory")


def provider_options(index: int, stream: CudaStream, *, graphs: bool = False) -> dict[str, str]:
    """Options of CUDAExecutionProvider for a session that `OrtEngine` can run."""
    options = {"device_id": str(index), "user_compute_stream": str(stream.handle)}
    return options | {"enable_cuda_graph": "1"} if graphs else options


class OrtEngine:
    """A session whose work goes to one stream of ours; slots are joined to it by events.

    Args:
        ort: the module `onnxruntime`.
        session: opened with `provider_options` of the same GPU and stream.
        stream: that stream.
        index: that GPU.
        batch: smallest and largest.
        graphs: the session was opened with `graphs`, and records a CUDA graph of each set of
            addresses.  For one thread that has the device to itself: ONNX Runtime records in the
            mode in which an allocation of any other thread breaks the recording, keeps graphs per
            thread, and waits for the device in each replay.

    Raises:
        SchemaMismatch: sizes of the model are not fixed, but for the batch.
    """

    scratch_bytes = 0

    def __init__(
        self,
        ort: Any,
        session: Any,
        stream: CudaStream,
        *,
        index: int,
        batch: tuple[int, int],
        graphs: bool = False,
    ) -> None:
        self.session: Any = session
        self.stream, self.index = stream, index
        self.batch_min, self.batch_max = batch
        (image,) = session.get_inputs()
        self.input = str(image.name)
        height, width, _channels = _fixed(image, rank=4)
        self.input_hw = height, width
        self.outputs = {
            str(each.name): Tensor(_fixed(each), np.dtype(_DTYPES[each.type]))
            for each in session.get_outputs()
            if each.type in _DTYPES
        }
        self._ort, self._graphs = ort, graphs
        self._graph_ids: dict[tuple[int, ...], int] = {}
        self.lock = Lock()  # what one slot enqueues stays together

    def open_context(self, scratch: int) -> OrtContext:
        """A binding of its own."""
        del scratch
        return OrtContext(self)

    def run_options(self, bound: tuple[int, ...]) -> Any:
        """Of runs with these addresses, which are one graph where there are graphs."""
        options = self._ort.RunOptions()
        # Enqueue only: events join the streams, and the host does not wait.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            number = self._graph_ids.setdefault(bound, len(self._graph_ids) + 1)
            options.add_run_config_entry("gpu_graph_id", str(number))
        return options

    def close(self) -> None:
        """Free the session."""
        self.session = None


class OrtContext:
    """One binding of addresses."""

    def __init__(self, engine: OrtEngine) -> None:
        self._engine, self._binding = engine, engine.session.io_binding()
        self._bound: tuple[int, ...] = ()
        self._options: Any = None

    def can_capture(self, stream: CudaStream) -> bool:
        """Never from outside: a session may allocate, or enqueue host work, in any run."""
        del stream
        return False

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        """Enqueue the network for `count` inputs (N, h, w, 3) uint8 at `image`.

        Raises:
            DeviceOutOfMemory: ONNX Runtime says so.
            BackendError: it fails.
        """
        engine = self._engine
        try:
            self._bind(count, image, outputs)
            with engine.lock:
                engine.stream.wait(stream.record())
                engine.session.run_with_iobinding(self._binding, self._options)
                stream.wait(engine.stream.record())
        except BackendError:
            raise
        except Exception as exc:
            kind = DeviceOutOfMemory if _is_memory(exc) else BackendError
            said = str(exc).strip().partition("\n")[0]
            raise kind(f"ONNX Runtime does not run a batch of {count}: {said}") from exc

    def _bind(self, count: int, image: int, outputs: Mapping[str, int]) -> None:
        bound = (count, image, *outputs.values())
        if bound == self._bound:
            return
        engine, place = self._engine, ("cuda", self._engine.index)
        shape = (count, *engine.input_hw, 3)
        self._binding.bind_input(engine.input, *place, np.uint8, shape, image)
        for name, pointer in outputs.items():
            tensor = engine.outputs[name]
            shape = (count, *tensor.shape)
            self._binding.bind_output(name, *place, tensor.dtype.type, shape, pointer)
        self._options, self._bound = engine.run_options(bound), bound


def _fixed(port: Any, rank: int | None = None) -> tuple[int, ...]:
    """All sides but the batch."""
    sides: Sequence[Any] = port.shape[1:]
    if not all(isinstance(side, int) for side in sides) or (rank and len(port.shape) != rank):
        raise SchemaMismatch(
            f"the model's {port.name} is {port.shape}; only the batch may be dynamic: export it "
            "with a fixed height and width"
        )
    return tuple(sides)


def _is_memory(exc: Exception) -> bool:
    return any(sign in str(exc).lower() for sign in _NO_MEMORY)
