"""A trained network teaches a new one: every head, on every image of the batch.

    images ─┬─ student ─► logits_d ─┐
            └─ teacher ─► logits_d ─┴─► T² KL(softmax(teacher / T) ‖ softmax(student / T))
               (frozen)

The teacher answers in all domains, so images labelled in one domain teach the other heads too.

Source: Distilling the Knowledge in a Neural Network, arXiv:1503.02531, Section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hp_sdk.errors import ConfigError
from hp_trainer.checkpoint import build_from_checkpoint, read_checkpoint
from hp_trainer.frozen import Frozen
from hp_trainer.models.sst import SST


@dataclass(frozen=True, slots=True)
class DistillationConfig:
    """Learning from another network beside the labels; without a `teacher` there is none."""

    teacher: str = ""
    """Checkpoint of an SST network, of any preset, that shares a domain with the new one."""
    weight: float = 1.0
    """Weight of the sum over heads beside alpha, beta and lam of [aux]."""
    temperature: float = 2.0
    """T: above 1 the teacher's doubts count more."""

    def __post_init__(self) -> None:
        for key in ("weight", "temperature"):
            if not getattr(self, key) > 0:
                raise ConfigError(
                    f"distillation.{key} is {getattr(self, key)}; allowed are numbers above 0"
                )


class Distillation(Frozen):
    """The frozen teacher and the loss on its answers; never saved."""

    def __init__(self, teacher: SST, *, weight: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__()
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.freeze()

    def losses(self, images: Tensor, student: SST, finest: Tensor) -> dict[str, Tensor]:
        """`distil.<d>` for every head that both have.

        `images` (N, 3, H, W) as the student got them; `finest` (N, D, H/4, W/4), its last map.
        """
        with torch.no_grad():
            seen = self.teacher.features(images)[-1]
        return {
            f"distil.{name}": self._divergence(
                student.head(name)(finest), self.teacher.head(name)(seen)
            )
            for name in student.heads
            if name in self.teacher.heads
        }

    def _divergence(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Mean over pixels; both (N, Z, h, w)."""
        ours = (logits.float() / self.temperature).log_softmax(1)
        theirs = (wanted.float() / self.temperature).log_softmax(1)
        each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * each.mean()


def open_distillation(config: DistillationConfig, student: SST) -> Distillation | None:
    """The teacher that the configuration names.

    Raises:
        ConfigError: it is no SST, or has no head of the student's domains, or one of another size.
    """
    if not config.teacher:
        return None
    teacher = build_from_checkpoint(read_checkpoint(Path(config.teacher)))
    if not isinstance(teacher, SST):
        raise ConfigError("distillation.teacher is no SST network; name a checkpoint of one")
    known = {domain.name: domain for domain in teacher.domains}
    shared = [domain for domain in student.domains if domain.name in known]
    if not shared:
        raise ConfigError(
            f"distillation.teacher answers {', '.join(known)}, and the new network "
            f"{', '.join(d.name for d in student.domains)}; they must share a domain"
        )
    for domain in shared:
        if domain.names != known[domain.name].names:
            raise ConfigError(
                f"distillation.teacher has other classes in {domain.name!r} than the new network"
            )
    return Distillation(teacher, weight=config.weight, temperature=config.temperature)
