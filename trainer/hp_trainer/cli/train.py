"""hp-train: train a network from a TOML configuration, or describe one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hp_sdk.cli import new_parser, run_command
from hp_sdk.errors import ConfigError
from hp_trainer.cli.evaluate import size_hw

if TYPE_CHECKING:
    from hp_trainer.describe import Part


def train_parser() -> argparse.ArgumentParser:
    """Arguments of hp-train CONFIG."""
    parser = new_parser("hp-train", __doc__ or "")
    parser.epilog = "hp-train describe PRESET tells the size and cost of a network."
    parser.add_argument(
        "config", help=f"TOML file or a shipped configuration: {', '.join(shipped_configs())}"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="change a setting; data.sets.0.weight=2 names the first set",
    )
    parser.add_argument("--output", type=Path, help="run folder (default runs/<config name>)")
    parser.add_argument(
        "--resume", help="`auto` (the run folder's last.pt, if any) or a checkpoint"
    )
    return parser


def describe_parser() -> argparse.ArgumentParser:
    """Arguments of hp-train describe PRESET."""
    parser = new_parser("hp-train describe", "Parameters and multiply-accumulates of a network.")
    parser.add_argument("preset", help="such as sst-r50, sst-compact, schnet-l or schnet-b")
    parser.add_argument("--domains", default="cihp", help="comma-separated (default: cihp)")
    parser.add_argument("--size", type=size_hw, default=(512, 512), help="HxW (default 512x512)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def shipped_configs() -> dict[str, Path]:
    """Name → path of the configurations inside the package."""
    folder = Path(__file__).parent.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_config(name: str) -> Path:
    """A file on disk, else a shipped configuration of that name."""
    path, shipped = Path(name), shipped_configs()
    if path.is_file():
        return path
    if name in shipped:
        return shipped[name]
    raise ConfigError(f"there is no file {name}; shipped configurations: {', '.join(shipped)}")


def find_resume(argument: str | None, output: Path) -> Path | None:
    """The checkpoint to go on from."""
    if argument == "auto":
        last = output / "last.pt"
        return last if last.exists() else None
    return Path(argument) if argument else None


def train_command(args: argparse.Namespace) -> int:
    """Run hp-train CONFIG."""
    from hp_trainer.config import load_config
    from hp_trainer.loop import train

    path = find_config(args.config)
    config = load_config(path, args.overrides)
    output = args.output or Path("runs") / path.stem
    print(f"wrote {train(config, output, resume=find_resume(args.resume, output))}")
    return 0


def describe_command(args: argparse.Namespace) -> int:
    """Run hp-train describe PRESET."""
    from hp_trainer.describe import describe

    parts = describe(args.preset, args.domains.split(","), args.size)
    if args.json:
        print(json.dumps([part.to_dict() for part in parts], indent=1))
        return 0
    print(f"{'part':24} {'parameters':>12} {'frozen':>12} {'GMACs':>9}")
    for part in parts:
        _print_row(part.name, [part], "" if part.ships else "  left behind at export")
    for ships, title in ((True, "ships"), (False, "left behind")):
        _print_row(title, [part for part in parts if part.ships is ships])
    return 0


def _print_row(title: str, parts: Sequence[Part], remark: str = "") -> None:
    parameters, frozen, macs = (
        sum(getattr(part, key) for part in parts) for key in ("parameters", "frozen", "macs")
    )
    print(f"{title:24} {parameters:>12,} {frozen:>12,} {macs / 1e9:>9.2f}{remark}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-train."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["describe"]:
        return run_command(describe_parser(), describe_command, arguments[1:])
    return run_command(train_parser(), train_command, arguments, intermixed=True)


if __name__ == "__main__":  # torchrun -m hp_trainer.cli.train
    sys.exit(main())
