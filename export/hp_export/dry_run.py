"""What an export would do, without tracing a node or writing a byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hp_export.graph import count_macs
from hp_export.options import ExportOptions, check_options, plan_bundle, sizes_of
from hp_export.photos import list_photos
from hp_export.strip import bare_network, strip_report
from hp_trainer.checkpoint import Checkpoint


def plan_lines(checkpoint: Checkpoint, target: Path, options: ExportOptions) -> Iterator[str]:
    """The plan for people; every refusal that needs no tracing is raised here.

    Raises:
        UnknownHead: a head the checkpoint does not have.
        ConfigError: a size, precision, opset, folder or target that is not allowed.
        CorruptArtifact: the weights do not fit the network.
    """
    check_options(options)
    plan, report = plan_bundle(checkpoint, target, options), strip_report(checkpoint)
    network, heads = bare_network(checkpoint), tuple(plan.heads)
    shipped = sum(part.parameters for part in report.ships)
    yield f"bundle   {plan.name} {plan.version} ({plan.family}) in {target}"
    yield f"heads    {', '.join(f'{h} ({len(plan.heads[h].domain.names)})' for h in heads)}"
    yield f"ships    {shipped / 1e6:.2f} M parameters; left behind {report.left_bytes / 1e6:.2f} MB"
    for size_hw in sizes_of(plan, options):
        macs = count_macs(network, heads, size_hw)
        yield f"input    {size_hw[0]}x{size_hw[1]}, {macs / 1e9:.2f} GMACs, opset {options.opset}"
    for flavour in ("logits", "logits, labels, confidence")[: 1 + options.e2e]:
        yield f"file     {' and '.join(options.precisions)} for each size: {flavour}"
    if options.calib is not None:
        count = len(list_photos(options.calib))
        yield f"photos   {count} in {options.calib}, every second one held out"
    yield "nothing was written"
