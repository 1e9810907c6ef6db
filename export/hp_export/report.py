"""What was verified, as lines and as the table of docs/export.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hp_sdk.errors import ConfigError
from hp_sdk.files import write_bytes

Entry = Mapping[str, Any]
"""One entry of a manifest's `verify`."""

HEADER = (
    "| artifact | runtime | head | batch | images | largest difference | same labels "
    "| same at boundaries | mean IoU | mean IoU, all classes | margin |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def agreement_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """The worst batch of every artifact, runtime and head, for a terminal."""
    for entry in _worst(entries):
        yield (
            f"{entry['artifact']:>18} {entry['head']:>8}  {entry['runtime']}: largest difference "
            f"{entry['max_abs']:.2e}  same labels {entry['label_agreement']:.4%}  "
            f"mean IoU {entry['miou']:.4f}"
        )


def agreement_table(entries: Iterable[Entry]) -> str:
    """The same as a Markdown table."""
    rows = (
        f"| {e['artifact']} | {e['runtime']} | {e['head']} | {e['batch']} | {e['images']} "
        f"| {e['max_abs']:.1e} of {e['largest_logit']:.1f} | {e['label_agreement']:.3%} "
        f"| {e['boundary_agreement']:.2%} | {e['miou']:.4f} | {e['miou_all']:.4f} "
        f"| {e['margin']:.2g} |"
        for e in _worst(entries)
    )
    return "\n".join([HEADER, *rows])


def write_section(page: Path, name: str, writer: str, content: str) -> None:
    """Replace what lies between `<!-- name: written by writer -->` and `<!-- end -->` on a page.

    Raises:
        ConfigError: the page has no such marks.
    """
    start, end = f"<!-- {name}: written by {writer} -->", "<!-- end -->"
    text = page.read_text(encoding="utf-8")
    before, begins, rest = text.partition(start)
    _, ends, after = rest.partition(end)
    if not begins or not ends:
        raise ConfigError(f"{str(page)!r} has no lines {start!r} and, below it, {end!r}; add them")
    write_bytes(page, f"{before}{start}\n\n{content}\n\n{end}{after}".encode())


def _worst(entries: Iterable[Entry]) -> list[Entry]:
    groups: dict[Sequence[str], list[Entry]] = {}
    for entry in entries:
        key = (entry["artifact"], entry["runtime"], entry["head"])
        groups.setdefault(key, []).append(entry)
    return [min(group, key=lambda entry: entry["label_agreement"]) for group in groups.values()]
