"""Published SCHP checkpoints: LIP (20 classes), ATR (18), PASCAL-Person-Part (7).

    state_dict of `module.…` ─ our names ─ |γ| + eps ─ BGR folded into the first convolution
                             └ edge and first parsing classifier: left behind

Their batch norms are activated ones (InPlaceABN), which scale by |γ| + 1e-5; a negative γ taken
as it is ruins the result. Ports to plain batch norm keep a counter beside each norm, and their γ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from hp_export.foreign.fit import COUNTER, check_classes, renamed, require_fit
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ModelError
from hp_trainer.checkpoint import Checkpoint, input_description
from hp_trainer.models.schp import SCHP, SCHPConfig

ABN_EPS = 1e-5
SIGNATURE = ("context_encoding.bottleneck.0.weight", "edge.conv1.0.weight", "fushion.3.weight")
LEFT_BEHIND = r"(edge\.conv[45]|decoder\.conv4)\."

RENAMES = (
    (r"^(conv|bn)(\d)\.", r"stem.\1\2."),
    (r"^context_encoding\.stages\.(\d)\.1\.", r"context.stages.\1.0."),
    (r"^context_encoding\.stages\.(\d)\.2\.", r"context.stages.\1.1."),
    (r"^context_encoding\.", r"context."),
    (r"^edge\.conv1\.", r"edges.0."),
    (r"^edge\.conv2\.", r"edges.1."),
    (r"^edge\.conv3\.", r"edges.2."),
    (r"^decoder\.conv1\.", r"decoder.coarse."),
    (r"^decoder\.conv2\.", r"decoder.skip."),
    (r"^decoder\.conv3\.([01])\.", r"decoder.mix.0.\1."),
    (r"^decoder\.conv3\.2\.", r"decoder.mix.1.0."),
    (r"^decoder\.conv3\.3\.", r"decoder.mix.1.1."),
    (r"^fushion\.([01])\.", r"fusion.\1."),
)


@dataclass(frozen=True, slots=True)
class Published:
    """How one of the checkpoints was trained."""

    domain: str
    side: int
    """Of the square input, a multiple of 8."""
    pad: int
    """What is missing to the side of training: 473 is 472 and one."""


PUBLISHED = {
    20: Published("lip", 472, 1),
    18: Published("atr", 512, 0),
    7: Published("pascal", 512, 0),
}
"""Number of classes → checkpoint. SCHP's own default side is 473."""


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are SCHP's tensors, by names that only it has."""
    return all(name in tensors for name in SIGNATURE)


def convert(tensors: Mapping[str, Tensor], path: Path, domain: Domain | None = None) -> Checkpoint:
    """The checkpoint in our terms; `aux` holds what stays behind.

    LIP and CIHP have 20 classes each; without `domain`, a file name with "cihp" means the latter.

    Raises:
        ModelError: tensors are missing, left over or of another shape.
        ConfigError: the domain has another number of classes.
    """
    classes = len(tensors["fushion.3.weight"])
    domain = domain or _guess(classes, path)
    check_classes(domain, classes)
    published = PUBLISHED.get(classes, PUBLISHED[20])
    config = _config(tensors, path, published.pad)
    model = renamed(
        {key: value for key, value in tensors.items() if not re.match(LEFT_BEHIND, key)},
        (*RENAMES, (r"^fushion\.3\.", f"heads.{domain.name}.")),
    )
    with torch.device("meta"):
        require_fit(str(path), SCHP(config, (domain,)), model)
    return Checkpoint(
        family="schp",
        config=asdict(config),
        domains=(domain,),
        model=_for_rgb(_plain_norms(model)),
        aux={key: value for key, value in tensors.items() if re.match(LEFT_BEHIND, key)},
        input=input_description((published.side, published.side)),
    )


def _guess(classes: int, path: Path) -> Domain:
    if classes == 20 and "cihp" in path.name.lower():
        return load_domain("cihp")
    if classes not in PUBLISHED:
        known = ", ".join(f"{item.domain} ({count})" for count, item in PUBLISHED.items())
        raise ModelError(
            f"{path} is an SCHP checkpoint with {classes} classes; known are {known}. Name its "
            "label domain, or give a .toml file of it"
        )
    return load_domain(PUBLISHED[classes].domain)


def _config(tensors: Mapping[str, Tensor], path: Path, pad: int) -> SCHPConfig:
    def rows(name: str) -> int:
        return len(tensors[f"{name}.weight"])

    try:
        return SCHPConfig(
            depths=(_depth(tensors, 1), _depth(tensors, 2), _depth(tensors, 3), _depth(tensors, 4)),
            stem=rows("conv1"),
            width=rows("layer1.0.conv1"),
            context=rows("context_encoding.bottleneck.0"),
            edge=rows("edge.conv1.0"),
            decoder=rows("decoder.conv1.0"),
            skip=rows("decoder.conv2.0"),
            fusion=rows("fushion.0"),
            pad=pad,
        )
    except KeyError as exc:
        raise ModelError(f"{path} is an SCHP checkpoint without {exc}; download it again") from exc


def _depth(tensors: Mapping[str, Tensor], layer: int) -> int:
    """Blocks of one layer."""
    found = (re.match(rf"layer{layer}\.(\d+)\.", name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _plain_norms(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """γ → |γ| + eps, except in ports to plain batch norm; without counters."""
    ported = any(name.endswith(COUNTER) for name in model)
    plain = {name: tensor for name, tensor in model.items() if not name.endswith(COUNTER)}
    for name in [] if ported else list(plain):
        if name.endswith(".running_mean"):
            weight = f"{name.removesuffix('.running_mean')}.weight"
            plain[weight] = plain[weight].abs() + ABN_EPS
    return plain


def _for_rgb(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network was trained on BGR with ImageNet's statistics; ours are the same in RGB."""
    return {**model, "stem.conv1.weight": model["stem.conv1.weight"].flip(1)}
