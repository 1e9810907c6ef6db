"""What training costs: the auxiliary modules beside the bare network, and waiting for data.

    python scripts/bench_training.py aux [--preset sst-r50] [--size 512] [--batch 4] [--rounds 3]
    python scripts/bench_training.py data CONFIG [--steps 40]

`aux` times steps of the multi-data-set baseline and of universal SST in turn, on the same batch of
three domains, each in its own process, and reports the ratio and the peak memory of both.
`data` runs a configuration and reports the share of the time in which a step waits for its batch.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hp_sdk.domains import load_domain
from hp_trainer.auxiliary import AuxConfig
from hp_trainer.config import load_config
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.training_model import SSTTraining

DOMAINS = ("pascal", "atr", "cihp")


def time_steps(preset: str, size: int, batch: int, rounds: int, *, aux: bool) -> dict[str, float]:
    """Median seconds of forward and backward, and the peak memory of the process."""
    torch.manual_seed(0)
    config = AuxConfig() if aux else AuxConfig(topology="none", beta=0.0, lam=0.0)
    net = SST(PRESETS[preset], [load_domain(name) for name in DOMAINS])
    model = SSTTraining(net, config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(batch, 3, size, size)
    labels = {
        name: (
            torch.arange(i, batch, len(DOMAINS)),
            torch.randint(load_domain(name).num_classes, (len(range(i, batch, 3)), size, size)),
        )
        for i, name in enumerate(DOMAINS)
    }
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        model.losses(images, labels)["total"].backward()
        model.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"step_s": statistics.median(seconds[1:]), "peak_mb": peak_mb}


def compare_auxiliary(args: argparse.Namespace) -> None:
    """Bare and universal steps in child processes, in turn."""
    found: dict[str, list[dict[str, float]]] = {"bare": [], "universal": []}
    for _ in range(2):
        for kind in found:
            command = [sys.executable, __file__, "child", kind, args.preset]
            command += [str(args.size), str(args.batch), str(args.rounds)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[kind].append(json.loads(told))
    medians = {
        kind: {key: min(run[key] for run in runs) for key in ("step_s", "peak_mb")}
        for kind, runs in found.items()
    }
    bare, universal = medians["bare"], medians["universal"]
    print(f"{args.preset}, {args.size}x{args.size}, batch {args.batch}, {', '.join(DOMAINS)}")
    for kind, values in medians.items():
        print(f"  {kind:10} {values['step_s']:8.2f} s   {values['peak_mb']:7.0f} MB")
    cost = universal["step_s"] / bare["step_s"] - 1
    print(f"the auxiliary modules cost {100 * cost:.1f} % of a step and "
          f"{universal['peak_mb'] - bare['peak_mb']:.0f} MB")  # fmt: skip


def time_data(args: argparse.Namespace) -> None:
    """Share of the time spent waiting for batches, after the first tenth of the steps."""
    from hp_trainer import loop
    from hp_trainer.cli.train import find_config
    from hp_trainer.run import start_run

    config = load_config(find_config(args.config), [f"train.steps={args.steps}", *args.overrides])
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(config, Path(folder), None)
        batches = loop.read_batches(run)
        waited, worked = [], []
        for _ in range(args.steps):
            start = time.perf_counter()
            batch = loop.next_batch(run, batches)
            ready = time.perf_counter()
            loop.optimise(run, batch)
            run.step += 1
            waited.append(ready - start)
            worked.append(time.perf_counter() - ready)
    skip = args.steps // 10
    wait, work = sum(waited[skip:]), sum(worked[skip:])
    print(f"{args.config}: {1e3 * (wait + work) / (args.steps - skip):.0f} ms per step, "
          f"{100 * wait / (wait + work):.1f} % of it waiting for data")  # fmt: skip


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["child"]:
        kind, preset, *numbers = sys.argv[2:]
        size, batch, rounds = map(int, numbers)
        print(json.dumps(time_steps(preset, size, batch, rounds, aux=kind == "universal")))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(required=True)
    aux = kinds.add_parser("aux")
    aux.add_argument("--preset", default="sst-r50", choices=sorted(PRESETS))
    aux.add_argument("--size", type=int, default=512)
    aux.add_argument("--batch", type=int, default=4)
    aux.add_argument("--rounds", type=int, default=3)
    aux.set_defaults(run=compare_auxiliary)
    data = kinds.add_parser("data")
    data.add_argument("config")
    data.add_argument("overrides", nargs="*")
    data.add_argument("--steps", type=int, default=40)
    data.set_defaults(run=time_data)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
