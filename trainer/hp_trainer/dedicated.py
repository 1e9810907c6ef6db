"""Step 2 of dedicated training: a frozen teacher shows the student what its own domains see.

    images ─┬─ student ─► H_l ─ MSA_t ─ MSE_t ─► S^t, X^t ─┐
            │             └─ head_t ─► logits_t            ├─ MST_{s,t} ─► λ (L_dataset + L_img)
            └─ teacher ─► H_l ─ MSA_s ─ MSE_s ─► S^s, X^s ─┘
               (step 1, frozen: network, MSA, MSE and X_0)

Source: SST, arXiv:2304.04140, Section 3.5, Eq. (13b).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from hp_sdk.domains import Domain, coarse_to_fine
from hp_sdk.errors import ConfigError
from hp_trainer.auxiliary import AuxConfig, Auxiliary, Pair, Semantics
from hp_trainer.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from hp_trainer.frozen import Frozen
from hp_trainer.models.auxiliary.msa import predicted_regions
from hp_trainer.models.sst import SST

INPUTS = ("target", "all")


@dataclass(frozen=True, slots=True)
class DedicatedConfig:
    """Step 2 of dedicated training; without a `teacher` there is none."""

    teacher: str = ""
    """Checkpoint of step 1, with its auxiliary modules; the student starts from its weights."""
    inputs: str = "target"
    """What the teacher looks at: images labelled in the `target` domain, or `all` of the batch, so
    that sets labelled in a source domain may be mixed in (register A12)."""

    def __post_init__(self) -> None:
        if self.inputs not in INPUTS:
            raise ConfigError(
                f"dedicated.inputs is {self.inputs!r}; choose one of {', '.join(INPUTS)}"
            )


class Teacher(Frozen):
    """Frozen network, MSA and MSE of step 1; never saved."""

    def __init__(self, net: SST, aux: Auxiliary, *, inputs: str = "target") -> None:
        super().__init__()
        self.net, self.aux, self.inputs = net, aux, inputs
        self.freeze()

    @torch.no_grad()
    def look_at(
        self, images: Tensor, labels: Mapping[str, tuple[Tensor, Tensor]], targets: Sequence[str]
    ) -> dict[str, Semantics]:
        """X_0, S_l and X_l of every source domain on images (N, 3, H, W) of the batch.

        The regions are the teacher's own predictions: no source labels exist on target images.
        Pixels that the crop padded belong to none.
        """
        index, valid = _looked_at(images, labels, targets, self.inputs)
        features = self.net.features(images.index_select(0, index))
        found = {}
        for name in self.net.heads:
            logits = self.net.head(name)(features[-1])
            regions = predicted_regions(logits, features, valid)
            found[name] = self.aux.semantics(name, features, regions)
        return found


def _looked_at(
    images: Tensor,
    labels: Mapping[str, tuple[Tensor, Tensor]],
    targets: Sequence[str],
    inputs: str,
) -> tuple[Tensor, Tensor | None]:
    """Positions of the images in the batch, and where they are no padding (n, H, W) bool."""
    wanted = targets if inputs == "target" else tuple(labels)
    valid = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool, device=images.device)
    seen = valid.new_zeros(len(images))
    for name in wanted:
        if name in labels:
            index, maps = labels[name]
            seen[index] = True
            valid[index] |= maps != 255
    index = seen.nonzero().flatten()
    return index, valid[index]


def teacher_pairs(teacher: Teacher, targets: Sequence[Domain]) -> tuple[Pair, ...]:
    """Every (source, target) pair, the coarser domain first.

    Raises:
        ConfigError: a target domain is one of the teacher's.
    """
    sources = teacher.net.domains
    if both := {d.name for d in sources} & {d.name for d in targets}:
        raise ConfigError(
            f"the teacher was trained on {sorted(both)[0]!r} already; dedicated training is for a "
            "domain it does not know (to go on with the same domains, use train.init)"
        )
    order = [d.name for d in coarse_to_fine([*sources, *targets])]
    found = []
    for s in sources:
        for t in targets:
            a, b = sorted((s.name, t.name), key=order.index)
            found.append((a, b))
    return tuple(found)


def build_teacher(checkpoint: Checkpoint, config: AuxConfig, *, inputs: str = "target") -> Teacher:
    """The teacher in a checkpoint of step 1.

    Raises:
        ConfigError: the checkpoint was stripped, or trained without auxiliary modules.
    """
    net = build_from_checkpoint(checkpoint)
    assert isinstance(net, SST)
    aux = Auxiliary(net.config.width, net.domains, (), _trained_with(checkpoint, config))
    own = aux.state_dict()
    given = {key: value for key, value in (checkpoint.aux or {}).items() if key in own}
    if missing := sorted(set(own) - set(given)):
        raise ConfigError(
            f"dedicated.teacher lacks {len(missing)} tensors of MSA and MSE, first {missing[0]}; "
            "it must be the unstripped last.pt of a run with aux.beta above 0"
        )
    aux.load_state_dict(given)
    return Teacher(net, aux, inputs=inputs)


def _trained_with(checkpoint: Checkpoint, config: AuxConfig) -> AuxConfig:
    """The auxiliary settings of step 1 as its checkpoint tells them."""
    told = checkpoint.train.get("config", {}).get("aux", {})
    known = {f.name: told[f.name] for f in fields(AuxConfig) if f.name in told}
    return replace(config, **known)


def open_teacher(config: DedicatedConfig, aux: AuxConfig) -> tuple[Checkpoint, Teacher] | None:
    """The checkpoint of step 1 and the teacher in it, if the configuration names one."""
    if not config.teacher:
        return None
    checkpoint = read_checkpoint(Path(config.teacher))
    return checkpoint, build_teacher(checkpoint, aux, inputs=config.inputs)
