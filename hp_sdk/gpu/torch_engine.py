"""A torch module on the pipeline's own buffers; the module `torch` itself is an argument."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from hp_sdk.errors import BackendError, DeviceOutOfMemory
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor

_log = logging.getLogger(__name__)


class TorchEngine:
    """A module on a GPU, which is run once to learn the shapes of its outputs.

    Args:
        torch: the module.
        network: uint8 (N, h, w, 3) → a tensor, or a tuple of tensors, on the same GPU.
        input_hw: of the network.
        names: of its outputs, in order.
        index: of the GPU.
        batch: smallest and largest.
        graphs: replay the network from a CUDA graph, if it lets itself be recorded.
        half: compute in float16 where autocast takes it.

    Raises:
        DeviceOutOfMemory: not even the smallest batch fits.
        BackendError: the network fails.
    """

    scratch_bytes = 0

    def __init__(  # noqa: PLR0913 - options, by name
        self,
        torch: Any,
        network: Any,
        *,
        input_hw: tuple[int, int],
        names: Sequence[str],
        index: int = 0,
        batch: tuple[int, int] = (1, 64),
        graphs: bool = True,
        half: bool = False,
    ) -> None:
        self._network: Any = network
        self._half = half
        self.torch, self.device, self.graphs = torch, f"cuda:{index}", graphs
        self.input_hw, self.names = input_hw, tuple(names)
        self.batch_min, self.batch_max = batch
        shape = (self.batch_min, *input_hw, 3)
        probe = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        self.outputs = {
            name: Tensor(tuple(tensor.shape[1:]), _dtype(tensor))
            for name, tensor in zip(self.names, self.answer(probe), strict=True)
        }

    def open_context(self, scratch: int) -> TorchContext:
        """Tensors and a graph of its own."""
        del scratch
        return TorchContext(self)

    def close(self) -> None:
        """Let go of the module."""
        self._network = None

    def answer(self, pixels: Any) -> Sequence[Any]:
        """The tensors that the network gives for a batch.

        Raises:
            DeviceOutOfMemory: torch says so.
            BackendError: the network fails.
        """
        try:
            with self.torch.inference_mode(), autocast(self.torch, half=self._half):
                answer = self._network(pixels)
        except self.torch.OutOfMemoryError as exc:
            raise DeviceOutOfMemory(
                f"torch has no memory for a batch of {len(pixels)}; take a smaller batch_size"
            ) from exc
        except Exception as exc:
            said = str(exc).strip().partition("\n")[0]
            raise BackendError(f"torch does not run a batch of {len(pixels)}: {said}") from exc
        return answer if isinstance(answer, (tuple, list)) else (answer,)


class TorchContext:
    """One batch at one set of addresses: run as it is, then recorded, then replayed.

    The recording is torch's own: its graphs keep the memory that a run needs for themselves, so
    that neither another slot nor the caller's torch code gets it.
    """

    def __init__(self, engine: TorchEngine) -> None:
        self._engine, self._graphs = engine, engine.graphs
        self._bound: tuple[int, ...] = ()
        self._pixels: Any = None
        self._targets: list[Any] = []
        self._graph: Any = None
        self._has_run = False

    def can_capture(self, stream: CudaStream) -> bool:
        """Never from outside: torch allocates in a run, from a pool a foreign graph cannot own."""
        del stream
        return False

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        """Enqueue the network for `count` inputs (N, h, w, 3) uint8 at `image`.

        Raises:
            DeviceOutOfMemory: torch says so.
            BackendError: the network fails.
        """
        cuda, device = self._engine.torch.cuda, self._engine.device
        self._bind(count, image, outputs)
        mine = cuda.ExternalStream(stream.handle, device=device)
        with cuda.stream(mine):
            if self._graph is None and self._has_run and self._graphs:
                self._graph = self._recorded(mine, count)
            if self._graph is not None:
                self._graph.replay()
                return
            self._run()
            self._has_run = True

    def _bind(self, count: int, image: int, outputs: Mapping[str, int]) -> None:
        """The buffers as tensors; made once, because a recording takes only work for the device."""
        bound = (count, image, *outputs.values())
        if bound == self._bound:
            return
        engine = self._engine
        self._graph, self._has_run, self._bound = None, False, bound
        self._pixels = self._at(image, (count, *engine.input_hw, 3), np.dtype(np.uint8))
        self._targets = []
        for name in engine.names:
            tensor = engine.outputs[name]
            self._targets.append(self._at(outputs[name], (count, *tensor.shape), tensor.dtype))

    def _run(self) -> None:
        answer = self._engine.answer(self._pixels)
        for target, tensor in zip(self._targets, answer, strict=True):
            target.copy_(tensor)

    def _recorded(self, stream: Any, count: int) -> Any:
        """A graph of the run, or None where it cannot be recorded."""
        cuda = self._engine.torch.cuda
        graph = cuda.CUDAGraph()
        try:
            # Other threads go on allocating meanwhile.
            with cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._run()
        except DeviceOutOfMemory:
            raise
        except (BackendError, RuntimeError) as exc:  # a lost device fails again in the next run
            self._graphs = False
            said = str(exc).strip().partition("\n")[0]
            _log.warning("batches of %d run without a CUDA graph: %s", count, said)
            return None
        return graph

    def _at(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A tensor that is the memory at an address."""
        return self._engine.torch.as_tensor(
            _Address(pointer, shape, dtype), device=self._engine.device
        )


def autocast(torch: Any, *, half: bool) -> AbstractContextManager[Any]:
    """Float16 on a GPU inside the block, or everything as it is."""
    return torch.autocast("cuda", torch.float16) if half else nullcontext()


class _Address:
    """Device memory, as torch reads it."""

    def __init__(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (pointer, False),
            "version": 3,
        }


def _dtype(tensor: Any) -> np.dtype[Any]:
    """Scores in float16 stay so; anything else with a sign is copied to float32."""
    name = str(tensor.dtype).rpartition(".")[2]
    return np.dtype(name if name in ("float16", "uint8") else "float32")
