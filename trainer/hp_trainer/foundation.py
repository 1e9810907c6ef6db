"""Published weights of SAM and CLIP into SCHNet, with an account of every tensor.

    sam ──► net.sam       (names, shapes: foundation_layouts)
    clip ─► net.clip
    text, or clip ─► text encoder ─ labels in prompts ─► net.text.<domain>   (foundation_text)

Tables of positions stay as they were published; the network makes a copy for the size in use.
Nothing stays random unnoticed, and nothing is changed before everything fits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, ModelError
from hp_trainer.foundation_config import FoundationConfig
from hp_trainer.foundation_files import FoundationFiles
from hp_trainer.foundation_layouts import (
    PARTS,
    PUBLISHED,
    PartWeights,
    ViTSize,
    take_part,
    vit_size,
)
from hp_trainer.foundation_text import find_features
from hp_trainer.models.schnet.schnet import SCHNet
from hp_trainer.weight_files import WeightFile
from hp_trainer.weight_layouts import Weights
from hp_trainer.weights import ImportReport, Plan, plan_part

__all__ = ["FoundationConfig", "import_encoder", "load_foundation", "plan_encoder"]

ENCODERS = ("sam", "clip")


def load_foundation(
    net: SCHNet, config: FoundationConfig, *domains: Domain, partial: bool = False
) -> tuple[str, ...]:
    """Load what `config` names into the network; returns the lines of the report.

    Text features are found for `domains`, all of the network's if none is given. With `partial`,
    what no file is named for stays as it is: a checkpoint brings it, or random weights are wanted.

    Raises:
        ConfigError: something that the network needs is not named; or it does not belong to these
            labels or sizes.
        ModelError: a file is missing, damaged or of another network. The network is then unchanged.
    """
    files = FoundationFiles(config)
    planned = [_plan_from(files, net, key, partial=partial) for key in ENCODERS]
    wanted = (domains or net.domains) if net.config.use_srm else ()
    found = {d.name: find_features(net.text, files, d, partial=partial) for d in wanted}
    for name, (features, _) in found.items():
        if features is not None:
            net.text.assign(name, features)
    for plan, _ in planned:
        if plan is not None:
            plan.apply()
    return tuple(line for _, lines in (*planned, *found.values()) for line in lines)


def import_encoder(net: SCHNet, key: str, tensors: Weights) -> ImportReport:
    """Load the image encoder `key`, sam or clip, of published weights.

    Raises:
        ModelError: other weights, another size, or any tensor missing or left over; the network is
            then unchanged.
    """
    return plan_encoder(net, key, take_part(tensors, key)).apply()


def plan_encoder(net: SCHNet, key: str, weights: PartWeights) -> Plan:
    """`import_encoder` without its last step."""
    encoder, part = getattr(net, key), PARTS[key]
    size, expected = vit_size(weights.tensors, key), vit_size(encoder.state_dict(), key)
    if size is not None and size != expected:
        raise ModelError(
            f"foundation.{key} is {size}, the network's {part.title} is {expected}; take weights "
            f"of that size, or a preset for these, or fit model.{key}_width, _depth, _heads and "
            "_grid to them"
        )
    _refuse_other_heads(net.config, key, size)
    plan = plan_part(part.title, weights.layout, encoder, weights.tensors, str, part.droppable)
    return Plan(encoder, plan.values, _renamed(plan.report, weights))


def _plan_from(
    files: FoundationFiles, net: SCHNet, key: str, *, partial: bool
) -> tuple[Plan | None, list[str]]:
    title = PARTS[key].title
    if getattr(net, key) is None:
        unused = [f"{title:<12}  not used, model.use_{key} is false"]
        return None, unused if files.given(key) else []
    if not files.given(key) and partial:
        return None, [f"{title:<12}  unchanged, no file is named"]
    if not files.given(key):
        raise ConfigError(
            f"the network's {title} has no weights, foundation.{key} is empty; give "
            f"{PARTS[key].accepted}, or start from a checkpoint with train.init"
        )
    file = files.read(key)
    weights = take_part(file.tensors, key)
    plan = plan_encoder(net, key, weights)
    return plan, _report(files.path(key).name, file, weights, plan.report)


def _report(name: str, file: WeightFile, weights: PartWeights, report: ImportReport) -> list[str]:
    lines = [f"{'foundation':<12}  {name} ({'; '.join((file.format, *file.notes))})"]
    lines += str(report).splitlines()
    if others := len(file.tensors) - weights.taken:
        lines.append(f"{'unused':<12}  {others} tensors of the file belong to other parts")
    return lines


def _refuse_other_heads(config: Any, key: str, size: ViTSize | None) -> None:
    if size in PUBLISHED:
        (name, heads), given = PUBLISHED[size], getattr(config, f"{key}_heads")
        if heads != given:
            raise ConfigError(
                f"model.{key}_heads is {given}; {name}, whose weights foundation.{key} holds, has "
                f"{heads}"
            )


def _renamed(report: ImportReport, weights: PartWeights) -> ImportReport:
    changed = tuple(name for name in report.matched if name in weights.renamed)
    return replace(report, transformed=changed)
