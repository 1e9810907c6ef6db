"""SST in training: the network that ships (`net`) and what stays behind (`aux`, `teacher`).

    images ─ net ─► H_1 H_2 H_3 ─┬─ head_d ─► logits_d ─────────────────────► α L_seg
                                 └─ MSA_d ─ S_l ─ MSE_d ─ X_l ─ Eq. 7 ───────► β L_aux
                                            │            │
                                            └─── MST_{a,b} for every pair ──► λ (L_dataset + L_img)

Single-domain, multi-data-set, universal and dedicated training are this model with other domains,
weights and pairs; dedicated training adds a frozen teacher (`hp_trainer.dedicated`).

Source: SST, arXiv:2304.04140, Section 3, Eqs. (12), (13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor, nn

from hp_sdk.domains import Domain, admissible
from hp_sdk.errors import ConfigError
from hp_trainer.auxiliary import AuxConfig, Auxiliary, Pair, Semantics, domain_pairs
from hp_trainer.dedicated import Teacher, teacher_pairs
from hp_trainer.distillation import Distillation
from hp_trainer.limbs import admissible_of_sides, limb_sides
from hp_trainer.losses import (
    IGNORED,
    admissible_nll,
    at_loss_size,
    cross_entropy,
    lovasz_softmax,
    mean_over_images,
    subsample_labels,
)
from hp_trainer.models.auxiliary.msa import labelled_regions, predicted_regions
from hp_trainer.models.auxiliary.mse import associate
from hp_trainer.models.sst import SST

Labels = Mapping[str, tuple[Tensor, Tensor]]
"""Domain → (positions in the batch (n,), label maps (n, H, W) int64)."""


class SSTTraining(nn.Module):
    """`net` and the auxiliary modules; `losses` is one step of training.

    With one domain this is step 1 of dedicated training (Eq. 13a); with beta = lam = 0 it is the
    multi-dataset baseline, or finetuning; with a `teacher` it is step 2 (Eq. 13b), and its pairs
    join every domain of the teacher with every domain of `net`. `distillation` is not in the paper.

    Source: SST, arXiv:2304.04140, Eqs. (12), (13).
    """

    def __init__(
        self,
        net: SST,
        config: AuxConfig | None = None,
        *,
        teacher: Teacher | None = None,
        distillation: Distillation | None = None,
        **overrides: object,
    ) -> None:
        super().__init__()
        self.config = config = config or AuxConfig(**overrides)  # type: ignore[arg-type]
        self.net = net
        self.teacher = teacher
        self.distillation = distillation
        self.domains = {domain.name: domain for domain in net.domains}
        self.pairs: tuple[Pair, ...] = ()
        if config.lam:
            self.pairs = (
                teacher_pairs(teacher, net.domains)
                if teacher
                else domain_pairs(net.domains, config.topology)
            )
        if config.pairing == "same" and self.pairs and not teacher:
            raise ConfigError(
                'aux.pairing "same" pairs teacher and student on one image; without a teacher '
                "choose all or random"
            )
        for name in set(config.domain_weights) - set(self.domains):
            raise ConfigError(
                f"aux.domain_weights names {name!r}; the domains are {', '.join(self.domains)}"
            )
        trained = net.domains if config.beta or self.pairs else ()
        known = teacher.net.domains if teacher else ()
        self.aux = Auxiliary(net.config.width, trained, self.pairs, config, known)
        self._sets = _admissible_sets(self.domains) if config.partial else {}

    @property
    def known_domains(self) -> tuple[Domain, ...]:
        """Domains whose labels a batch may hold: the network's, and those of the teacher."""
        return (*self.net.domains, *(self.teacher.net.domains if self.teacher else ()))

    def forward(
        self, images: Tensor, labels: Labels, *, warm_up: bool = False
    ) -> dict[str, Tensor]:
        """`losses`, under the name that data-parallel wrappers call."""
        return self.losses(images, labels, warm_up=warm_up)

    def losses(self, images: Tensor, labels: Labels, *, warm_up: bool = False) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) and labels → `total` and its parts, unweighted.

        Parts: `seg.<d>`, `aux.<d>`, `partial.<d>`, `dataset.<a>__<b>`, `img.<a>__<b>`,
        `distil.<d>`.
        `warm_up` takes the regions of MSA from the labels, whatever `mask_source` says.
        """
        found = self.net.features(images)
        answers = self._answers(found[-1], labels)
        parts: dict[str, Tensor] = {}
        semantics = {name: self.aux.categories(name) for name in self.aux.msa}
        for name, (index, target) in labels.items():
            if not len(index) or name not in self.domains:
                continue
            logits = take(answers[name], index)
            parts[f"seg.{name}"] = self._segmentation(logits, target)
            if name in self.aux.msa:
                maps = [take(each.unbind(), index) for each in found]
                regions = self._regions(logits, maps, target, from_labels=warm_up)
                semantics[name] = self.aux.semantics(name, maps, regions)
                aux_logits = associate(maps[-1], semantics[name].x[-1])
                parts[f"aux.{name}"] = self._cross_entropy(aux_logits, target)
        parts |= self._partial(answers, labels)
        parts |= self._transfer(images, labels, semantics)
        if self.distillation:
            parts |= self.distillation.losses(images, self.net, found[-1])
        return {"total": self._total(parts), **parts}

    def _answers(self, finest: Tensor, labels: Labels) -> dict[str, Sequence[Tensor]]:
        """Logits of every image by each head that a loss asks for.

        All images at once, though a loss wants some of them: gathering logits costs less than
        gathering maps, which are wider.
        """
        asked = {target for source, target in self._sets if source in labels}
        asked |= {name for name, (index, _) in labels.items() if len(index)}
        return {
            name: self.net.head(name)(finest).unbind() for name in self.domains if name in asked
        }

    def _regions(
        self, logits: Tensor, maps: list[Tensor], target: Tensor, *, from_labels: bool
    ) -> list[Tensor]:
        if from_labels or self.config.mask_source == "gt":
            return labelled_regions(target, maps)
        return predicted_regions(logits, maps, target != IGNORED)

    def _transfer(
        self, images: Tensor, labels: Labels, semantics: dict[str, Semantics]
    ) -> dict[str, Tensor]:
        """L_dataset always, L_img when both domains have an image to look at."""
        if self.teacher and self.pairs:
            semantics |= self.teacher.look_at(images, labels, tuple(self.domains))
        parts: dict[str, Tensor] = {}
        for pair in self.pairs:
            parts |= self.aux.transfer(pair, semantics)
        return parts

    def _partial(
        self, answers: Mapping[str, Sequence[Tensor]], labels: Labels
    ) -> dict[str, Tensor]:
        """Loss on admissible sets where a head's own domain does not label a pixel.

        What several other domains say of an image is averaged over all their pixels.
        """
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for (source, target), sets in self._sets.items():
            if source not in labels:
                continue
            index, maps = labels[source]
            maps = self._undecided(index, maps, labels.get(target))
            some = (maps != IGNORED).flatten(1).any(1)
            if some.any():
                logits = take(answers[target], index[some])
                logits, maps = at_loss_size(logits, maps[some], 1)
                total, count = admissible_nll(logits, maps, sets.to(logits.device))
                before = sums.get(target, (0.0, 0))
                sums[target] = total + before[0], count + before[1]
        return {
            f"partial.{target}": total / count.clamp(min=1)
            for target, (total, count) in sums.items()
        }

    def _undecided(self, index: Tensor, maps: Tensor, own: tuple[Tensor, Tensor] | None) -> Tensor:
        """Labels (n, H, W) of images `index` (n,) at loss size, ignored where `own` has a class.

        `own`: images (m,) and maps (m, H, W) that the head's own domain labels, None without any.
        """
        maps = subsample_labels(maps, self.config.loss_stride)
        if own is None:
            return maps
        rows = {image: row for row, image in enumerate(index.tolist())}
        maps = maps.clone()
        for image, known in zip(own[0].tolist(), own[1], strict=True):
            if image in rows:
                known = subsample_labels(known[None], self.config.loss_stride)[0]
                maps[rows[image]].masked_fill_(known != IGNORED, IGNORED)
        return maps

    def _segmentation(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = self._cross_entropy(logits, target)
        if self.config.lovasz:
            small = subsample_labels(target, target.shape[-1] // logits.shape[-1])
            some = slice(self.config.lovasz_stride // 2, None, self.config.lovasz_stride)
            logits, small = logits[:, :, some, some].float(), small[:, some, some]
            loss = loss + self.config.lovasz * lovasz_softmax(logits, small)
        return loss

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        logits, target = self._at_loss_size(logits, target)
        if self.config.seg_mean == "images":
            return mean_over_images(cross_entropy, logits, target)
        return cross_entropy(logits, target)

    def _at_loss_size(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return at_loss_size(logits, target, self.config.loss_stride)

    def _total(self, parts: Mapping[str, Tensor]) -> Tensor:
        config = self.config
        present = sum(key.startswith("seg.") for key in parts)
        share = 1 / max(1, present) if config.average_domains else 1.0
        weights = {
            "seg": config.alpha * share,
            "aux": config.beta * share,
            "partial": config.alpha * config.partial,
            "dataset": config.lam,
            "img": config.lam,
            "distil": self.distillation.weight if self.distillation else 0.0,
        }
        terms = []
        for key, value in parts.items():
            kind, _, name = key.partition(".")
            own = config.domain_weights.get(name, 1.0) if kind in ("seg", "aux") else 1.0
            terms.append(weights[kind] * own * value)
        return torch.stack(terms).sum()


def take(images: Sequence[Tensor], index: Tensor) -> Tensor:
    """The images at `index` (n,) as one tensor.

    `index_select` gives the same; its gradient is added image by image and far slower on a CPU.
    """
    return torch.stack([images[i] for i in index.tolist()])


def _admissible_sets(domains: Mapping[str, Domain]) -> dict[Pair, Tensor]:
    """(source, target) → (Z_source, Z_target) bool, where a table says what may stand for what."""
    sets: dict[Pair, Tensor] = {}
    sides = limb_sides()
    for source, target in permutations(domains.values(), 2):
        table = (
            admissible_of_sides(target) if source == sides else admissible(source.name, target.name)
        )
        if table is None:
            continue
        allowed = torch.zeros(source.num_classes, target.num_classes, dtype=torch.bool)
        for row, ids in enumerate(table):
            allowed[row, list(ids)] = True
        sets[source.name, target.name] = allowed
        if source == sides:
            sets[target.name, source.name] = allowed.T
    return sets
