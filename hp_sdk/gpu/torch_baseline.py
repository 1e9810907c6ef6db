"""What torch alone makes of the same GPU: its networks and matrix products, to compare with.

The module `torch` is an argument; times are by the device's own clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from statistics import median
from typing import Any

from hp_sdk.errors import BackendError, DeviceOutOfMemory

MATMUL = 8192
"""Rows and columns of the matrices whose float16 product is the peak."""
_WARM_UPS, _RUNS = 5, 20


class TorchBaseline:
    """A torch module in float16 where autocast takes it, on inputs that lie on the GPU.

    Args:
        torch: the module.
        network: uint8 (N, h, w, 3) → tensors, on that GPU.
        input_hw: of the network.
        index: of the GPU.
        compiled: by torch.compile, for the longest search and with CUDA graphs.
    """

    def __init__(
        self, torch: Any, network: Any, *, input_hw: tuple[int, int], index: int, compiled: bool
    ) -> None:
        self.name = "torch compiled fp16" if compiled else "torch eager fp16"
        self._network: Any = network
        if compiled:  # each batch size by itself
            self._network = torch.compile(network, mode="max-autotune", dynamic=False)
        self._torch, self._input_hw, self._device = torch, input_hw, f"cuda:{index}"

    def network_ms(self, count: int, runs: int = _RUNS) -> float:
        """Median time of one run for `count` inputs.

        Raises:
            DeviceOutOfMemory: torch says so.
            BackendError: the network fails.
        """
        torch = self._torch
        try:
            shape = (count, *self._input_hw, 3)
            pixels = torch.zeros(shape, dtype=torch.uint8, device=self._device)
            with torch.inference_mode(), torch.autocast("cuda", torch.float16):
                return median(times_ms(torch, lambda: self._network(pixels), runs))
        except torch.OutOfMemoryError as exc:
            raise DeviceOutOfMemory(f"torch has no memory for a batch of {count}") from exc
        except Exception as exc:  # torch.compile fails in many ways
            said = str(exc).strip().partition("\n")[0]
            raise BackendError(f"{self.name} fails on a batch of {count}: {said}") from exc

    def close(self) -> None:
        """Let go of the network."""
        self._network = None


def matmul_tflops(torch: Any, index: int, size: int = MATMUL) -> float:
    """Rate of one large product of random float16 matrices, the best of a few, in TFLOP/s."""
    a, b = (torch.randn(size, size, device=f"cuda:{index}", dtype=torch.float16) for _ in range(2))
    return 2e-9 * size**3 / min(times_ms(torch, lambda: a @ b, _RUNS))


def times_ms(torch: Any, work: Callable[[], Any], runs: int) -> list[float]:
    """Device time of each run, one after the other, after a warm-up."""
    for _ in range(_WARM_UPS):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(runs + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]
