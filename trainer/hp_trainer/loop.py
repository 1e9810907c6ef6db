"""The training loop, top to bottom. A run resumed at step k equals the run that never stopped."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import (
    Checkpoint,
    describe_network,
    input_description,
    read_checkpoint,
    write_checkpoint,
)
from hp_trainer.config import Config, TrainConfig
from hp_trainer.data import Batch, open_batches
from hp_trainer.evaluate import evaluate_list, input_spec, network_predictor
from hp_trainer.models.sst import SST, normalise
from hp_trainer.training_model import SSTTraining


def train(config: Config, output: Path, *, resume: Path | None = None) -> Path:
    """Train as configured; returns the path of the last checkpoint, `output`/last.pt.

    Raises:
        ConfigError, DataError, ModelNotFound: before any training.
    """
    run = start_run(config, output, resume)
    settings = config.train
    loader = open_batches(config.data, run.domains, seed=settings.seed, start=run.step)
    bar = tqdm(total=settings.steps, initial=run.step, unit="step", disable=None)
    log = StepLog(output / "metrics.csv", settings.log_every)
    for batch in loader:
        if run.step >= settings.steps:
            break
        losses = optimise(run, batch)
        run.step += 1
        bar.update()
        log.add(run.step, losses, run.optimiser.param_groups[0]["lr"])
        if run.step % settings.save_every == 0:
            run.save()
        if settings.eval_every and run.step % settings.eval_every == 0:
            validate(run)
    bar.close()
    path = run.save()
    if not settings.eval_every or run.step % settings.eval_every:
        validate(run)
    return path


@dataclass(slots=True)
class Run:
    """Everything that changes while training, and where it is saved."""

    config: Config
    output: Path
    domains: tuple[Domain, ...]
    model: SSTTraining
    ema: dict[str, Tensor]
    """Averaged weights and batch statistics of `model.net`; empty without averaging."""
    optimiser: torch.optim.Optimizer
    device: str
    step: int = 0

    def save(self) -> Path:
        """Write `last.pt`: the weights that ship, the auxiliary ones, and the state to go on."""
        net = self.model.net
        family, network = describe_network(net)
        path = self.output / "last.pt"
        state = {
            "step": self.step,
            "config": self.config.to_dict(),
            "raw": net.state_dict() if self.ema else None,
            "optimiser": self.optimiser.state_dict(),
            "rng": torch.get_rng_state(),
        }
        write_checkpoint(
            path,
            Checkpoint(
                family=family,
                config=network,
                domains=self.domains,
                model=self.shipping_weights(),
                aux=self.model.aux.state_dict(),
                input=input_description(self.config.train.input_hw),
                train=state,
            ),
        )
        return path

    def shipping_weights(self) -> dict[str, Tensor]:
        """The averaged weights if there are any, else the current ones."""
        return {**self.model.net.state_dict(), **self.ema}


def start_run(config: Config, output: Path, resume: Path | None) -> Run:
    """Build model and optimiser; load the weights of `train.init` or the state of `resume`."""
    settings = config.train
    torch.manual_seed(settings.seed)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    domains = tuple(load_domain(name) for name in config.domains)
    model = SSTTraining(SST(config.model, domains), config.aux)
    if settings.init:
        load_weights(model, read_checkpoint(Path(settings.init)))
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = {k: v.clone() for k, v in averaged(model.net).items()} if settings.ema else {}
    run = Run(config, output, domains, model, ema, build_optimiser(model, settings), device)
    if resume:
        restore(run, read_checkpoint(resume))
    if settings.compile:
        for part in (model.net.backbone, model.net.encoder, model.net.decoder):
            part.compile()
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(), indent=1)
    (output / "config.json").write_text(text + "\n", "utf-8")
    model.train()
    return run


def load_weights(model: SSTTraining, checkpoint: Checkpoint) -> None:
    """Start from a checkpoint: everything of equal name must fit; new domains start fresh.

    Raises:
        ConfigError: the checkpoint is of another network.
    """
    own = model.net.state_dict()
    foreign = [k for k, v in checkpoint.model.items() if k in own and own[k].shape != v.shape]
    missing = [k for k in own if k not in checkpoint.model and not k.startswith("heads.")]
    if foreign or missing:
        raise ConfigError(
            f"train.init holds another network: {len(missing)} tensors missing, {len(foreign)} of "
            f"another shape, first {(missing + foreign)[0]}; use the same preset and model settings"
        )
    model.net.load_state_dict({k: v for k, v in checkpoint.model.items() if k in own}, strict=False)
    aux = model.aux.state_dict()
    kept = {k: v for k, v in (checkpoint.aux or {}).items() if k in aux and aux[k].shape == v.shape}
    model.aux.load_state_dict(kept, strict=False)


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
    torch.set_rng_state(state["rng"])
    run.step = state["step"]


def optimise(run: Run, batch: Batch) -> dict[str, float]:
    """One step; returns the losses."""
    settings, model = run.config.train, run.model
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(settings, run.step) * group["factor"]
    images = normalise(batch.images.to(run.device))
    labels = {
        name: (index.to(run.device), maps.to(run.device).long())
        for name, (index, maps) in batch.labels.items()
    }
    with autocast(settings.amp, run.device):
        losses = model.losses(images, labels)
    if not torch.isfinite(losses["total"]):
        raise ArithmeticError(f"the loss is {losses['total'].item()} at step {run.step}")
    run.optimiser.zero_grad(set_to_none=True)
    losses["total"].backward()
    if settings.clip:
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    run.optimiser.step()
    if run.ema:
        average(run.ema, model.net, min(settings.ema, (run.step + 1) / (run.step + 10)))
    return {name: float(value.detach()) for name, value in losses.items()}


@torch.no_grad()
def average(ema: Mapping[str, Tensor], net: nn.Module, decay: float) -> None:
    """Exponential moving average: ema ← decay · ema + (1 - decay) · net."""
    current = averaged(net)
    for key, value in ema.items():
        value.lerp_(current[key], 1 - decay)


def averaged(net: nn.Module) -> dict[str, Tensor]:
    """What is averaged: weights and batch statistics, which belong together."""
    return {key: value for key, value in net.state_dict().items() if value.is_floating_point()}


def learning_rate(settings: TrainConfig, step: int) -> float:
    """Linear warm-up, then the schedule."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.schedule == "cosine":
        done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if settings.schedule == "step":
        return settings.lr * (0.1 if step >= settings.decay_at * settings.steps else 1.0)
    raise ConfigError(f"train.schedule is {settings.schedule!r}; choose step or cosine")


def build_optimiser(model: SSTTraining, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW; norms, biases and embeddings do not decay, the backbone has its own rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        embedding = name.endswith((".x0", "level_embed", "relative_bias"))
        decays = parameter.ndim > 1 and not embedding
        groups.setdefault((name.startswith("net.backbone."), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "factor": settings.backbone_lr if backbone else 1.0,
            }
            for (backbone, decays), parameters in groups.items()
        ],
        lr=settings.lr,
    )


def pick_device(device: str) -> str:
    """`auto` is the GPU where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast(amp: str, device: str) -> torch.autocast:
    """Autocast context of `train.amp`."""
    kinds = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if amp not in kinds:
        raise ConfigError(f"train.amp is {amp!r}; choose one of {', '.join(kinds)}")
    kind = device.partition(":")[0]
    dtype = kinds[amp] if amp != "off" else torch.bfloat16
    return torch.autocast(kind, dtype=dtype, enabled=amp != "off")


class StepLog:
    """Mean losses of every `every` steps as rows of a CSV file."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.rows: list[dict[str, float]] = []
        self.since = time.perf_counter()

    def add(self, step: int, losses: Mapping[str, float], lr: float) -> None:
        """Keep one step; write a row when `every` are together."""
        self.rows.append(dict(losses))
        if step % self.every:
            return
        seconds = (time.perf_counter() - self.since) / len(self.rows)
        row: dict[str, Any] = {"step": step, "lr": lr, "step_ms": 1e3 * seconds}
        row |= _means(self.rows)
        self._append(row)
        self.rows, self.since = [], time.perf_counter()

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for name, value in row.items():
                writer.writerow([row["step"], name, f"{value:.6g}"])


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(v) / len(v) for name, v in values.items()}


def validate(run: Run) -> dict[str, Any]:
    """Scores of the weights that would ship, on every list of the configuration."""
    net = SST(run.config.model, run.domains)
    net.load_state_dict(run.shipping_weights())
    net.to(run.device).eval()
    spec = input_spec(input_description(run.config.train.input_hw))
    results: dict[str, Any] = {"step": run.step}
    for entry in run.config.validate:
        predict = network_predictor(net, entry.domain, spec, run.device)
        scores = evaluate_list(predict, entry)
        results[f"{Path(entry.root).name}.{entry.domain}"] = scores.to_dict()
        tqdm.write(
            f"step {run.step}  {Path(entry.root).name}/{entry.domain}  "
            f"mIoU {scores.miou_present:.4f}  person IoU {scores.person_iou:.4f}"
        )
    if run.config.validate:
        with (run.output / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(results) + "\n")
    return results
