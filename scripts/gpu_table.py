"""What gpu_check.py found, for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpu_supervise import MISSING, is_missing

AGREEMENT = 0.98
"""Share of labels that a runtime must give as the CPU does; for random weights it is only told."""


def failures(found: Mapping[str, Any]) -> list[str]:
    """What ran and is wrong; what is missing is no failure."""
    wrong = ["tests"] if (found.get("tests") or {}).get("exit_code") == 1 else []
    agreed = found.get("agree-bundled") or {}
    for runtime, share in agreed.items():
        if isinstance(share, float) and runtime != "seconds" and share < AGREEMENT:
            wrong.append(f"{runtime} disagrees with the CPU ({share:.4f})")
    return wrong


def table(found: Mapping[str, Any]) -> str:
    """The report."""
    return "\n".join([*_lines(found), *(f"FAILED: {each}" for each in failures(found))]) + "\n"


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    host = found.get("host") or {}
    yield f"# {host.get('gpu', 'No GPU seen yet')}"
    yield ""
    for name, piece in found.items():
        if not name.startswith(("bench-", "compiled-")):
            yield f"* {name}: {_say(piece)}"
    yield from _engines(found)
    yield from _alone(found)
    yield from ("", "Not measured:", "")
    for name, piece in found.items():
        if is_missing(piece):
            yield f"* {name}: {piece[MISSING]} {piece.get('said', '')}".rstrip()
        for what, why in _gaps(piece):
            yield f"* {name}, {what}: {why}"


def _engines(found: Mapping[str, Any]) -> Iterator[str]:
    head = (
        *("model", "engine", "engine ms", "photos/s", "of engine", "over engine ms", "enqueue ms"),
        *("JPEG to labels/s", "up GB/s", "of copies", "TFLOP/s", "of matmul"),
    )
    yield from (f"| {' | '.join(head)} |", "|---" * len(head) + "|")
    for name, report in _reports(found):
        calls = {row["name"]: row["throughput"]["value"] for row in report["configurations"]}
        for row in report["gpu"]["rows"]:
            cells = (
                *(row["network_ms"], row["photos_per_s"], row["share_of_network"]),
                *(row["overhead_ms"], row["enqueue_ms"], calls.get(row["name"])),
                *(row["upload_gb_per_s"], row["upload_share"]),
                *(row["network_tflops"], row["matmul_share"]),
            )
            yield f"| {name} | {row['name']} | {' | '.join(map(_say, cells))} |"


def _alone(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "| model | network alone | batch | ms | photos/s |", "|---|---|---|---|---|")
    for name, report in _reports(found):
        for row in report["gpu"]["baselines"]:
            numbers = (row["batch"], row["network_ms"], row["photos_per_s"])
            yield f"| {name} | {row['name']} | {' | '.join(map(_say, numbers))} |"


def _reports(found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, piece in found.items():
        report = piece.get("report") if isinstance(piece, dict) else None
        if report and report.get("gpu"):
            yield name.partition("-")[2], report


def _gaps(piece: Any) -> Iterator[tuple[str, str]]:
    report = piece.get("report") if isinstance(piece, dict) else None
    if not report:
        return
    yield from ((report.get("gpu") or {}).get(MISSING) or {}).items()
    yield from ((name, why[MISSING]) for name, why in piece.get("absent", {}).items())


def _say(found: Any) -> str:
    if is_missing(found):
        return f"missing ({found[MISSING]})"
    if isinstance(found, dict):
        return ", ".join(f"{key} {_say(value)}" for key, value in found.items() if key != "tail")
    if found is None:
        return "-"
    return f"{found:.4g}" if isinstance(found, float) else str(found)
