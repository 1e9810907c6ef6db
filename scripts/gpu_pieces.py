"""The pieces of gpu_check.py, each for a process of its own: what they find is JSON."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gpu_subjects import add_engine, add_onnx, random_bundle
from gpu_supervise import MISSING, is_missing

from hp_sdk import Parser
from hp_sdk.backends import describe_backend, open_backend
from hp_sdk.bundle import Bundle, read_bundle
from hp_sdk.cli.bench import main as hp_bench
from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu.compiler import nvrtc_version
from hp_sdk.gpu.decoder import decoded, open_decoder
from hp_sdk.gpu.device import ALLOCATORS, Gpu, open_allocator
from hp_sdk.gpu.sensors import read_sensors
from hp_sdk.gpu.timing import copy_rates
from hp_sdk.image import Pixels
from hp_sdk.models import find_bundle

REPOSITORY = Path(__file__).resolve().parents[1]
MODULES = (
    *("torch", "triton", "onnxruntime", "tensorrt", "tensorrt_rtx", "nvidia.nvimgcodec"),
    *("cuda.core", "cupy", "pycuda", "cv2", "numpy", "pytest"),
)
ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime", "torch")
BUNDLED, PHOTO_SIZE = "bundled", "1024x768"


def attempt(work: Callable[[], Any]) -> Any:
    """What `work` gives, or why it does not."""
    try:
        return work()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - what is missing is named
        return {MISSING: " ".join(f"{type(exc).__name__}: {exc}".split())[:600]}


def host(args: argparse.Namespace) -> dict[str, Any]:
    """What is there."""
    gpu = Gpu(args.device)
    found = {
        "gpu": gpu.context.name,
        "capability": ".".join(map(str, gpu.context.capability)),
        "memory_bytes": gpu.context.memory()[1],
        "sensors": attempt(lambda: asdict(read_sensors(args.device))),
        "driver": attempt(_driver),
        "nvrtc": attempt(nvrtc_version),
        "modules": {name: attempt(lambda name=name: version_of(name)) for name in MODULES},
        "memory": {name: attempt(lambda name=name: works(name, args)) for name in ALLOCATORS},
        "decoder": attempt(lambda: open_decoder("nvimgcodec", device=args.device).name),
    }
    gpu.close()
    return found


def version_of(module: str) -> str:
    """Of something that can be imported."""
    return str(getattr(importlib.import_module(module), "__version__", "?"))


def works(name: str, args: argparse.Namespace) -> bool:
    """Whether device memory can be had from there."""
    return open_allocator(args.device, memory=name).allocate(1 << 20).pointer > 0


def tests(args: argparse.Namespace) -> dict[str, Any]:
    """What `pytest -m gpu` says."""
    del args
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rfEs"]
    told = subprocess.run(
        [*command, "tests/gpu", "tests/sdk/test_torch_backend.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode not in (0, 1):
        raise BackendUnavailable(f"pytest ends with {told.returncode}: {told.stderr[-300:]}")
    lines = [*told.stdout.strip().splitlines(), *told.stderr.strip().splitlines()[-5:]]
    return {"exit_code": told.returncode, "says": lines[-1:], "tail": lines[-60:]}


def peaks(args: argparse.Namespace) -> dict[str, Any]:
    """Copies and the matrix product."""
    torch = importlib.import_module("hp_sdk.backends.torch")
    return {
        "copies_gb_per_s": attempt(lambda: asdict(copy_rates(Gpu(args.device)))),
        "matmul_fp16_tflop_per_s": attempt(lambda: torch.matmul_peak(args.device)),
    }


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """A bundle of the model with random weights: for torch, and for what else is installed."""
    preset, size_hw, largest = args.preset, args.size_hw, max(args.batch)
    folder = args.work / "bundles" / preset
    bundle = random_bundle(preset, size_hw, largest, folder)
    found: dict[str, Any] = {"torch": "written", "macs": bundle.card["macs"]}
    if _wants_onnx():
        checkpoint = folder.parent / f"{preset}.pt"
        found["onnx"] = attempt(lambda: add_onnx(bundle, checkpoint, largest).name and "written")
    return found


def engine(args: argparse.Namespace) -> dict[str, Any]:
    """A TensorRT engine for the model's bundle."""
    module = ENGINES[args.runtime]
    if importlib.util.find_spec(module) is None:
        raise BackendUnavailable(f"{module} is not installed")
    start = time.perf_counter()
    add_engine(_bundle(args), args.runtime, max(args.batch))
    return {"built_s": time.perf_counter() - start}


def agree(args: argparse.Namespace) -> dict[str, Any]:
    """Share of the labels that each runtime gives as the CPU does."""
    bundle = _bundle(args)
    pictures = [picture(700 + 40 * i, 500 + 90 * i, seed=i) for i in range(3)]
    with Parser.load(bundle.root, device="cpu") as parser:
        expected = [result.labels for result in parser.predict(pictures, batch_size=2)]
    there = {artifact.runtime for artifact in bundle.artifacts}
    reads = {"onnxruntime": "onnx"}
    found: dict[str, Any] = {}
    for name in (name for name in RUNTIMES if reads.get(name, name) in there):
        found[name] = attempt(lambda name=name: _agreement(bundle, name, args, pictures, expected))
    return found


def bench(args: argparse.Namespace) -> dict[str, Any]:
    """hp-bench: all runtimes that open, in turns, with torch and ONNX Runtime alone beside them."""
    bundle = _bundle(args)
    tried = {name: attempt(lambda name=name: _opens(bundle, name, args)) for name in RUNTIMES}
    usable = [name for name, found in tried.items() if not is_missing(found)]
    if not usable:
        return {"absent": tried, MISSING: "no runtime works on this GPU with this bundle"}
    found = _hp_bench(bundle, usable, args.batch, "eager,onnxruntime", args)
    return found | {"absent": {name: why for name, why in tried.items() if is_missing(why)}}


def compiled(args: argparse.Namespace) -> dict[str, Any]:
    """Torch's network by torch.compile, beside the same in the pipeline."""
    return _hp_bench(_bundle(args), ["torch"], args.batch, "compiled", args)


def jpeg(args: argparse.Namespace) -> dict[str, Any]:
    """JPEG bytes to labels at the photos' size, with each decoder, by `Parser.stream`."""
    batch, bundle = max(args.batch), _bundle(args)
    files = [_jpeg(picture(1024, 768, seed=i)) for i in range(8)] * (batch // 4 + 1)
    with Parser.load(bundle.root, **_options(args)) as parser:
        return {"parser": repr(parser), "batch": batch} | {
            name: attempt(lambda name=name: _stream_rate(parser, files, batch, name, args))
            for name in ("nvimgcodec", "cpu")
        }


def picture(height: int, width: int, seed: int) -> Pixels:
    """Colours as smooth as a photograph's, with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 9, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return told.stdout.splitlines()[0]


def _bundle(args: argparse.Namespace) -> Bundle:
    if args.preset == BUNDLED:
        return read_bundle(find_bundle("cihp")[0])
    return read_bundle(args.work / "bundles" / args.preset)


def _wants_onnx() -> bool:
    """Whether anything here runs an ONNX file on the GPU, or makes an engine of it."""
    if any(importlib.util.find_spec(module) for module in ENGINES.values()):
        return True
    found = attempt(lambda: "cuda" in describe_backend("onnxruntime").devices)
    return found is True


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Float16 everywhere: torch computes so, the others have files of it."""
    precision = "auto" if args.preset == BUNDLED else "fp16"
    return {"device": f"cuda:{args.device}", "precision": precision}


def _opens(bundle: Bundle, runtime: str, args: argparse.Namespace) -> str:
    backend = open_backend(bundle, backend=runtime, **_options(args))
    try:
        if getattr(backend, "pipeline", None) is None:
            raise BackendUnavailable("; ".join(backend.facts.notes) or "it has no pipeline")
        return backend.facts.version
    finally:
        backend.close()


def _agreement(
    bundle: Bundle,
    runtime: str,
    args: argparse.Namespace,
    pictures: Sequence[Pixels],
    expected: Sequence[Pixels],
) -> float:
    with Parser.load(bundle.root, backend=runtime, device=f"cuda:{args.device}") as parser:
        found = [result.labels for result in parser.predict(list(pictures), batch_size=2)]
    return min(float((a == b).mean()) for a, b in zip(found, expected, strict=True))


def _hp_bench(
    bundle: Bundle,
    runtimes: Sequence[str],
    batches: Sequence[int],
    baselines: str,
    args: argparse.Namespace,
) -> dict[str, Any]:
    path = args.desk / f"bench-{args.preset}-{'-'.join(map(str, batches))}-{baselines}.json"
    options = _options(args)
    code = hp_bench(
        [
            *(str(bundle.root), "--backend", ",".join(runtimes), "--cold", "0"),
            *("--device", options["device"], "--precision", options["precision"]),
            *("--batch", ",".join(map(str, batches))),
            *("--size", PHOTO_SIZE, "--duration", str(args.seconds), "--baselines", baselines),
            *("--json", str(path)),
        ]
    )
    found = json.loads(path.read_text(encoding="utf-8"))
    for row in found["configurations"]:
        row.pop("samples_ms")  # the rest is small
    return {"exit_code": code, "report": found}


def _jpeg(image: Pixels) -> bytes:
    return cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes()


def _stream_rate(
    parser: Parser, files: Sequence[bytes], batch: int, decoder: str, args: argparse.Namespace
) -> float:
    """Photos per second."""
    if decoder == "cpu":  # the pool that `stream` has anyway
        return _rate(lambda: parser.stream(files, batch_size=batch), args.seconds)
    with open_decoder(decoder, device=args.device) as opened:
        return _rate(
            lambda: parser.stream(decoded(files, opened, batch_size=batch), batch_size=batch),
            args.seconds,
        )


def _rate(stream: Callable[[], Any], seconds: float) -> float:
    sum(1 for _ in stream())  # buffers, graphs and threads
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not done:
        done += sum(1 for _ in stream())
    return done / (time.perf_counter() - start)


KINDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "host": host,
    "tests": tests,
    "prepare": prepare,
    "engine": engine,
    "agree": agree,
    "peaks": peaks,
    "bench": bench,
    "compiled": compiled,
    "jpeg": jpeg,
}
