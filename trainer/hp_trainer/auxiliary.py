"""What is trained beside the network and left behind: MSA and MSE per domain, MST per pair.

    H_1 H_2 H_3 ─ MSA_d ─ S_l ─ MSE_d ─ X_l ─┬─ Eq. 7 ──────────► β L_aux
                                             └─ MST_{a,b} ──────► λ (L_dataset + L_img)

Source: SST, arXiv:2304.04140, Sections 3.2 to 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import cast

import torch
from torch import Tensor, nn

from hp_sdk.domains import Domain, coarse_to_fine
from hp_sdk.errors import ConfigError
from hp_trainer.models.auxiliary.msa import MSA
from hp_trainer.models.auxiliary.mse import INTRA_MASKS, MSE
from hp_trainer.models.auxiliary.mst import MST, STOPS, ImagePairs, meet, symmetric_scr
from hp_trainer.priors import intra_matrix, static_cross

Pair = tuple[str, str]
Topology = str | Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Semantics:
    """What the auxiliary branch knows of one domain in one batch."""

    x0: Tensor
    """X_0 (Z, D), the learned categories."""
    s: Sequence[Tensor] = ()
    """S_1..S_3, each (N, Z, D); empty when no image of the batch is looked at."""
    x: Sequence[Tensor] = ()
    """X_1..X_3, each (N, Z, D)."""


AUX_CHOICES = {
    "intra_mask": INTRA_MASKS,
    "mask_source": ("pred", "gt"),
    "max_fill": ("neg_inf", "zero"),
    "dynamic_scale": ("sqrtd", "none"),
    "static_cross": ("auto", "glove", "atoms", "onehot"),
    "pairing": ("all", "random", "same"),
    "scr_stop": STOPS,
    "seg_mean": ("pixels", "images"),
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
    gt_warmup_epochs: int = 0
    """Regions come from the labels for so many passes over the data, then from `mask_source`."""
    max_fill: str = "neg_inf"
    share_w: bool = False
    """One W_s and one f_Q, f_K, f_V for all scales (register A5)."""
    dynamic_scale: str = "sqrtd"
    static_cross: str = "auto"
    """Prior of Eq. (8): published word vectors (`glove`), body atoms, equal names, or what fits."""
    embeddings: str = ""
    """GloVe or word2vec text file that replaces the prior of Eq. (8)."""
    self_loops: bool = True
    pairing: str = "all"
    """Images that meet in Eq. (11): `all` pairs, max(n_a, n_b) at `random`, or, in dedicated
    training, the `same` image seen by teacher and student."""
    scr_dataset: bool = True
    """Consistency of the data sets, L_dataset (Table 6)."""
    scr_image: bool = True
    """Consistency of image pairs, L_img (Table 6)."""
    scr_stop: str = "none"
    """Side of Eqs. (10), (11) that gets no gradient: `none`, the `state` X or what is `mapped`."""
    scr_skip_absent: bool = False
    """Leave categories without pixels in the target image out of Eq. (11)."""
    domain_weights: dict[str, float] = field(default_factory=dict)
    """Factors on L_seg and L_aux by domain, 1 where none is given (the paper)."""
    seg_mean: str = "pixels"
    """L_seg averages all valid `pixels` of a domain, or its `images` (register A11)."""
    average_domains: bool = False
    """L_seg and L_aux are means over the domains of the batch instead of sums (register A11)."""
    lovasz: float = 0.0
    """Weight of the Lovász-softmax loss beside the cross-entropy in L_seg (0: the paper)."""
    lovasz_stride: int = 1
    """The Lovász term looks at every n-th logit of every n-th row."""
    loss_stride: int = 1
    """Compare logits and labels at 1/loss_stride of the crop (1: the paper; 2 saves memory)."""
    partial: float = 0.0
    """Weight of the loss on admissible sets, by which photographs labelled in one domain teach
    the heads of others, where their own labels are undecided (0: the paper)."""

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
    """`aux.msa.<d>`, `aux.mse.<d>`, `aux.mst.<a>__<b>`: everything that is left behind.

    `domains` get MSA and MSE; `pairs` an MST each, also with a domain of `known` that has its MSA
    and MSE elsewhere (the teacher of dedicated training).
    """

    def __init__(
        self,
        width: int,
        domains: Sequence[Domain],
        pairs: Sequence[Pair],
        config: AuxConfig,
        known: Sequence[Domain] = (),
    ) -> None:
        super().__init__()
        self.config = config
        msa, mse, mst = {}, {}, {}
        for d in domains:
            msa[d.name] = MSA(
                width, d.num_classes, share_w=config.share_w, max_fill=config.max_fill
            )
            mse[d.name] = MSE(
                width, _intra(d, config), intra_mask=config.intra_mask, share=config.share_w
            )
        by_name = {d.name: d for d in (*domains, *known)}
        for a, b in pairs:
            static = _static(by_name[b], by_name[a], config)
            mst[f"{a}__{b}"] = MST(width, static, dynamic_scale=config.dynamic_scale)
        self.msa, self.mse, self.mst = (nn.ModuleDict(part) for part in (msa, mse, mst))

    def semantics(self, name: str, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> Semantics:
        """X_0, S_1..S_3 and X_1..X_3 of one domain from H_1..H_3 and its regions."""
        s = self.msa[name](maps, regions)
        x0, *x = self.mse[name](s)
        return Semantics(x0, s, x)

    def categories(self, name: str) -> Semantics:
        """X_0 of a domain that no image of the batch is labelled in."""
        return Semantics(cast("MSE", self.mse[name]).x0)

    def transfer(self, pair: Pair, semantics: Mapping[str, Semantics]) -> dict[str, Tensor]:
        """L_dataset of one pair, and L_img when both domains have an image in the batch.

        Source: SST, arXiv:2304.04140, Eqs. (8) to (11).
        """
        (a, b), key = pair, "__".join(pair)
        of_a, of_b, mst = semantics[a], semantics[b], cast("MST", self.mst[key])
        losses = {}
        if self.config.scr_dataset:
            x0 = (of_a.x0, of_b.x0)
            losses[f"dataset.{key}"] = self._align(x0, mst.map_dataset(*x0))
        if self.config.scr_image and of_a.s and of_b.s:
            losses[f"img.{key}"] = self._transfer_images(mst, of_a, of_b)
        return losses

    def _transfer_images(self, mst: MST, of_a: Semantics, of_b: Semantics) -> Tensor:
        pairs = image_pairs(len(of_a.s[0]), len(of_b.s[0]), self.config.pairing)
        pairs = pairs and (pairs[0].to(of_a.x0.device), pairs[1].to(of_a.x0.device))
        terms = []
        for scale, (x_a, x_b, s_a, s_b) in enumerate(
            zip(of_a.x, of_b.x, of_a.s, of_b.s, strict=True), start=1
        ):
            mapped = mst.map_image(scale, (x_a, x_b), (s_a, s_b), pairs)
            rows = (None, None)
            if self.config.scr_skip_absent:
                rows = meet(_present(s_a), _present(s_b), pairs)
            terms.append(self._align(meet(x_a, x_b, pairs), mapped, rows))
        return torch.stack(terms).sum()

    def _align(
        self,
        states: tuple[Tensor, Tensor],
        mapped: tuple[Tensor, Tensor],
        rows: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> Tensor:
        return symmetric_scr(states, mapped, rows, stop=self.config.scr_stop)


def image_pairs(n_a: int, n_b: int, pairing: str) -> ImagePairs | None:
    """Which images meet: None for all of them, else max(n_a, n_b) pairs (register A7)."""
    if pairing == "all":
        return None
    if pairing == "same":
        return torch.arange(n_a), torch.arange(n_b)
    count = max(n_a, n_b)
    return torch.randint(n_a, (count,)), torch.randint(n_b, (count,))


def _present(s: Tensor) -> Tensor:
    """Categories with pixels: S_l of an empty region is exactly 0 (Eqs. 2 to 4 have no bias)."""
    return (s != 0).any(-1)


def _intra(domain: Domain, config: AuxConfig) -> Tensor:
    return torch.from_numpy(intra_matrix(domain, self_loops=config.self_loops))


def _static(b: Domain, a: Domain, config: AuxConfig) -> Tensor:
    matrix = static_cross(b, a, source=config.static_cross, embeddings=config.embeddings or None)
    return torch.from_numpy(matrix)
