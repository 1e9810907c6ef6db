"""What the papers report, to print beside what was measured; never mixed with it.

Sources: SST, CVPR 2023, arXiv:2304.04140, Tables 1 to 6; SCHNet, arXiv:2503.22237, Tables 1 to 6.
Rows of other methods are as those two papers quote them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hp_sdk.domains import alias_lut
from hp_sdk.errors import ConfigError
from hp_trainer.metrics import Scores

CITATIONS = {
    "SST": "SST, CVPR 2023, arXiv:2304.04140",
    "SCHNet": "SCHNet, arXiv:2503.22237",
}

DATA_SETS: dict[str, tuple[str, ...]] = {
    "pascal": ("PASCAL-Person-Part",),
    "atr": ("ATR",),
    "cihp": ("CIHP", "CIHP-val"),
    "lip": ("LIP-val",),
}
"""Label domain → how the tables call its data set."""

NOTE = (
    "The papers' numbers are targets, reported for networks with pretrained backbones, trained on "
    "the full data sets and scored on the official lists; this project has not reproduced them. "
    "The measured value is of this model, this list and this protocol: a difference says nothing "
    "about the method until data, training and protocol agree."
)

METRICS = {"mIoU": "miou", "mean_acc": "mean_acc", "pixel_acc": "pixel_acc"}
"""Metric of the tables → field of `Scores`."""

_TABLE = Path(__file__).parent / "tables" / "paper_results.csv"
_KEY = ("paper", "table", "method", "backbone", "dataset", "setting")


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of a table of a paper."""

    paper: str
    table: str
    method: str
    backbone: str
    dataset: str
    setting: str
    """What an ablation changed; empty in the main tables."""
    metrics: dict[str, float] = field(default_factory=dict[str, float], kw_only=True)
    """mIoU, mean_acc, pixel_acc, IoU_<part>: per cent, as printed."""


def paper_rows(domain: str) -> tuple[PaperRow, ...]:
    """Every row of both papers about the data set of a domain, in the papers' order.

    Raises:
        ConfigError: neither paper reports a data set of this domain.
    """
    known = alias_lut(domain)[0]
    if known not in DATA_SETS:
        raise ConfigError(
            f"neither paper reports results for domain {domain!r}; "
            f"they do for {', '.join(DATA_SETS)}"
        )
    rows: dict[tuple[str, ...], PaperRow] = {}
    with _TABLE.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["dataset"] in DATA_SETS[known]:
                place = tuple(line[name] for name in _KEY)
                row = rows.setdefault(place, PaperRow(*place))
                row.metrics[line["metric"]] = float(line["value"])
    return tuple(rows.values())


def paper_entry(rows: Sequence[PaperRow]) -> dict[str, Any]:
    """The value of the JSON key `paper`."""
    return {
        "note": NOTE,
        "citations": {name: CITATIONS[name] for name in dict.fromkeys(r.paper for r in rows)},
        "unit": "per cent",
        "rows": [asdict(row) for row in rows],
    }


def comparison(rows: Sequence[PaperRow], scores: Scores) -> list[str]:
    """A table as lines of text: the measured value first, then each row that has a mean."""
    measured = {name: 100 * getattr(scores, key) for name, key in METRICS.items()}
    lines = [f"{'':4}{'  '.join(f'{name:>9}' for name in METRICS)}  per cent"]
    lines.append(_line("=>", measured, f"measured here, {scores.images} images"))
    lines += [
        _line("", row.metrics, _described(row)) for row in rows if METRICS.keys() & row.metrics
    ]
    cited = dict.fromkeys(CITATIONS[row.paper] for row in rows)
    return [*lines, NOTE, f"Sources: {'; '.join(cited)}."]


def _line(mark: str, values: dict[str, float], text: str) -> str:
    cells = (f"{values[name]:9.2f}" if name in values else f"{'-':>9}" for name in METRICS)
    return f"{mark:4}{'  '.join(cells)}  {text}"


def _described(row: PaperRow) -> str:
    backbone = f", {row.backbone}" if row.backbone != "-" else ""
    setting = f", {row.setting}" if row.setting else ""
    return f"{row.method}{backbone}{setting} ({row.paper} {row.table}, {row.dataset})"
