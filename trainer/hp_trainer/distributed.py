"""Data-parallel training under `torchrun`: one process per device, gradients averaged.

    torchrun --nproc-per-node 2 -m hp_trainer.cli.train CONFIG

Every process draws its share of each batch; process 0 saves, prints and draws the curves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hp_sdk.errors import ConfigError


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process saves and prints."""
        return self.rank == 0

    def check_batch(self, batch: int) -> None:
        """Every process must get the same number of images.

        Raises:
            ConfigError: the batch cannot be split evenly.
        """
        if batch % self.size:
            raise ConfigError(
                f"data.batch is {batch}, but {self.size} processes share it; "
                f"choose a multiple of {self.size}"
            )


ALONE = World()


def join_world(device: str) -> World:
    """Join the group that `torchrun` started, or stand alone."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def leave_world(world: World) -> None:
    """Close the group."""
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: str) -> str:
    """`cuda` becomes the GPU that `torchrun` meant for this process."""
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return device


def data_parallel(model: nn.Module, world: World) -> nn.Module:
    """Wrap a training model so that `backward` averages gradients over the processes.

    A domain may be missing from one process's share of a batch, so parameters may be unused there.
    """
    return DistributedDataParallel(model, find_unused_parameters=True) if world.size > 1 else model


def mean_over_world(losses: Mapping[str, Tensor], world: World) -> dict[str, float]:
    """Losses as numbers, each averaged over the processes that have it."""
    values = {name: float(value.detach()) for name, value in losses.items()}
    if world.size == 1:
        return values
    gathered: list[dict[str, float]] = [{} for _ in range(world.size)]
    dist.all_gather_object(gathered, values)
    names = {name for each in gathered for name in each}
    found = {name: [each[name] for each in gathered if name in each] for name in sorted(names)}
    return {name: sum(each) / len(each) for name, each in found.items()}


def sum_over_world(matrix: np.ndarray, world: World) -> np.ndarray:
    """Counts (...) int64 added up over all processes."""
    if world.size == 1:
        return matrix
    total = torch.from_numpy(matrix.copy())
    if dist.get_backend() == "nccl":
        total = total.cuda()
    dist.all_reduce(total)
    return total.cpu().numpy()


def any_in_world(flag: bool, world: World) -> bool:  # noqa: FBT001 (a value, not an option)
    """Whether any process raised its flag; all of them learn it."""
    if world.size == 1:
        return flag
    return bool(sum_over_world(np.array([int(flag)]), world)[0])
