"""hp-eval: score a checkpoint, a bundle or a bundled model on a labelled list."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hp_sdk.cli import new_parser, run_command
from hp_sdk.files import write_bytes


def build_parser() -> argparse.ArgumentParser:
    """Arguments of hp-eval."""
    parser = new_parser("hp-eval", __doc__ or "")
    parser.add_argument("model", help="checkpoint (.pt), bundle folder or bundled name")
    parser.add_argument("--data", type=Path, required=True, help="images/, labels/, <split>.txt")
    parser.add_argument("--domain", required=True, help="label domain of the label maps")
    parser.add_argument("--labels", default="labels", help="folder of the label maps")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=0, help="only the first N images")
    parser.add_argument("--size", type=size_hw, help="HxW network input (checkpoints only)")
    parser.add_argument("--tta", choices=("none", "flip", "ms+flip"), default="none")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    return parser


def size_hw(text: str) -> tuple[int, int]:
    """`HxW` → (H, W)."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write HEIGHTxWIDTH, like 512x384")
    return int(height), int(width)


def evaluate_command(args: argparse.Namespace) -> int:
    """Run hp-eval."""
    from tqdm import tqdm

    from hp_trainer.config import EvalConfig
    from hp_trainer.evaluate import evaluate_list, open_predictor

    tta = None if args.tta == "none" else args.tta
    predict = open_predictor(args.model, args.domain, size_hw=args.size, tta=tta)
    entry = EvalConfig(str(args.data), args.domain, args.labels, args.split, args.limit)
    with tqdm(unit="image", disable=None) as bar:
        scores = evaluate_list(predict, entry, on_image=bar.update)
    for name, value in scores.per_class_iou.items():
        print(f"{name:>16}  {'absent' if value is None else f'{100 * value:5.1f}'}")
    print(
        f"{scores.images} images  mIoU {100 * scores.miou:.2f}  (classes present "
        f"{100 * scores.miou_present:.2f})  person IoU {100 * scores.person_iou:.2f}  "
        f"mean accuracy {100 * scores.mean_acc:.2f}  pixel accuracy {100 * scores.pixel_acc:.2f}"
    )
    if args.json:
        described = {"data": args.data.name, "labels": args.labels, "split": args.split}
        described |= {"domain": args.domain, "tta": args.tta, **scores.to_dict()}
        write_bytes(args.json, (json.dumps(described, indent=1) + "\n").encode())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-eval."""
    return run_command(build_parser(), evaluate_command, argv)
