"""A training run: everything that changes while training, where it is saved, how it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_sdk.files import write_bytes
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    read_checkpoint,
    write_checkpoint,
)
from hp_trainer.config import Config
from hp_trainer.data import configured_path
from hp_trainer.distributed import World, data_parallel, join_world, own_device
from hp_trainer.gradient_layout import keep_gradient_layout
from hp_trainer.new_model import TrainingModel, build_model
from hp_trainer.optimiser import averaged, build_optimiser, gradient_scaler
from hp_trainer.run_log import write_provenance


@dataclass(slots=True)
class Run:
    """State of a run."""

    config: Config
    output: Path
    domains: tuple[Domain, ...]
    model: TrainingModel
    parallel: nn.Module
    """`model`, wrapped when several processes train together."""
    ema: dict[str, Tensor]
    """Averaged weights and batch statistics of `model.net`; empty without averaging."""
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: str
    world: World
    images_per_epoch: int = 0
    step: int = 0
    best: float = -1.0
    """Highest mean mIoU of all validations so far."""

    def save(self) -> Path:
        """Write `last.pt`: the weights that ship, the auxiliary ones, and the state to go on."""
        path = self.output / "last.pt"
        if self.world.leads:
            write_checkpoint(path, self._checkpoint({**self._told(), **self._state()}))
        return path

    def save_best(self, score: float) -> None:
        """Write `best.pt` (weights only) if `score` is the highest so far."""
        if score > self.best:
            self.best = score
            if self.world.leads:
                told = {**self._told(), "score": score}
                write_checkpoint(self.output / "best.pt", self._checkpoint(told))

    def shipping_weights(self) -> dict[str, Tensor]:
        """The averaged weights if there are any, else the current ones."""
        return {**self.model.net.state_dict(), **self.ema}

    def _checkpoint(self, train: dict[str, Any]) -> Checkpoint:
        family, network = describe_network(self.model.net)
        settings = self.config.train
        return Checkpoint(
            family=family,
            config=network,
            domains=self.domains,
            model=self.shipping_weights(),
            aux=self.model.aux.state_dict(),
            input=input_description(settings.input_hw, settings.resize),
            train=train,
        )

    def _told(self) -> dict[str, Any]:
        return {"step": self.step, "config": self.config.to_dict()}

    def _state(self) -> dict[str, Any]:
        return {
            "raw": self.model.net.state_dict() if self.ema else None,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "best": self.best,
        }


def start_run(config: Config, output: Path, resume: Path | None) -> Run:
    """Build model and optimiser; load other weights, or the state of `resume`.

    Raises:
        ConfigError, ModelError: the configuration and the files it names do not fit together.
    """
    settings = config.train
    device = own_device(pick_device(settings.device))
    world = join_world(device)
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    domains = tuple(load_domain(configured_path(name)) for name in config.domains)
    model, notes = build_model(config, domains, resumed=resume is not None)
    model.to(device).to(memory_format=memory_format(config, device, world))  # type: ignore[call-overload]
    keep_gradient_layout(model)
    torch.manual_seed(settings.seed + world.rank)  # drop-path differs between processes
    run = Run(
        config=config,
        output=output,
        domains=domains,
        model=model,
        parallel=data_parallel(model, world),
        ema={k: v.clone() for k, v in averaged(model.net).items()} if settings.ema else {},
        optimiser=build_optimiser(model, settings),
        scaler=gradient_scaler(settings.amp, device),
        device=device,
        world=world,
    )
    if resume:
        restore(run, read_checkpoint(resume))
    if settings.compile:
        for part in model.net.compilable():
            part.compile()
    output.mkdir(parents=True, exist_ok=True)
    if world.leads:
        write_provenance(output, config.to_dict(), device)
        if notes:
            tqdm.write(notes)
            write_bytes(output / "pretrained.txt", (notes + "\n").encode())
    model.train()
    return run


def memory_format(config: Config, device: str, world: World) -> torch.memory_format:
    """Channels last, which is faster, except where it is not safe.

    torch 2.13 on the CPU corrupts its memory in the backward pass of bfloat16 convolutions over a
    single channels-last image (seen with `sst-tiny`).
    """
    one_image = config.data.batch == world.size
    if one_image and config.train.amp != "off" and not device.startswith("cuda"):
        return torch.contiguous_format
    return torch.channels_last


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run back to the step of its checkpoint.

    Raises:
        ConfigError: the checkpoint was stripped and cannot be resumed.
    """
    state = checkpoint.train
    if "optimiser" not in state:
        raise ConfigError("this checkpoint holds no optimiser state; use it as train.init instead")
    run.model.net.load_state_dict(state["raw"] or checkpoint.model)
    run.model.aux.load_state_dict(checkpoint.aux or {})
    run.ema = {key: checkpoint.model[key].to(run.device) for key in run.ema}
    run.optimiser.load_state_dict(state["optimiser"])
    run.scaler.load_state_dict(state["scaler"])
    torch.set_rng_state(state["rng"])
    run.step, run.best = state["step"], state["best"]


def pick_device(device: str) -> str:
    """`auto` is the GPU where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
