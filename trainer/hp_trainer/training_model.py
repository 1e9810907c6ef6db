"""SST in training: the network that ships (`net`) and what stays behind (`aux`).

    images ─ net ─► H_1 H_2 H_3 ─┬─ head_d ─► logits_d ─────────────────────► α L_seg
                                 └─ MSA_d ─ S_l ─ MSE_d ─ X_l ─ Eq. 7 ───────► β L_aux
                                            │            │
                                            └─── MST_{a,b} for every pair ──► λ (L_dataset + L_img)

Source: SST, arXiv:2304.04140, Section 3 and Eq. (12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from hp_sdk.domains import Domain, admissible, coarse_to_fine
from hp_sdk.errors import ConfigError
from hp_trainer.losses import (
    IGNORED,
    admissible_nll,
    cross_entropy,
    lovasz_softmax,
    resize_logits,
    subsample_labels,
)
from hp_trainer.models.auxiliary.msa import MSA, labelled_regions, predicted_regions
from hp_trainer.models.auxiliary.mse import INTRA_MASKS, MSE, associate
from hp_trainer.models.auxiliary.mst import MST, symmetric_scr
from hp_trainer.models.sst import SST
from hp_trainer.priors import intra_matrix, static_cross

Labels = Mapping[str, tuple[Tensor, Tensor]]
"""Domain → (positions in the batch (n,), label maps (n, H, W) int64)."""

Pair = tuple[str, str]
Topology = str | Sequence[Sequence[str]]


AUX_CHOICES = {
    "intra_mask": INTRA_MASKS,
    "mask_source": ("pred", "gt"),
    "max_fill": ("neg_inf", "zero"),
    "dynamic_scale": ("sqrtd", "none"),
    "static_cross": ("auto", "glove", "atoms", "onehot"),
}


@dataclass(frozen=True, slots=True)
class AuxConfig:
    """What is trained beside the network; the defaults are the paper's (register A1 to A9)."""

    topology: str | tuple[tuple[str, str], ...] = "full"
    """Pairs of domains: `full` (all), `progressive` (a chain, coarse to fine), `none` or a list."""
    alpha: float = 10.0
    """Weight of L_seg."""
    beta: float = 1.0
    """Weight of L_aux; 0 builds no MSA and MSE."""
    lam: float = 5.0
    """Weight of L_dataset + L_img; 0 builds no MST."""
    intra_mask: str = "post"
    mask_source: str = "pred"
    """Regions of MSA: `pred` (arg-max of the head) or `gt`."""
    max_fill: str = "neg_inf"
    share_w: bool = False
    dynamic_scale: str = "sqrtd"
    static_cross: str = "auto"
    self_loops: bool = True
    lovasz: float = 0.0
    """Weight of the Lovász-softmax loss beside the cross-entropy in L_seg (0: the paper)."""
    loss_stride: int = 1
    """Compare logits and labels at 1/loss_stride of the crop (1: the paper; 2 saves memory)."""
    partial: float = 0.0
    """Weight of the loss on admissible sets, by which photographs labelled in one domain teach
    the heads of others (0: the paper)."""

    def __post_init__(self) -> None:
        for key, allowed in AUX_CHOICES.items():
            if getattr(self, key) not in allowed:
                given, choices = getattr(self, key), ", ".join(allowed)
                raise ConfigError(f"aux.{key} is {given!r}; choose one of {choices}")


def domain_pairs(domains: Sequence[Domain], topology: Topology) -> tuple[Pair, ...]:
    """Unordered pairs (a, b), the coarser domain first.

    Raises:
        ConfigError: unknown topology or domain.
    """
    names = [domain.name for domain in coarse_to_fine(domains)]
    if topology == "full":
        return tuple(combinations(names, 2))
    if topology == "progressive":
        return tuple(pairwise(names))
    if topology == "none":
        return ()
    if isinstance(topology, str):
        raise ConfigError(
            f"aux.topology is {topology!r}; choose full, progressive, none or a list of pairs"
        )
    for name in {name for pair in topology for name in pair} - set(names):
        raise ConfigError(f"aux.topology names {name!r}; the domains are {', '.join(names)}")
    for pair in topology:
        if len(set(pair)) != 2:
            raise ConfigError(f"aux.topology holds {list(pair)!r}; a pair is two different domains")
    return tuple(_ordered(pair, names) for pair in topology)


def _ordered(pair: Sequence[str], names: Sequence[str]) -> Pair:
    first, second = sorted(pair, key=names.index)
    return first, second


class Auxiliary(nn.Module):
    """`aux.msa.<d>`, `aux.mse.<d>`, `aux.mst.<a>__<b>`: everything that is left behind."""

    def __init__(
        self, width: int, domains: Sequence[Domain], pairs: Sequence[Pair], config: AuxConfig
    ) -> None:
        super().__init__()
        msa, mse, mst = {}, {}, {}
        for d in domains:
            msa[d.name] = MSA(
                width, d.num_classes, share_w=config.share_w, max_fill=config.max_fill
            )
            mse[d.name] = MSE(width, _intra(d, config), intra_mask=config.intra_mask)
        by_name = {d.name: d for d in domains}
        for a, b in pairs:
            static = _static(by_name[b], by_name[a], config)
            mst[f"{a}__{b}"] = MST(width, static, dynamic_scale=config.dynamic_scale)
        self.msa, self.mse, self.mst = (nn.ModuleDict(part) for part in (msa, mse, mst))

    def semantics(
        self, name: str, maps: Sequence[Tensor], regions: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(S_1..S_3, X_0..X_3) of one domain."""
        s = self.msa[name](maps, regions)
        return s, self.mse[name](s)

    def x0(self, name: str) -> Tensor:
        """X_0 (Z, D), the learned categories of one domain."""
        return cast("MSE", self.mse[name]).x0

    def transfer(self, pair: Pair) -> MST:
        """The mapping between two domains."""
        return cast("MST", self.mst["__".join(pair)])


class SSTTraining(nn.Module):
    """`net` and the auxiliary modules; `losses` is one step of universal training.

    With one domain this is dedicated training's step one (Eq. 13a); with beta = lam = 0 it is the
    multi-dataset baseline.

    Source: SST, arXiv:2304.04140, Eq. (12).
    """

    def __init__(self, net: SST, config: AuxConfig | None = None, **overrides: object) -> None:
        super().__init__()
        self.config = config = config or AuxConfig(**overrides)  # type: ignore[arg-type]
        self.net = net
        self.domains = {domain.name: domain for domain in net.domains}
        self.pairs = domain_pairs(net.domains, config.topology) if config.lam else ()
        trained = net.domains if config.beta or self.pairs else ()
        self.aux = Auxiliary(net.config.width, trained, self.pairs, config)
        self._sets = _admissible_sets(self.domains) if config.partial else {}

    def losses(self, images: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) and labels → `total` and its parts, unweighted.

        Parts: `seg.<d>`, `aux.<d>`, `partial.<d>`, `dataset.<a>__<b>`, `img.<a>__<b>`.
        """
        features = self.net.features(images)
        parts: dict[str, Tensor] = {}
        semantics: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
        for name, (index, target) in labels.items():
            if not len(index):
                continue
            # without auxiliary modules only the finest map is looked at
            wanted = features if self.aux.msa else features[-1:]
            maps = [feature.index_select(0, index) for feature in wanted]
            logits = self.net.head(name)(maps[-1])
            parts[f"seg.{name}"] = self._segmentation(logits, target)
            if name in self.aux.msa:
                semantics[name] = self._semantics(name, maps, logits, target)
                aux_logits = associate(maps[-1], semantics[name][1][-1])
                parts[f"aux.{name}"] = self._cross_entropy(aux_logits, target)
        parts |= self._partial(features[-1], labels)
        for pair in self.pairs:
            parts |= self._transfer(pair, semantics)
        return {"total": self._total(parts), **parts}

    def _semantics(
        self, name: str, maps: list[Tensor], logits: Tensor, target: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(S_1..S_3, X_0..X_3) of one domain."""
        if self.config.mask_source == "gt":
            regions = labelled_regions(target, maps)
        else:
            regions = predicted_regions(logits, maps, target != IGNORED)
        return self.aux.semantics(name, maps, regions)

    def _transfer(
        self, pair: Pair, semantics: Mapping[str, tuple[list[Tensor], list[Tensor]]]
    ) -> dict[str, Tensor]:
        """L_dataset always, L_img when both domains have an image in the batch."""
        a, b = pair
        key, mst = f"{a}__{b}", self.aux.transfer(pair)
        x0_a, x0_b = self.aux.x0(a), self.aux.x0(b)
        parts = {f"dataset.{key}": symmetric_scr(x0_a, x0_b, mst.map_dataset(x0_a, x0_b))}
        if a in semantics and b in semantics:
            (s_a, x_a), (s_b, x_b) = semantics[a], semantics[b]
            terms = [
                symmetric_scr(
                    x_a[scale],
                    x_b[scale],
                    mst.map_image(scale, x_a[scale], x_b[scale], s_a[scale - 1], s_b[scale - 1]),
                )
                for scale in range(1, len(s_a) + 1)
            ]
            parts[f"img.{key}"] = torch.stack(terms).sum()
        return parts

    def _partial(self, finest: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Loss on admissible sets for heads whose domain does not label the image itself."""
        parts: dict[str, Tensor] = {}
        for (source, target), sets in self._sets.items():
            if source not in labels:
                continue
            index, maps = labels[source]
            own = labels[target][0] if target in labels else index[:0]
            foreign = ~torch.isin(index, own)
            if foreign.any():
                logits = self.net.head(target)(finest.index_select(0, index[foreign]))
                logits, target_maps = self._at_loss_size(logits, maps[foreign])
                parts[f"partial.{target}"] = admissible_nll(
                    logits, target_maps, sets.to(logits.device)
                )
        return parts

    def _segmentation(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = self._cross_entropy(logits, target)
        if self.config.lovasz:
            small = subsample_labels(target, target.shape[-1] // logits.shape[-1])
            loss = loss + self.config.lovasz * lovasz_softmax(logits.float(), small)
        return loss

    def _cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(*self._at_loss_size(logits, target))

    def _at_loss_size(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        target = subsample_labels(target, self.config.loss_stride)
        return resize_logits(logits, (int(target.shape[1]), int(target.shape[2]))), target

    def _total(self, parts: Mapping[str, Tensor]) -> Tensor:
        config = self.config
        weights = {
            "seg": config.alpha,
            "aux": config.beta,
            "partial": config.alpha * config.partial,
            "dataset": config.lam,
            "img": config.lam,
        }
        terms = [weights[key.partition(".")[0]] * value for key, value in parts.items()]
        return torch.stack(terms).sum()


def _intra(domain: Domain, config: AuxConfig) -> Tensor:
    return torch.from_numpy(intra_matrix(domain, self_loops=config.self_loops))


def _static(b: Domain, a: Domain, config: AuxConfig) -> Tensor:
    return torch.from_numpy(static_cross(b, a, source=config.static_cross))


def _admissible_sets(domains: Mapping[str, Domain]) -> dict[Pair, Tensor]:
    """(source, target) → (Z_source, Z_target) bool, where a table says what may stand for what."""
    sets: dict[Pair, Tensor] = {}
    for source, target in ((s, t) for s in domains for t in domains if s != t):
        table = admissible(source, target)
        if table is not None:
            sets[source, target] = torch.zeros(
                domains[source].num_classes, domains[target].num_classes, dtype=torch.bool
            )
            for row, allowed in enumerate(table):
                sets[source, target][row, list(allowed)] = True
    return sets
