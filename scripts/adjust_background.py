"""Choose and apply the background shift of every head on training photographs.

    python scripts/adjust_background.py last.pt -o adjusted.pt --size 224x224 \
        --list DATA/pascal_person_part:pascal:labels:train:300 \
        --list DATA/ccp:cihp:labels_cihp:train:100 [--json shifts.json]

Each --list is ROOT:DOMAIN:LABELS:SPLIT:LIMIT. See hp_trainer.logit_adjustment for the reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hp_sdk.files import write_bytes
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint, write_checkpoint
from hp_trainer.cli.evaluate import size_hw
from hp_trainer.config import EvalConfig
from hp_trainer.evaluate import input_spec
from hp_trainer.logit_adjustment import best_shift, score_shifts, shift_background
from hp_trainer.models.sst import SST


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", type=size_hw, required=True)
    parser.add_argument("--list", type=listed, action="append", required=True, dest="lists")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    checkpoint = read_checkpoint(args.checkpoint)
    net = build_from_checkpoint(checkpoint)
    assert isinstance(net, SST)
    spec = input_spec({**checkpoint.input, "size_hw": list(args.size)})
    shifts, told = {}, {}
    for entry in args.lists:
        scores = score_shifts(net, spec, entry)
        shifts[entry.domain] = best_shift(scores)
        told[entry.domain] = {f"{shift:g}": round(score, 4) for shift, score in scores.items()}
        print(f"{entry.domain}: shift {shifts[entry.domain]:g}  {told[entry.domain]}", flush=True)
    write_checkpoint(args.output, shift_background(checkpoint, shifts))
    if args.json:
        write_bytes(args.json, (json.dumps(told, indent=1) + "\n").encode())


def listed(text: str) -> EvalConfig:
    """ROOT:DOMAIN:LABELS:SPLIT:LIMIT."""
    root, domain, labels, split, limit = text.rsplit(":", 4)
    return EvalConfig(root, domain, labels, split, int(limit))


if __name__ == "__main__":
    main()
