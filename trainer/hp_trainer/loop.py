"""The training loop, top to bottom. A run resumed at step k equals the run that never stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from hp_sdk.errors import HpError
from hp_trainer.checkpoint import input_description
from hp_trainer.config import Config
from hp_trainer.data import Batch, images_in, open_batches
from hp_trainer.distributed import any_in_world, leave_world, mean_over_world
from hp_trainer.evaluate import evaluate_list, input_spec, network_predictor
from hp_trainer.interrupt import stop_between_steps
from hp_trainer.models import new_network
from hp_trainer.models.sst import normalise
from hp_trainer.optimiser import autocast, average, learning_rate, set_learning_rate
from hp_trainer.run import Run, memory_format, start_run
from hp_trainer.run_log import StepLog, plot_curves
from hp_trainer.sample_sheet import write_sample_sheet


def train(config: Config, output: Path, *, resume: Path | None = None) -> Path:
    """Train as configured; returns the path of the last checkpoint, `output`/last.pt.

    Interrupted (Ctrl-C, SIGTERM) or stopped by a broken image, the run is saved where it stands.

    Raises:
        ConfigError, DataError, ModelNotFound: before any training, or naming the broken file.
        KeyboardInterrupt: the run was interrupted, and saved.
    """
    run = start_run(config, output, resume)
    settings = config.train
    batches = read_batches(run)
    log = StepLog(output / "metrics.csv", settings.log_every)
    bar = tqdm(
        total=settings.steps, initial=run.step, unit="step", disable=not run.world.leads or None
    )
    with stop_between_steps() as stop, bar:
        while run.step < settings.steps:
            losses = optimise(run, next_batch(run, batches))
            run.step += 1
            bar.update()
            if run.world.leads:
                log.add(run.step, losses, run.optimiser.param_groups[0]["lr"])
            if any_in_world(bool(stop), run.world):
                run.save()
                raise KeyboardInterrupt
            if settings.eval_every and run.step % settings.eval_every == 0:
                validate(run)
            if run.step % settings.save_every == 0:
                run.save()
    if not settings.eval_every or run.step % settings.eval_every:
        validate(run)
    path = run.save()
    leave_world(run.world)
    return path


def read_batches(run: Run) -> Iterator[Batch]:
    """This process's share of every batch from the run's step on."""
    run.world.check_batch(run.config.data.batch)
    loader = open_batches(
        run.config.data,
        run.model.known_domains,
        seed=run.config.train.seed,
        start=run.step,
        part=(run.world.rank, run.world.size),
    )
    run.images_per_epoch = images_in(loader)
    return iter(loader)


def next_batch(run: Run, batches: Iterator[Batch]) -> Batch:
    """The next batch; a broken image saves the run before it ends with one clear error."""
    try:
        return next(batches)
    except HpError as exc:
        run.save()
        # a worker process reports its error below a traceback
        reason = str(exc).strip().rpartition("\n")[2].partition(f"{type(exc).__name__}: ")
        raise type(exc)(reason[2] or reason[0]) from exc


def optimise(run: Run, batch: Batch) -> dict[str, float]:
    """One step; returns the losses."""
    settings = run.config.train
    set_learning_rate(run.optimiser, learning_rate(settings, run.step, settings.steps))
    images = normalise(batch.images.to(run.device))
    images = images.contiguous(memory_format=memory_format(run.config, run.device, run.world))
    labels = {
        name: (index.to(run.device), maps.to(run.device).long())
        for name, (index, maps) in batch.labels.items()
    }
    with autocast(settings.amp, run.device):
        losses = run.parallel(images, labels, warm_up=in_warm_up(run))
    if not torch.isfinite(losses["total"]):
        raise ArithmeticError(f"the loss is {losses['total'].item()} at step {run.step}")
    run.optimiser.zero_grad(set_to_none=True)
    run.scaler.scale(losses["total"]).backward()
    run.scaler.unscale_(run.optimiser)
    if settings.clip:
        nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip)
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if run.ema:
        average(run.ema, run.model.net, min(settings.ema, (run.step + 1) / (run.step + 10)))
    return mean_over_world(losses, run.world)


def in_warm_up(run: Run) -> bool:
    """Whether MSA still takes its regions from the labels (register A3)."""
    epochs, data = run.config.aux.gt_warmup_epochs, run.config.data
    return epochs > 0 and run.step * data.batch < epochs * run.images_per_epoch


def validate(run: Run) -> dict[str, Any]:
    """Scores of the weights that would ship, on every list; curves, samples and the best of them.

    With several processes each takes its share of the images.
    """
    if not run.config.validate:
        return {}
    settings = run.config.train
    net = new_network(run.config.model, run.domains)
    net.load_state_dict(run.shipping_weights())
    net.to(run.device).eval()
    spec = input_spec(input_description(settings.input_hw, settings.resize))
    results: dict[str, Any] = {"step": run.step}
    for entry in run.config.validate:
        predict = network_predictor(net, entry.domain, spec, run.device)
        scores = evaluate_list(predict, entry, world=run.world)
        name = f"{Path(entry.root).name}.{entry.domain}"
        results[name] = scores.to_dict()
        if run.world.leads:
            tqdm.write(
                f"step {run.step}  {name}  mIoU {scores.miou_present:.4f}  "
                f"person IoU {scores.person_iou:.4f}"
            )
            if settings.samples:
                sheet = run.output / "samples" / f"{run.step:06d}.{name}.png"
                write_sample_sheet(sheet, predict, entry, settings.samples)
    scored = [entry["miou_present"] for key, entry in results.items() if key != "step"]
    run.save_best(sum(scored) / len(scored))
    if run.world.leads:
        with (run.output / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(results) + "\n")
        plot_curves(run.output)
    return results
