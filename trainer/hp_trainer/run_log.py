"""What a run writes down: losses per step, scores per validation, curves, where it came from."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hp_sdk.files import write_bytes


class StepLog:
    """Mean losses of every `every` steps as rows `step, name, value` of a CSV file."""

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
        row: dict[str, Any] = {"lr": lr, "step_ms": 1e3 * seconds, **_means(self.rows)}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for name, value in row.items():
                writer.writerow([step, name, f"{value:.6g}"])
        self.rows, self.since = [], time.perf_counter()


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(v) / len(v) for name, v in values.items()}


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name → [(step, value)] from `metrics.csv` and `validation.jsonl` of a run folder."""
    curves: dict[str, list[tuple[int, float]]] = {}
    metrics, validation = folder / "metrics.csv", folder / "validation.jsonl"
    if metrics.exists():
        for step, name, value in csv.reader(metrics.read_text("utf-8").splitlines()):
            curves.setdefault(name, []).append((int(step), float(value)))
    if validation.exists():
        for line in validation.read_text("utf-8").splitlines():
            scores = json.loads(line)
            for name, entry in scores.items():
                if isinstance(entry, dict):
                    point = (scores["step"], float(entry["miou_present"]))
                    curves.setdefault(f"mIoU {name}", []).append(point)
    return curves


def plot_curves(folder: Path) -> Path | None:
    """Losses, learning rate and scores over the steps as `curves.png`; None without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    curves = read_curves(folder)
    groups = {
        "loss": [k for k in curves if k not in ("lr", "step_ms") and not k.startswith("mIoU")],
        "mIoU": [k for k in curves if k.startswith("mIoU")],
        "learning rate": [k for k in curves if k == "lr"],
    }
    shown = {title: names for title, names in groups.items() if names}
    figure = Figure(figsize=(10, 3.2 * max(1, len(shown))), layout="constrained")
    for axes, (title, names) in zip(
        figure.subplots(max(1, len(shown)), squeeze=False)[:, 0], shown.items(), strict=False
    ):
        for name in names:
            steps, values = zip(*curves[name], strict=True)
            axes.plot(steps, values, label=name.removeprefix("mIoU "), linewidth=1.2)
        axes.set(xlabel="step", ylabel=title)
        axes.set_yscale("log" if title == "loss" else "linear")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return path


def write_provenance(folder: Path, config: Mapping[str, Any], device: str) -> None:
    """`config.json` (resolved settings) and `run.json` (command, software, git state)."""
    told = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("hp-sdk", "torch", "numpy")},
        "git": git_state(Path.cwd()),
    }
    for name, content in (("config.json", config), ("run.json", told)):
        write_bytes(folder / name, (json.dumps(content, indent=1) + "\n").encode())


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the working tree and whether it differs; None outside a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
