"""A torch module on the pipeline's own buffers; the module `torch` itself is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hp_sdk.errors import BackendError, DeviceOutOfMemory
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor


class TorchEngine:
    """A module on a GPU, which is run once to learn the shapes of its outputs.

    Args:
        torch: the module.
        network: uint8 (N, h, w, 3) → a tensor, or a tuple of tensors, on the same GPU.
        input_hw: of the network.
        names: of its outputs, in order.
        index: of the GPU.
        batch: smallest and largest.

    Raises:
        DeviceOutOfMemory: not even the smallest batch fits.
        BackendError: the network fails.
    """

    scratch_bytes = 0

    def __init__(
        self,
        torch: Any,
        network: Any,
        *,
        input_hw: tuple[int, int],
        names: Sequence[str],
        index: int = 0,
        batch: tuple[int, int] = (1, 64),
    ) -> None:
        self._network: Any = network
        self._torch, self._device = torch, f"cuda:{index}"
        self.input_hw, self.names = input_hw, tuple(names)
        self.batch_min, self.batch_max = batch
        shape = (self.batch_min, *input_hw, 3)
        probe = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        self.outputs = {
            name: Tensor(tuple(tensor.shape[1:]), _dtype(tensor))
            for name, tensor in zip(self.names, self._answer(probe), strict=True)
        }

    def open_context(self, scratch: int) -> TorchEngine:
        """Itself: a module has no state of its own."""
        del scratch
        return self

    def can_capture(self, stream: CudaStream) -> bool:
        """Never: torch allocates in every run, from a pool that the recording does not own."""
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
        cuda = self._torch.cuda
        with cuda.stream(cuda.ExternalStream(stream.handle, device=self._device)):
            pixels = self._at(image, (count, *self.input_hw, 3), np.dtype(np.uint8))
            for name, tensor in zip(self.names, self._answer(pixels), strict=True):
                mine = self.outputs[name]
                self._at(outputs[name], (count, *mine.shape), mine.dtype).copy_(tensor)

    def close(self) -> None:
        """Let go of the module."""
        self._network = None

    def _answer(self, pixels: Any) -> Sequence[Any]:
        try:
            with self._torch.inference_mode():
                answer = self._network(pixels)
        except self._torch.OutOfMemoryError as exc:
            raise DeviceOutOfMemory(
                f"torch has no memory for a batch of {len(pixels)}; take a smaller batch_size"
            ) from exc
        except Exception as exc:
            said = str(exc).strip().partition("\n")[0]
            raise BackendError(f"torch does not run a batch of {len(pixels)}: {said}") from exc
        return answer if isinstance(answer, (tuple, list)) else (answer,)

    def _at(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A tensor that is the memory at an address."""
        return self._torch.as_tensor(_Address(pointer, shape, dtype), device=self._device)


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
