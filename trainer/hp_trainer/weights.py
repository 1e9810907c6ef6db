"""Published weights onto the parts of SST, with an account of every tensor.

    file ─ load_any ─► tensors ─┬─ ResNet, torchvision or detectron2 ─► net.backbone
                                └─ pixel decoder of Mask2Former ──────► net.encoder

Nothing stays random unnoticed: what does not fit is an error, before any tensor is changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hp_sdk.errors import ModelError
from hp_trainer.models.backbone import ResNet
from hp_trainer.models.encoder import Encoder
from hp_trainer.models.sst import SST
from hp_trainer.weight_files import WeightFile, load_any
from hp_trainer.weight_layouts import (
    BACKBONE_PREFIXES,
    LAYOUTS,
    Weights,
    architecture,
    choose_layout,
    detect_layout,
    part_of,
    refuse_deep_stem,
    refuse_folded_statistics,
    refuse_other_networks,
)

CLASSIFIER = r"(fc|linear)\."
COUNTERS = r".*num_batches_tracked"

PIXEL_DECODER_PREFIXES = ("sem_seg_head.pixel_decoder.", "pixel_decoder.")
PIXEL_DECODER = "transformer.level_embed"
"""A tensor that only this pixel decoder has."""
FPN_LEVEL = r"(mask_features|adapter_1|layer_1)\."
"""Mask2Former's level at stride 4; SST's decoder takes its role (spec §2.3)."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of every tensor. Names are the network's own, except `dropped`."""

    part: str
    layout: str
    matched: tuple[str, ...]
    """Tensors of the network that got their value from the file."""
    transformed: tuple[str, ...] = ()
    """Those of `matched` that bear another name in the file."""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    """Name and both shapes."""
    dropped: tuple[str, ...] = ()
    """Tensors of the file that SST has no place for: classifier, counters, the FPN level."""

    def __str__(self) -> str:
        listed = ("missing", "unexpected", "mismatched", "dropped")
        rows = [(name, getattr(self, name)) for name in ("matched", "transformed", *listed)]
        return "\n".join(
            [f"{self.part:<12}  {self.layout} layout"]
            + [
                f"  {name:<12}{len(names):>6}  {_few(names) if name in listed else ''}".rstrip()
                for name, names in rows
            ]
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """An import that fits, not yet done."""

    target: nn.Module
    values: dict[str, Tensor]
    report: ImportReport

    def apply(self) -> ImportReport:
        """Copy the values into the network."""
        self.target.load_state_dict(self.values, strict=False)
        return self.report


def import_backbone(backbone: ResNet, tensors: Weights, *, kind: str = "auto") -> ImportReport:
    """Load a ResNet in torchvision's (timm's) or detectron2's layout.

    `tensors` may hold a whole model with the ResNet under `backbone.`; `kind` is auto,
    torchvision or detectron2.

    Raises:
        ModelError: another network, another depth, or any tensor missing or left over.
    """
    return plan_backbone(backbone, tensors, kind=kind).apply()


def plan_backbone(backbone: ResNet, tensors: Weights, *, kind: str = "auto") -> Plan:
    """`import_backbone` without its last step."""
    refuse_other_networks(tensors)
    source = part_of(tensors, BACKBONE_PREFIXES)
    refuse_deep_stem(source)
    layout = choose_layout(source, kind)
    rename = LAYOUTS[layout].rename
    renamed = {rename(name): tensor for name, tensor in source.items()}
    refuse_folded_statistics(renamed)
    _refuse_other_depth(backbone, renamed)
    return plan_part("backbone", layout, backbone, source, rename, f"{CLASSIFIER}|{COUNTERS}")


def import_pixel_decoder(encoder: Encoder, tensors: Weights) -> ImportReport:
    """Load the deformable encoder of a Mask2Former checkpoint (spec §4.2).

    Raises:
        ModelError: no pixel decoder, or one of other shapes than the encoder.
    """
    return plan_pixel_decoder(encoder, tensors).apply()


def plan_pixel_decoder(encoder: Encoder, tensors: Weights) -> Plan:
    """`import_pixel_decoder` without its last step."""
    source = part_of(tensors, PIXEL_DECODER_PREFIXES)
    if PIXEL_DECODER not in source:
        raise ModelError(
            f"there is no pixel decoder of Mask2Former in these tensors (no {PIXEL_DECODER})"
        )
    return plan_part("encoder", "mask2former", encoder, source, _encoder_name, FPN_LEVEL)


def load_pretrained(net: SST, path: Path, *, trust: bool = False) -> str:
    """Load every part of `net` that the file serves; returns the report to be logged.

    Raises:
        ModelError: unreadable file, weights of another network, or a part that does not fit; the
            network is then unchanged.
    """
    file = load_any(path, trust=trust)
    plans = _plans(net, file.tensors)
    reports = [str(plan.apply()) for plan in plans]
    return "\n".join([_heading(path, file), *reports, *_untouched(net, file, plans)])


def _plans(net: SST, tensors: Weights) -> list[Plan]:
    refuse_other_networks(tensors)
    decoder = PIXEL_DECODER in part_of(tensors, PIXEL_DECODER_PREFIXES)
    plans: list[Plan] = []
    if not decoder or detect_layout(part_of(tensors, BACKBONE_PREFIXES)):
        plans.append(plan_backbone(net.backbone, tensors))
    if decoder:
        plans.append(plan_pixel_decoder(net.encoder, tensors))
    return plans


def _heading(path: Path, file: WeightFile) -> str:
    return f"{'pretrained':<12}  {path.name} ({'; '.join((file.format, *file.notes))})"


def _untouched(net: SST, file: WeightFile, plans: Sequence[Plan]) -> list[str]:
    parts = {plan.report.part for plan in plans}
    kept = [name for name, _ in net.named_children() if name not in parts]
    used = sum(len(plan.report.matched) + len(plan.report.dropped) for plan in plans)
    lines = [f"{'unchanged':<12}  {', '.join(kept)} (not in the file)"]
    if others := len(file.tensors) - used:
        lines.append(f"{'unused':<12}  {others} tensors of the file belong to no part of SST")
    return lines


def _encoder_name(name: str) -> str:
    return re.sub(r"^transformer\.(encoder\.)?", "", name)


def _refuse_other_depth(backbone: ResNet, renamed: Weights) -> None:
    given, expected = architecture(renamed), architecture(backbone.state_dict())
    if given != expected:
        raise ModelError(
            f"these weights are of {given}, the network's backbone is {expected}; "
            "take weights of that network, or set model.backbone"
        )


def plan_part(
    part: str,
    layout: str,
    target: nn.Module,
    source: Weights,
    rename: Callable[[str], str],
    droppable: str,
) -> Plan:
    """What of `source` fills `target`, by renamed keys; nothing is copied yet.

    Keys that match `droppable` and that the target lacks are left out in silence.
    """
    own = target.state_dict()
    names = {name: rename(name) for name in source}
    dropped = [n for n in source if names[n] not in own and re.match(droppable, names[n])]
    found = [n for n in source if names[n] in own]
    fitting = {names[n]: n for n in found if own[names[n]].shape == source[n].shape}
    report = ImportReport(
        part,
        layout,
        matched=tuple(fitting),
        transformed=tuple(new for new, old in fitting.items() if new != old),
        missing=tuple(sorted(set(own) - set(names.values()))),
        unexpected=tuple(names[n] for n in source if n not in {*dropped, *found}),
        mismatched=tuple(
            f"{names[n]} (here {_shape(own[names[n]])}, in the file {_shape(source[n])})"
            for n in found
            if names[n] not in fitting
        ),
        dropped=tuple(dropped),
    )
    _require_fit(report)
    return Plan(target, {new: source[old] for new, old in fitting.items()}, report)


def _require_fit(report: ImportReport) -> None:
    """Counters of batches may be missing: they do not enter the result."""
    missing = tuple(name for name in report.missing if not re.fullmatch(COUNTERS, name))
    problems = {
        "missing": missing,
        "unexpected": report.unexpected,
        "of another shape": report.mismatched,
    }
    if any(problems.values()) or not report.matched:
        told = "; ".join(f"{len(n)} {what}: {_few(n)}" for what, n in problems.items() if n)
        raise ModelError(
            f"the {report.part} cannot take these weights ({report.layout} layout): {told}; "
            "give weights of the configured network, or fit model.* to them"
        )


def _few(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
