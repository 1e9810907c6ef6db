"""Everything that only a GPU can show, in one command: tests, agreement with the CPU, times.

    python scripts/gpu_check.py [--out gpu-check] [--budget 540] [--batch 1,8,32] [--seconds 3]
                                [--models sst-r50:512x512,...] [--pieces host,bench:sst-r50,...]

It needs no network and runs whatever is installed: pytest -m gpu, TensorRT and TensorRT-RTX
(engines are built from the bundle's ONNX file), ONNX Runtime's CUDA provider, and torch (in the
pipeline, eager, and compiled with CUDA graphs), on the bundled model and on networks with random
weights.  What is missing or fails is named with its reason, and the rest goes on.

Every piece runs in a process of its own and for a limited time.  After each, OUT/gpu_check.json and
OUT/gpu_check.md are written anew, so that a machine that is taken away takes nothing with it.  The
same command again does what is still missing; networks and engines are kept in OUT/work.

Exit code 0; 1 if a test or an agreement failed; 5 if there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = tuple(str(REPOSITORY / folder) for folder in (".", "trainer", "export", "scripts"))
sys.path[:0] = [path for path in PACKAGES if path not in sys.path]  # where nothing is installed
for needed in ("numpy", "cv2"):
    if find_spec(needed) is None:
        sys.exit(f"gpu_check: {needed} is not installed, without which nothing here works")

from gpu_supervise import Desk, Piece, is_missing, supervise  # noqa: E402
from gpu_table import failures, table  # noqa: E402

from hp_sdk.errors import BackendError  # noqa: E402
from hp_sdk.files import write_bytes  # noqa: E402
from hp_sdk.gpu.driver import count_gpus, load_driver  # noqa: E402

NO_GPU, BUNDLED = 5, "bundled"
MODELS = ("sst-r50:512x512", "schnet-l:480x480", "sst-compact:512x512")
ENGINES = ("tensorrt", "tensorrt-rtx")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _arguments(argv)
    if args.piece:
        return do(args)
    if not _has_gpu(args.device):
        return NO_GPU
    desk = Desk(args.out / "work" / "desk")
    pieces = [piece for piece in plan(args) if not args.pieces or piece.name in args.pieces]
    start = time.monotonic()

    def report(name: str) -> None:
        found = desk.read(name)
        state = "missing" if is_missing(found) else "done"
        print(f"{time.monotonic() - start:6.1f} s  {state:8} {name}", flush=True)
        publish(desk, args.out)

    publish(desk, args.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the pieces, too
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*PACKAGES, *_own_path()])}
    supervise(
        pieces,
        desk,
        budget_s=args.budget,
        report=report,
        environment=environment,
        again=args.again,
    )
    found = publish(desk, args.out)
    print(table(found))
    return 1 if failures(found) else 0


def plan(args: argparse.Namespace) -> Iterator[Piece]:
    """All pieces, the most telling first; networks are written while the tests run."""
    models = dict(model.split(":") for model in args.models)
    for model in models:
        yield _piece(args, f"prepare:{model}", 420, in_background=True)
    yield _piece(args, "host", 60)
    yield _piece(args, "tests", 240)
    yield _piece(args, f"agree:{BUNDLED}", 120)
    yield _piece(args, "peaks", 60, is_timed=True)
    for model in models:
        for runtime in ENGINES:
            yield _piece(args, f"engine:{model}:{runtime}", 240, is_timed=True)
        yield _piece(args, f"bench:{model}", 240, is_timed=True)
    for kind in ("agree", "jpeg"):
        for model in models:
            yield _piece(args, f"{kind}:{model}", 120, is_timed=True)
    for batch in sorted(args.batch, reverse=True):
        for model in models:
            yield _piece(args, f"compiled:{model}:{batch}", 300, is_timed=True)


def do(args: argparse.Namespace) -> int:
    """One piece, in this process."""
    from gpu_pieces import KINDS, attempt

    kind, *rest = args.piece.split(":")
    models = dict(model.split(":") for model in args.models)
    args.preset = rest[0] if rest else BUNDLED
    args.size_hw = tuple(map(int, models.get(args.preset, "512x512").split("x")))
    if kind == "engine":
        args.runtime = rest[1]
    if kind == "compiled":
        args.batch = [int(rest[1])]
    args.work = args.out / "work"
    desk = Desk(args.work / "desk")
    args.desk = desk.folder
    found = attempt(lambda: KINDS[kind](args))
    desk.write(args.piece, found)
    return 1 if is_missing(found) else 0


def publish(desk: Desk, out: Path) -> dict[str, Any]:
    """Write what is known so far: for programs and for people."""
    files = sorted((desk.folder / "pieces").glob("*.json"), key=lambda path: path.stat().st_mtime)
    found = {path.stem: desk.read(path.stem) for path in files}
    whole = {name: each for name, each in found.items() if each is not None}
    write_bytes(out / "gpu_check.json", (json.dumps(whole, indent=1) + "\n").encode())
    write_bytes(out / "gpu_check.md", table(whole).encode())
    return whole


def _piece(args: argparse.Namespace, name: str, limit_s: float, **how: bool) -> Piece:
    options = [
        *("--out", str(args.out), "--device", str(args.device), "--seconds", str(args.seconds)),
        *("--batch", ",".join(map(str, args.batch)), "--models", ",".join(args.models)),
    ]
    command = (sys.executable, str(Path(__file__).resolve()), "--piece", name, *options)
    return Piece(name=name, command=command, limit_s=limit_s, **how)


def _has_gpu(index: int) -> bool:
    try:
        load_driver()
        count = count_gpus()
        if index < count:
            return True
        print(f"gpu_check: there is no GPU {index}; {count} are visible", file=sys.stderr)
    except BackendError as exc:
        print(f"gpu_check: {exc}", file=sys.stderr)
    return False


def _own_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=lambda text: Path(text).resolve(), default=Path("gpu-check").resolve())
    add("--budget", type=float, default=540.0, metavar="S", help="seconds for all (540)")
    add("--models", type=_words, default=list(MODELS), metavar="PRESET:HxW,...")
    add("--batch", type=_numbers, default=[1, 8, 32], metavar="N,N")
    add("--seconds", type=float, default=3.0, help="for each engine and batch (3)")
    add("--pieces", type=_words, default=[], metavar="NAME,NAME", help="only these")
    add("--again", action="store_true", help="also what is done already")
    add("--device", type=int, default=0)
    add("--piece", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _words(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    raise SystemExit(main())
