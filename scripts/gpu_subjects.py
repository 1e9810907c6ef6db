"""What gpu_check.py measures: networks with random weights, engines, and torch for comparison."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hp_sdk.bundle import Bundle, read_bundle
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendUnavailable, ExportError

MATMUL, RUNS = 8192, 20
EXPORT = "from hp_export.cli import main; raise SystemExit(main())"


def random_bundle(
    preset: str, size: str, precision: str, batch: int, folder: Path
) -> tuple[Bundle, Path]:
    """A bundle of a preset with random weights, and its checkpoint: for times, not for labels.

    Raises:
        ExportError: hp-export does not make it.
    """
    checkpoint, target = folder / "random.pt", folder / "bundle"
    _write_random(preset, size, checkpoint)
    command = [sys.executable, "-c", EXPORT, str(checkpoint), "-o", str(target)]
    command += ["--precision", precision, "--batch", f"1:{batch}:{batch}", "--size", size]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise ExportError(f"preset {preset} cannot be exported: {told.stderr.strip()[-300:]}")
    return read_bundle(target), checkpoint


def with_engine(bundle: Bundle, runtime: str, batch: int, target: Path) -> Bundle:
    """A copy of the bundle with an engine for batches up to that size.

    Raises:
        BackendUnavailable: none can be built here.
    """
    shutil.copytree(bundle.root, target)
    command = [sys.executable, "-m", "hp_export.tensorrt", str(target), "--format", runtime]
    told = subprocess.run(
        [*command, "--batch", f"1:{batch}:{batch}", "--no-verify"],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise BackendUnavailable(f"no engine was built: {told.stderr.strip()[-300:]}")
    return read_bundle(target)


def torch_rates(bundle: Bundle, checkpoint: Path, batch: int) -> dict[str, float]:
    """Photos per second in torch, float16 where autocast takes it: eager, and compiled."""
    import torch

    from hp_export.graph import HeadGraph
    from hp_export.strip import bare_network, network_to_trace
    from hp_trainer.checkpoint import read_checkpoint

    spec = bundle.input
    network = network_to_trace(bare_network(read_checkpoint(checkpoint)), spec.size_hw)
    graph: Any = HeadGraph(network, list(bundle.heads), mean=spec.mean, std=spec.std).eval().cuda()
    graph = graph.to(memory_format=torch.channels_last)
    compiled = torch.compile(graph, mode="max-autotune")  # with CUDA graphs
    pixels = torch.zeros((batch, *spec.size_hw, 3), dtype=torch.uint8, device="cuda")
    with torch.inference_mode(), torch.autocast("cuda", torch.float16):
        return {
            f"{name}_fp16_photos_per_s": 1e3
            * batch
            / float(np.median(_times(partial(run, pixels))))
            for name, run in (("eager", graph), ("compiled", compiled))
        }


def matmul_peak() -> float:
    """Of one large product in float16, the best of many, in TFLOP/s."""
    import torch

    a = torch.randn(MATMUL, MATMUL, device="cuda", dtype=torch.float16)
    return 2 * MATMUL**3 / min(_times(lambda: a @ a)) / 1e9


def _times(work: Callable[[], Any]) -> list[float]:
    """Device milliseconds of each run, after a warm-up."""
    import torch

    for _ in range(5):
        work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


def _write_random(preset: str, size: str, path: Path) -> None:
    import torch

    from hp_trainer.checkpoint import (
        Checkpoint,
        describe_network,
        input_description,
        write_checkpoint,
    )
    from hp_trainer.models import PRESETS, new_network

    torch.manual_seed(0)
    domains = (load_domain("cihp"),)
    network = new_network(PRESETS[preset], domains)
    family, config = describe_network(network)
    height, width = (int(side) for side in size.split("x"))
    checkpoint = Checkpoint(
        family=family,
        config=config,
        domains=domains,
        input=input_description((height, width)),
        model=network.state_dict(),
    )
    write_checkpoint(path, checkpoint)
