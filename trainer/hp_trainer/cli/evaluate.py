"""hp-eval: score a checkpoint, a bundle or a bundled model on a labelled list."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hp_sdk.cli import new_parser, run_command
from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, SchemaMismatch
from hp_sdk.files import write_bytes
from hp_sdk.tta import TTA_NAMES
from hp_trainer.boundary import TOLERANCE, BoundaryScores, BoundaryTally
from hp_trainer.confusion_picture import confusion_png
from hp_trainer.frontal import FrontalTally
from hp_trainer.metrics import ABSENT, Confusion, LeftRight, Scores
from hp_trainer.paper_results import PaperRow, comparison, paper_entry, paper_rows
from hp_trainer.tta import LARGEST_SCALE, SCALES, TTAChoice

if TYPE_CHECKING:
    from hp_trainer.config import EvalConfig
    from hp_trainer.evaluate import Tally
    from hp_trainer.layouts import PhotoSet

CONFUSION_FILES: dict[str, Callable[[Confusion], bytes]] = {
    ".csv": lambda confusion: confusion.to_csv().encode(),
    ".png": confusion_png,
}
"""Suffix of `--confusion` → content of the file."""


def build_parser() -> argparse.ArgumentParser:
    """Arguments of hp-eval."""
    parser = new_parser("hp-eval", __doc__ or "")
    parser.add_argument("model", help="checkpoint (.pt), bundle folder or bundled name")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder with images/, labels/, <split>.txt, or a published data set as it comes",
    )
    parser.add_argument("--domain", required=True, help="label domain of the label maps")
    parser.add_argument("--labels", default="labels", help="folder of the label maps")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=0, help="only the first N images")
    parser.add_argument("--layout", default="auto", help="layout of a published data set (auto)")
    parser.add_argument(
        "--decode-colors", action="store_true", help="accept label pictures in the domain's colours"
    )
    parser.add_argument("--size", type=size_hw, help="HxW network input (checkpoints only)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:0")
    _add_views(parser)
    _add_measures(parser)
    _add_outputs(parser)
    return parser


def _add_views(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views of each photo")
    group.add_argument("--tta", choices=TTA_NAMES, default="none")
    group.add_argument(
        "--scales",
        type=scales,
        default=(),
        help=f"of ms: numbers such as 0.5,1,1.5, or {', '.join(SCALES)} for the papers' own "
        "(default: those of the model's family)",
    )
    group.add_argument(
        "--average",
        choices=("logits", "probs"),
        default="",
        help="what is averaged over views (default: as the family's authors do)",
    )


def _add_measures(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measures")
    group.add_argument(
        "--absent",
        choices=ABSENT,
        default="nan",
        help="a class in neither truth nor prediction is left out of the means, or counts as 0",
    )
    group.add_argument(
        "--boundary", action="store_true", help="also the F-score of the parts' outlines"
    )
    group.add_argument(
        "--boundary-tolerance",
        type=float,
        default=TOLERANCE,
        metavar="SHARE",
        help="how far outlines may lie apart, as a share of the image diagonal (%(default)s)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument("--json", type=Path, help="write the scores to this file")
    group.add_argument(
        "--confusion",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="write the confusion matrix: counts to a .csv, a picture to a .png; may be repeated",
    )
    group.add_argument(
        "--compare-paper",
        action="store_true",
        help="print what the SST and SCHNet papers report on the data set of this domain",
    )


def size_hw(text: str) -> tuple[int, int]:
    """`HxW` → (H, W)."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write HEIGHTxWIDTH, like 512x384")
    return int(height), int(width)


def scales(text: str) -> tuple[float, ...]:
    """`0.5,1,1.5`, or the name of a paper's set → scales."""
    if text in SCALES:
        return SCALES[text]
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number <= LARGEST_SCALE for number in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of scales; write numbers above 0, up to {LARGEST_SCALE:g}, "
            f"like 0.5,1,1.5, or one of {', '.join(SCALES)}"
        )
    return numbers


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured, and what the papers say if that was asked for."""

    scores: Scores
    left_right: LeftRight
    frontal: LeftRight
    """Of people seen from the front."""
    boundary: BoundaryScores | None
    paper: tuple[PaperRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the papers' numbers stay under their own key."""
        sides = self.left_right.to_dict() | {"frontal": self.frontal.to_dict()}
        values = self.scores.to_dict() | {"left_right_confusion": sides}
        if self.boundary:
            values |= self.boundary.to_dict()
        return values | ({"paper": paper_entry(self.paper)} if self.paper else {})

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield from _class_lines(self.scores, self.boundary)
        yield _summary(self.scores)
        if self.boundary:
            yield (
                f"boundary F {_percent(self.boundary.boundary_f)}  (outlines within "
                f"{self.boundary.boundary_tolerance:g} of the image diagonal)"
            )
        if self.left_right.pairs:
            yield _left_right_line(self.left_right, self.frontal)
        if self.paper:
            yield from ("", *comparison(self.paper, self.scores))


def _class_lines(scores: Scores, boundary: BoundaryScores | None) -> Iterator[str]:
    yield f"{'':>16}  {'IoU':>6}{'  boundary F' if boundary else ''}"
    for name, value in scores.per_class_iou.items():
        outlines = f"  {_percent(boundary.per_class_boundary_f[name]):>10}" if boundary else ""
        yield f"{name:>16}  {_percent(value):>6}{outlines}"


def _summary(scores: Scores) -> str:
    return (
        f"{scores.images} images  mIoU {100 * scores.miou:.2f}  (classes present "
        f"{100 * scores.miou_present:.2f})  person IoU {100 * scores.person_iou:.2f}  "
        f"mean accuracy {100 * scores.mean_acc:.2f}  pixel accuracy {100 * scores.pixel_acc:.2f}"
    )


def _left_right_line(left_right: LeftRight, frontal: LeftRight) -> str:
    known = ((share, name) for name, share in left_right.pairs.items() if share is not None)
    share, name = max(known, default=(0.0, ""))
    worst = f"; most for {name}: {100 * share:.1f}" if share else ""
    return (
        f"left and right confused in {_percent(left_right.overall)} per cent of pixels, "
        f"{_percent(frontal.overall)} of people seen from the front{worst}"
    )


def _percent(share: float | None) -> str:
    return "absent" if share is None else f"{100 * share:.1f}"


def _list_of(args: argparse.Namespace) -> EvalConfig:
    from hp_trainer.config import EvalConfig

    return EvalConfig(
        str(args.data),
        args.domain,
        args.labels,
        args.split,
        args.limit,
        args.layout,
        args.decode_colors,
    )


def evaluate_command(args: argparse.Namespace) -> int:
    """Run hp-eval."""
    from hp_trainer.evaluate import labelled_domain, open_list

    _check_files(args.confusion)
    paper = paper_rows(args.domain) if args.compare_paper else ()
    photos = open_list(_list_of(args))
    domain = labelled_domain(photos)
    boundary = BoundaryTally(domain.names, tolerance=args.boundary_tolerance)
    confusion = Confusion(domain.names)
    frontal = FrontalTally(domain.names, domain.flip_pairs)
    tallies = [confusion, frontal, *([boundary] if args.boundary else [])]
    protocol = _tally(args, photos, domain, tallies)
    report = Report(
        confusion.scores(absent=args.absent),
        confusion.left_right(domain.flip_pairs),
        frontal.left_right(),
        boundary.scores() if args.boundary else None,
        paper,
    )
    for line in report.lines():
        print(line)
    _write_files(args, confusion, {"protocol": protocol, **report.to_dict()})
    return 0


def _tally(
    args: argparse.Namespace, photos: PhotoSet, domain: Domain, tallies: list[Tally]
) -> dict[str, Any]:
    """Predict and count the whole list; returns how the model was asked."""
    from tqdm import tqdm

    from hp_trainer.evaluate import open_predictor, tally_list

    tta = TTAChoice(name=args.tta, scales=args.scales, average=args.average)
    with (
        open_predictor(
            args.model, args.domain, size_hw=args.size, tta=tta, device=args.device
        ) as model,
        tqdm(total=len(photos), unit="image", disable=None) as bar,
    ):
        _check_parts(model.domain, domain)
        tally_list(model, photos, domain, tallies, on_image=bar.update)
    return model.protocol


def _write_files(args: argparse.Namespace, confusion: Confusion, measured: dict[str, Any]) -> None:
    for path in args.confusion:
        write_bytes(path, CONFUSION_FILES[path.suffix.lower()](confusion))
    if args.json:
        asked = {"data": args.data.name, "labels": args.labels, "split": args.split}
        asked |= {"domain": args.domain, "tta": args.tta, "absent": args.absent}
        content = json.dumps(asked | measured, indent=1, allow_nan=False)
        write_bytes(args.json, (content + "\n").encode())


def _check_files(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.suffix.lower() not in CONFUSION_FILES:
            raise ConfigError(
                f"--confusion {str(path)!r} is neither {' nor '.join(CONFUSION_FILES)}; "
                "give a file of one of these kinds"
            )


def _check_parts(head: Domain, labels: Domain) -> None:
    """The head must mean by each id what the label maps mean."""
    if head.names != labels.names:
        raise SchemaMismatch(
            f"the model's head {head.name!r} has other parts than domain {labels.name!r}: "
            f"{', '.join(head.names)}; evaluate with a domain file of these parts"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of hp-eval."""
    return run_command(build_parser(), evaluate_command, argv)
