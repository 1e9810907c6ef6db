"""Average the weights of several trainings of one network that share a start.

    python scripts/average_checkpoints.py A.pt B.pt [C.pt ...] [--heads-from D.pt] -o OUT.pt

See hp_trainer.averaging.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hp_sdk.errors import HpError
from hp_trainer.averaging import average
from hp_trainer.checkpoint import read_checkpoint, write_checkpoint


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument(
        "--heads-from", type=Path, help="whose heads are taken that none of the others has"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        heads = read_checkpoint(args.heads_from) if args.heads_from else None
        mean = average([read_checkpoint(path) for path in args.checkpoints], heads=heads)
        write_checkpoint(args.output, mean)
    except HpError as exc:
        sys.exit(f"average_checkpoints: {exc}")


if __name__ == "__main__":
    main()
