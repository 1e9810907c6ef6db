"""Everything that only a GPU can show, in one command: tests, agreement with the CPU, times.

    python scripts/gpu_check.py [--bundle DIR | --preset sst-r50 --size 512x512] [--batch 1,8,32]
                                [--seconds 4] [--out gpu-check] [--engines tensorrt,...]

It needs no network and runs whatever is installed: pytest -m gpu, engines of TensorRT and
TensorRT-RTX (built from the bundle's ONNX file where it holds none), ONNX Runtime's CUDA provider,
and torch (eager, and compiled with CUDA graphs) where a checkpoint or preset says what to build.
What is missing or fails is named with its reason, and the rest goes on.  Writes gpu_check.json and
gpu_check.md.  `network` is the engine alone, run after run, as trtexec measures it.

Exit code 0; 1 if a test or an agreement failed; 5 if there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from gpu_subjects import matmul_peak, random_bundle, torch_rates, with_engine

from hp_sdk import Parser
from hp_sdk.backends import open_backend
from hp_sdk.bundle import Bundle, read_bundle, verify_artifact
from hp_sdk.errors import BackendUnavailable
from hp_sdk.files import write_bytes
from hp_sdk.gpu.compiler import nvrtc_version
from hp_sdk.gpu.device import ALLOCATORS, Gpu, open_allocator
from hp_sdk.gpu.ort_engine import OrtEngine, provider_options
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.ticket import Ask
from hp_sdk.gpu.timing import copy_rates, pace
from hp_sdk.image import Pixels
from hp_sdk.models import find_bundle
from hp_sdk.tta import TTA

REPOSITORY = Path(__file__).resolve().parents[1]
NO_GPU, AGREEMENT = 5, 0.995
MODULES = ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda.core", "cupy", "pycuda")
SMI = "name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    try:
        gpu = Gpu(args.device)
    except BackendUnavailable as exc:
        print(f"gpu_check: {exc}", file=sys.stderr)
        return NO_GPU
    report: dict[str, Any] = {
        "gpu": {"name": gpu.context.name, "capability": gpu.context.capability},
        "before": attempt(smi),
        "pieces": {name: attempt(lambda name=name: version_of(name)) for name in MODULES},
        "nvrtc": attempt(nvrtc_version),
        "memory": {
            name: attempt(lambda name=name: works(name, args.device)) for name in ALLOCATORS
        },
        "tests": None if args.no_tests else attempt(run_tests),
        "copies_gb_per_s": attempt(lambda: asdict(copy_rates(gpu))),
        "matmul_fp16_tflop_per_s": attempt(matmul_peak),
    }
    gpu.close()
    with tempfile.TemporaryDirectory() as folder:
        report["engines"] = attempt(lambda: check_engines(args, Path(folder)))
    report["after"] = attempt(smi)
    write_bytes(args.out / "gpu_check.json", (json.dumps(report, indent=1) + "\n").encode())
    write_bytes(args.out / "gpu_check.md", table(report).encode())
    print(table(report))
    return 1 if failures(report) else 0


def attempt(work: Callable[[], Any]) -> Any:
    """What `work` gives, or why it does not."""
    try:
        return work()
    except Exception as exc:  # noqa: BLE001 - what is missing is named, the rest goes on
        return {"missing": " ".join(f"{type(exc).__name__}: {exc}".split())[:400]}


def is_missing(found: Any) -> bool:
    """Whether an attempt failed."""
    return isinstance(found, dict) and "missing" in found


def smi() -> dict[str, str]:
    """Driver, clocks and power now."""
    command = ["nvidia-smi", f"--query-gpu={SMI}", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(SMI.split(","), told.stdout.splitlines()[0].split(", "), strict=True))


def version_of(module: str) -> str:
    """Of something that can be imported."""
    return str(getattr(importlib.import_module(module), "__version__", "?"))


def works(name: str, index: int) -> bool:
    """Whether device memory can be had from there."""
    return open_allocator(index, memory=name).allocate(1 << 20).pointer > 0


def run_tests() -> dict[str, Any]:
    """What `pytest -m gpu` says."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    told = subprocess.run(
        [*command, "tests/gpu"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    lines = told.stdout.strip().splitlines()
    return {"exit_code": told.returncode, "says": lines[-1:], "tail": lines[-40:]}


def check_engines(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every runtime on the same bundle: agreement with the CPU, and pace."""
    largest = max(args.batch)
    if args.preset is None:
        bundle, checkpoint = read_bundle(args.bundle or find_bundle("cihp")[0]), args.checkpoint
    else:
        bundle, checkpoint = random_bundle(args.preset, args.size, args.precision, largest, folder)
    pictures = [picture(900 + 40 * i, 700 + 90 * i, seed=i) for i in range(largest)]
    with Parser.load(bundle.root, device="cpu") as parser:
        expected = [result.labels for result in parser.predict(pictures[:4])]
        head = parser.head
    found: dict[str, Any] = {"bundle": bundle.name, "input_hw": bundle.input.size_hw}
    for name in args.engines:
        if name in OPENERS:
            found[name] = attempt(
                lambda name=name: check_engine(
                    lambda: OPENERS[name](bundle, args, folder), pictures, expected, head, args
                )
            )
    if checkpoint is not None and "torch" in args.engines:
        found["torch"] = torch_baselines(bundle, checkpoint, args.batch)
    return found


def check_engine(
    opened: Callable[[], tuple[DevicePipeline, Bundle | None]],
    pictures: Sequence[Pixels],
    expected: Sequence[Pixels],
    head: str,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One runtime: its labels against the CPU's, and its pace at every batch size."""
    start = time.perf_counter()
    pipeline, bundle = opened()
    found: dict[str, Any] = {"open_s": time.perf_counter() - start}
    ask = Ask(heads=(head,), tta=TTA())
    try:
        labels = [answer[head].labels for answer in pipeline.parse(list(pictures[:4]), ask)]
        same = [float((a == b).mean()) for a, b in zip(labels, expected, strict=True)]
        found["label_agreement"] = min(same)
        for batch in args.batch:
            if batch > pipeline.engine.batch_max:
                found[f"batch {batch}"] = {"missing": f"engine takes {pipeline.engine.batch_max}"}
                continue
            measured = pace(pipeline, pictures[:batch], ask, seconds=args.seconds)
            found[f"batch {batch}"] = asdict(measured) | {"share_of_network": measured.share}
    finally:
        pipeline.close()
    if bundle is not None:
        found["jpeg_to_labels_photos_per_s"] = attempt(
            lambda: end_to_end(bundle, args, pictures, head)
        )
    return found


def end_to_end(
    bundle: Bundle, args: argparse.Namespace, pictures: Sequence[Pixels], head: str
) -> float:
    """JPEG bytes in, labels at source size out, through `Parser.stream`."""
    files = [cv2.imencode(".jpg", each[:, :, ::-1])[1].tobytes() for each in pictures]
    batch = max(args.batch)
    with Parser.load(bundle.root, device=f"cuda:{args.device}") as parser:
        list(parser.stream(files * 2, batch_size=batch, domains=[head]))
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < args.seconds:
            done += sum(1 for _ in parser.stream(files * 4, batch_size=batch, domains=[head]))
        return done / (time.perf_counter() - start)


def open_tensorrt(name: str) -> Callable[..., tuple[DevicePipeline, Bundle | None]]:
    """The bundle's engine, or one that is built from its ONNX file now."""

    def open_it(
        bundle: Bundle, args: argparse.Namespace, folder: Path
    ) -> tuple[DevicePipeline, Bundle | None]:
        if all(artifact.runtime != name for artifact in bundle.artifacts):
            bundle = with_engine(bundle, name, max(args.batch), folder / name)
        backend = open_backend(bundle, backend=name, device=f"cuda:{args.device}")
        return backend.pipeline, bundle  # pyright: ignore[reportAttributeAccessIssue]

    return open_it


def open_ort(
    bundle: Bundle, args: argparse.Namespace, folder: Path
) -> tuple[DevicePipeline, Bundle | None]:
    """ONNX Runtime's CUDA provider, bound to the pipeline's buffers."""
    del folder
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    artifact = next(each for each in bundle.artifacts if each.runtime == "onnx")
    gpu = Gpu(args.device)
    stream = gpu.open_stream()
    wanted = ("CUDAExecutionProvider", provider_options(args.device, stream))
    path = verify_artifact(bundle, artifact)
    session = ort.InferenceSession(str(path), providers=[wanted, "CPUExecutionProvider"])
    if session.get_providers()[0] != wanted[0]:
        gpu.close()
        raise BackendUnavailable(f"the session came back on {session.get_providers()}")
    limits = (1, max(*args.batch, 1) if artifact.batch_max > 1 else 1)
    engine = OrtEngine(ort, session, stream, index=args.device, batch=limits)
    heads = {name: bundle.heads[name] for name in artifact.heads}
    return DevicePipeline(gpu, engine, bundle.input, heads), None


OPENERS: dict[str, Callable[..., tuple[DevicePipeline, Bundle | None]]] = {
    "tensorrt": open_tensorrt("tensorrt"),
    "tensorrt-rtx": open_tensorrt("tensorrt-rtx"),
    "onnxruntime": open_ort,
}


def torch_baselines(bundle: Bundle, checkpoint: Path, batches: Sequence[int]) -> dict[str, Any]:
    """The same network in torch: photos per second of the network alone."""
    return {
        f"batch {batch}": attempt(lambda batch=batch: torch_rates(bundle, checkpoint, batch))
        for batch in batches
    }


def picture(height: int, width: int, seed: int) -> Pixels:
    """Colours as smooth as a photograph's, with noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 9, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def failures(report: dict[str, Any]) -> list[str]:
    """What ran and is wrong; what is missing is no failure."""
    found = [f"{name} disagrees" for name, each in _engines(report) if _disagrees(each)]
    tests = report["tests"] or {}
    return found + (["tests"] if tests.get("exit_code") else [])


def table(report: dict[str, Any]) -> str:
    """The report for people, in Markdown."""
    lines = [f"# {report['gpu']['name']}", "", f"tests: {_say(report['tests'])}"]
    for key in ("before", "after", "copies_gb_per_s", "matmul_fp16_tflop_per_s", "nvrtc"):
        lines.append(f"{key}: {_say(report[key])}")
    lines += [
        f"{kind} {k}: {_say(v)}" for kind in ("pieces", "memory") for k, v in report[kind].items()
    ]
    lines += ["", "| engine | batch | network ms | photos/s | share | latency ms | enqueue ms |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, engine in _engines(report):
        for key, row in engine.items():
            if key.startswith("batch ") and "network_ms" in row:
                numbers = ("network_ms", "photos_per_s", "share_of_network", "latency_ms")
                cells = [f"{row[number]:.3g}" for number in (*numbers, "enqueue_ms")]
                lines.append(f"| {name} | {row['batch']} | {' | '.join(cells)} |")
    lines.append("")
    for name, engine in _engines(report):
        rest = {key: value for key, value in engine.items() if "network_ms" not in str(value)}
        lines.append(f"{name}: {_say(rest)}")
    return "\n".join([*lines, *(f"FAILED: {each}" for each in failures(report))]) + "\n"


def _engines(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    engines = report["engines"]
    if is_missing(engines):
        return [("engines", engines)]
    return [(name, each) for name, each in engines.items() if isinstance(each, dict)]


def _disagrees(engine: dict[str, Any]) -> bool:
    return engine.get("label_agreement", 1.0) < AGREEMENT


def _say(found: Any) -> str:
    if is_missing(found):
        return f"missing ({found['missing']})"
    if isinstance(found, dict):
        return ", ".join(f"{key} {_say(value)}" for key, value in found.items() if key != "tail")
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, help="default: the bundled model")
    parser.add_argument("--checkpoint", type=Path, help="of the bundle, for torch's baselines")
    parser.add_argument("--preset", help="export this network with random weights instead")
    parser.add_argument("--size", default="512x512", metavar="HxW", help="of the preset")
    parser.add_argument("--precision", default="fp16", help="of the preset")
    parser.add_argument("--batch", type=_numbers, default=[1, 8, 32], metavar="N,N")
    parser.add_argument("--engines", type=_words, default=[*OPENERS, "torch"], metavar="NAME,NAME")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each batch size")
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    return parser.parse_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    raise SystemExit(main())
