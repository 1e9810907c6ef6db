"""Accuracy against milliseconds: one checkpoint at several input sizes.

    python scripts/size_curve.py last.pt --sizes 256 320 384 416 448 \
        --list DATA/pascal_person_part:pascal:labels:val:0 --list DATA/ccp:cihp:labels_cihp:val:0 \
        --json docs/performance/size_curve.json --plot docs/performance/size_curve.png

Each --list is ROOT:DOMAIN:LABELS:SPLIT:LIMIT (0: all). mIoU over the classes present, at the
original resolution, without augmentation; milliseconds are the median of the bare network in
float32 for one picture, the sizes and runtimes taking turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from adjust_background import listed

from hp_export.graph import count_macs
from hp_export.to_onnx import to_onnx
from hp_export.workshop import build_graph
from hp_sdk.files import write_bytes
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint
from hp_trainer.evaluate import evaluate_list, input_spec, network_predictor

ROUNDS, WARM = 40, 5


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    parser.add_argument("--list", type=listed, action="append", required=True, dest="lists")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.checkpoint)
    net = build_from_checkpoint(checkpoint).eval()
    head = args.lists[0].domain
    rows: list[dict[str, Any]] = []
    runs: dict[tuple[int, str], Callable[[], object]] = {}
    with TemporaryDirectory() as folder:
        for size in args.sizes:
            hw = (size, size)
            spec = input_spec({**checkpoint.input, "size_hw": list(hw)})
            spec = replace(spec, mean=tuple(checkpoint.input["mean"]), std=checkpoint.input["std"])
            file = Path(folder) / f"{size}.onnx"
            onnx.save(to_onnx(build_graph(net, (head,), spec, hw), hw), file)
            runs |= {(size, name): opened for name, opened in runners(file, size).items()}
            row: dict[str, Any] = {"size": size, "gmacs": count_macs(net, (head,), hw) / 1e9}
            for entry in args.lists:
                scores = evaluate_list(network_predictor(net, entry.domain, spec, "cpu"), entry)
                row[f"{Path(entry.root).name}.{entry.domain}"] = {
                    "miou": scores.miou_present,
                    "person_iou": scores.person_iou,
                }
            rows.append(row)
            print(json.dumps(row), flush=True)
        for (size, runtime), milliseconds in timed(runs).items():
            next(row for row in rows if row["size"] == size)[f"{runtime}_ms"] = milliseconds
    print(table(rows))
    if args.json:
        write_bytes(args.json, (json.dumps(rows, indent=1) + "\n").encode())
    if args.plot:
        plot(rows, args.plot)


def runners(file: Path, size: int) -> dict[str, Callable[[], object]]:
    """Runtime → one run of the graph on one picture of noise."""
    import onnxruntime
    import openvino

    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(str(file), "CPU", hints).create_infer_request()
    return {
        "onnxruntime": lambda: session.run(None, {"image": image}),
        "openvino": lambda: request.infer([image]),
    }


def timed(runs: dict[tuple[int, str], Callable[[], object]]) -> dict[tuple[int, str], float]:
    """Median milliseconds of every run, in turns."""
    found: dict[tuple[int, str], list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key, run in runs.items():
            for _ in range(WARM):
                run()
            begin = time.perf_counter()
            run()
            found[key].append(1e3 * (time.perf_counter() - begin))
    return {key: float(np.median(values)) for key, values in found.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lists = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    head = ["size", "GMACs", "ONNX Runtime, ms", "OpenVINO, ms", *(f"{k}, mIoU" for k in lists)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        times = [f"{row[f'{name}_ms']:.1f}" for name in ("onnxruntime", "openvino")]
        scores = [f"{row[key]['miou']:.3f}" for key in lists]
        lines.append([f"{row['size']}²", f"{row['gmacs']:.2f}", *times, *scores])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Every list's mIoU over the milliseconds of ONNX Runtime."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    x = [row["onnxruntime_ms"] for row in rows]
    for key in (key for key in rows[0] if isinstance(rows[0][key], dict)):
        y = [row[key]["miou"] for row in rows]
        axes.plot(x, y, marker="o", label=key)
        for row, at, value in zip(rows, x, y, strict=True):
            axes.annotate(f"{row['size']}²", (at, value), (4, -12), textcoords="offset points")
    axes.set_xlabel("network, ms per photo (ONNX Runtime, float32)")
    axes.set_ylabel("mIoU")
    axes.grid(alpha=0.3)
    axes.legend()
    temporary = path.with_suffix(".part.png")
    figure.savefig(temporary, dpi=110)
    temporary.replace(path)


if __name__ == "__main__":
    main()
