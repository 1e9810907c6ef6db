"""What SCHNet takes on the CPU: seconds and memory of a training step, or of its export.

    python scripts/schnet_memory.py kept   [--batch 1] [--recompute] [--frozen-learns]
    python scripts/schnet_memory.py step   [--batch 1] [--recompute] [--frozen-learns]
    python scripts/schnet_memory.py export [--output DIR]
    all: [--preset schnet-l] [--size 480] [--labels cihp] [--json FILE]

`kept` adds up, by shapes alone and in seconds, the activations that wait for the backward pass.
`step` takes one optimiser step. `export` folds and traces the network, writes the ONNX file and
the one with its weights, checks them, asks ONNX Runtime about one picture and compares the answer
with torch's; it ends with 1 if they disagree. Weights are random, none is zero.

Prints one JSON object. `peak_gib` is the largest resident memory of the process, `network_gib` what
was resident before the work began. With one image the norm of the pooled map of one cell takes its
running statistics, because one value has no variance: 512 numbers of the 459 million.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hp_sdk.domains import load_domain
from hp_sdk.files import write_bytes
from hp_trainer.models.schnet.schnet import PRESETS, SCHNet
from hp_trainer.models.sst import MEAN, STD

GIB = 1 << 30

Report = dict[str, Any]


def main() -> int:
    """Do one of the two and say what it took."""
    args = _parser().parse_args()
    report: Report = {key: value for key, value in vars(args).items() if key != "json"}
    ACTIONS[args.action](args, report)
    report |= {"peak_gib": _resident_gib("VmHWM"), "threads": torch.get_num_threads()}
    told = json.dumps(_rounded(report))
    print(told)
    if args.json:
        write_bytes(args.json, f"{told}\n".encode())
    return 0 if report.get("agrees", True) else 1


def train_one_step(args: argparse.Namespace, report: Report) -> None:
    """Forward, backward, AdamW."""
    from hp_trainer.optimiser import OptimiserConfig, build_optimiser
    from hp_trainer.schnet_training import SCHNetTraining

    model = SCHNetTraining(_in_training(args))
    optimiser = build_optimiser(model, OptimiserConfig(lr=6e-4, clip=0.0))
    images = torch.randn(args.batch, 3, args.size, args.size)
    maps = torch.randint(load_domain(args.labels).num_classes, (args.batch, args.size, args.size))
    report["network_gib"] = _resident_gib("VmRSS")
    watch = Watch(report)
    loss = model.losses(images, {args.labels: (torch.arange(args.batch), maps)})["total"]
    watch.note("forward")
    loss.backward()
    watch.note("backward")
    optimiser.step()
    watch.note("update")
    report["loss"] = loss.item()


def add_up_kept(args: argparse.Namespace, report: Report) -> None:
    """Bytes of the storages that a backward pass would read, weights left out."""
    with torch.device("meta"):
        net = _in_training(args)
        image = torch.empty(args.batch, 3, args.size, args.size)
        weights = {p.untyped_storage()._cdata for p in net.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                kept[storage._cdata] = storage
            return value

        run = net._run

        def run_and_keep(step: Callable[..., torch.Tensor], *values: Any) -> torch.Tensor:
            for value in values if args.recompute else ():
                keep(value)  # what a recomputed step starts from
            return run(step, *values)

        net._run = run_and_keep
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net(image)
    sizes = {key: storage.nbytes() for key, storage in kept.items() if key not in weights}
    report["kept_gib"] = sum(sizes.values()) / GIB


def export_once(args: argparse.Namespace, report: Report) -> None:
    """Fold, trace, write, check, run, compare."""
    import onnx

    from hp_export.model_file import write_model
    from hp_export.probes import figure
    from hp_export.to_onnx import to_onnx
    from hp_export.workshop import build_graph
    from hp_sdk.bundle import InputSpec

    size_hw, heads = (args.size, args.size), (args.labels,)
    net, picture = build_network(args).eval(), figure(size_hw)[np.newaxis]
    report["network_gib"] = _resident_gib("VmRSS")
    watch = Watch(report)
    graph = build_graph(net, heads, InputSpec(size_hw=size_hw, mean=MEAN, std=STD), size_hw)
    watch.note("fold")
    model = to_onnx(graph, size_hw)
    watch.note("trace")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        limit = {"limit_bytes": 0} if args.preset == "schnet-tiny" else {}
        files = write_model(folder, "model.onnx", model, **limit)
        report["files"] = {stored.file: stored.size_bytes for stored in files}
        watch.note("write")
        del graph, model
        onnx.checker.check_model(str(folder / "model.onnx"), full_check=True)
        watch.note("check")
        found = _ask_runtime(folder / "model.onnx", picture)
        watch.note("runtime")
    report |= _compared(net, args.labels, picture, found)
    watch.note("torch")


def _ask_runtime(path: Path, picture: Any) -> dict[str, Any]:
    from hp_sdk.backends.base import BackendOptions
    from hp_sdk.backends.ort import OrtBackend

    with closing(OrtBackend(path, BackendOptions(device="cpu"))) as backend:
        return {name: np.array(values) for name, values in backend.run(picture).items()}


def _compared(net: SCHNet, head: str, picture: Any, found: dict[str, Any]) -> Report:
    from hp_export.agreement import TOLERANCES, compare
    from hp_export.graph import output_name
    from hp_export.verify import Reference

    expected = Reference(net, (head,), mean=MEAN, std=STD)(picture)[head]
    agreement = compare(expected, found[output_name(head)], head=head, batch=1)
    return {"agrees": agreement.within(TOLERANCES["fp32"]), "agreement": asdict(agreement)}


def _in_training(args: argparse.Namespace) -> SCHNet:
    learns = {"trainable": ("sam", "clip")} if args.frozen_learns else {}
    net = build_network(args, recompute=args.recompute, **learns).train()
    if args.batch == 1:
        net.decoder.pyramid[net.decoder.scales.index(1)].eval()
    return net


def build_network(args: argparse.Namespace, **changes: Any) -> SCHNet:
    """The preset with random weights."""
    torch.manual_seed(0)
    config = replace(PRESETS[args.preset], text_features="random-orthonormal", **changes)
    return _without_zeros(SCHNet(config, [load_domain(args.labels)]))


@torch.no_grad()
def _without_zeros(net: SCHNet) -> SCHNet:
    """Move what starts as a constant, so that no part is an identity that hides an error."""
    for parameter in net.parameters():
        if parameter.is_meta:
            return net
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            parameter.add_(0.02 * torch.randn_like(parameter))
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return net


class Watch:
    """Seconds of each stage, and the resident memory after it."""

    def __init__(self, report: Report) -> None:
        self._seconds = report.setdefault("seconds", {})
        self._after = report.setdefault("resident_gib", {})
        self._since = time.perf_counter()

    def note(self, stage: str) -> None:
        """A stage has ended."""
        self._seconds[stage] = time.perf_counter() - self._since
        self._after[stage] = _resident_gib("VmRSS")
        print(f"{stage}: {self._seconds[stage]:.0f} s", file=sys.stderr, flush=True)
        self._since = time.perf_counter()


def _resident_gib(key: str) -> float:
    """The kernel's own account of this process: VmRSS is now, VmHWM the most there ever was."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / GIB
    raise RuntimeError(f"/proc/self/status has no {key}; this script needs Linux")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return str(value) if isinstance(value, Path) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=list(ACTIONS))
    parser.add_argument("--preset", default="schnet-l", choices=list(PRESETS))
    parser.add_argument("--size", type=int, default=480, help="edge of the input in pixels")
    parser.add_argument("--labels", default="cihp", help="label domain")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--batch", type=int, default=1, help="images of a step")
    parser.add_argument("--recompute", action="store_true", help="model.recompute = true")
    parser.add_argument("--frozen-learns", action="store_true", help="freeze nothing")
    parser.add_argument("--output", type=Path, metavar="DIR", help="export: keep the files there")
    return parser


ACTIONS: dict[str, Callable[[argparse.Namespace, Report], None]] = {
    "kept": add_up_kept,
    "step": train_one_step,
    "export": export_once,
}


if __name__ == "__main__":
    sys.exit(main())
