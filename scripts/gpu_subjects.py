"""What gpu_check.py measures: networks with random weights, and engines of them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hp_sdk.bundle import Artifact, Bundle, HeadSpec, InputSpec, read_bundle, write_manifest
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendUnavailable, ExportError

EXPORT = "from hp_export.cli import main; raise SystemExit(main())"
DOMAIN, SHALLOW = "cihp", 2


def random_bundle(preset: str, size_hw: tuple[int, int], batch: int, target: Path) -> Bundle:
    """A bundle of one torch program with random weights: for times, not for labels."""
    import torch

    from hp_export.graph import HeadGraph, count_macs, output_name
    from hp_export.strip import bare_network, network_to_trace
    from hp_trainer.checkpoint import read_checkpoint

    target.mkdir(parents=True, exist_ok=True)
    checkpoint = read_checkpoint(_write_random(preset, size_hw, target.parent / f"{preset}.pt"))
    network = network_to_trace(bare_network(checkpoint).eval(), size_hw)
    mean, std = (tuple(checkpoint.input[name]) for name in ("mean", "std"))
    spec = InputSpec(size_hw=size_hw, mean=mean, std=std)
    graph = HeadGraph(network, [DOMAIN], mean=spec.mean, std=spec.std).eval()
    image = torch.zeros(SHALLOW, *size_hw, 3, dtype=torch.uint8)
    sizes = ({0: torch.export.Dim("batch", min=1, max=batch)},)
    path = target / "model.pt2"
    torch.export.save(torch.export.export(graph, (image,), dynamic_shapes=sizes), path)
    bundle = Bundle(
        root=target,
        name=f"random-{preset}",
        family=checkpoint.family,
        version="0",
        license="CC0-1.0",
        input=spec,
        heads={DOMAIN: HeadSpec(load_domain(DOMAIN), output_name(DOMAIN))},
        artifacts=(_artifact(path, size_hw, batch, output_name(DOMAIN)),),
        card={"macs": count_macs(network, [DOMAIN], size_hw)},
    )
    write_manifest(bundle, target)
    return read_bundle(target)


def add_onnx(bundle: Bundle, checkpoint: Path, batch: int) -> Bundle:
    """The same network as a float16 ONNX file in the same bundle.

    Raises:
        ExportError: hp-export does not make it.
    """
    folder = bundle.root.with_name(f"{bundle.root.name}-onnx")
    height, width = bundle.input.size_hw
    command = [sys.executable, "-c", EXPORT, str(checkpoint), "-o", str(folder)]
    command += ["--precision", "fp16", "--batch", f"1:{batch}:{batch}"]
    command += ["--size", f"{height}x{width}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise ExportError(f"hp-export does not make it: {told.stderr.strip()[-300:]}")
    made = read_bundle(folder)
    for artifact in made.artifacts:
        for file in (artifact.file, *(data.file for data in artifact.data)):
            (bundle.root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, bundle.root / file)
    both = replace(bundle, artifacts=(*made.artifacts, *bundle.artifacts), input=made.input)
    write_manifest(both, bundle.root)
    return read_bundle(bundle.root)


def add_engine(bundle: Bundle, runtime: str, batch: int) -> Bundle:
    """An engine for batches up to that size, built here and now.

    Raises:
        BackendUnavailable: none can be built here.
    """
    command = [sys.executable, "-m", "hp_export.tensorrt", str(bundle.root), "--format", runtime]
    told = subprocess.run(
        [*command, "--batch", f"1:{batch}:{batch}", "--no-verify"],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        raise BackendUnavailable(f"no engine was built: {told.stderr.strip()[-300:]}")
    return read_bundle(bundle.root)


def _artifact(path: Path, size_hw: tuple[int, int], batch: int, output: str) -> Artifact:
    content = path.read_bytes()
    about: dict[str, Any] = {"precision_asked": "fp32", "precision_found": "fp32"}
    return Artifact(
        runtime="torch",
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        heads=(DOMAIN,),
        batch_min=1,
        batch_opt=batch,
        batch_max=batch,
        size_hw=size_hw,
        outputs=(output,),
        **about,
    )


def _write_random(preset: str, size_hw: tuple[int, int], path: Path) -> Path:
    import torch

    from hp_trainer.checkpoint import (
        Checkpoint,
        describe_network,
        input_description,
        write_checkpoint,
    )
    from hp_trainer.models import PRESETS, new_network

    torch.manual_seed(0)
    domains = (load_domain(DOMAIN),)
    network = new_network(PRESETS[preset], domains)
    family, config = describe_network(network)
    checkpoint = Checkpoint(
        family=family,
        config=config,
        domains=domains,
        input=input_description(size_hw),
        model=network.state_dict(),
    )
    write_checkpoint(path, checkpoint)
    return path
