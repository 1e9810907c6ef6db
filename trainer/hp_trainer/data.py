"""Labelled photographs and paper dolls as mixed-domain batches.

    set.load(i) ─ augment ─► worker processes ─ collate ─► Batch(images, {domain: (which, maps)})

Neutral layout of a photo set: `images/<id>.jpg|png`, one folder of label PNGs per domain,
`<split>.txt` with one id per line. One photo may be labelled in several domains. The published
datasets are read as they are distributed (`layouts`).
Every random number comes from (seed, draw number), so a resumed run repeats nothing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError
from hp_trainer.augment import AugmentConfig, Sample, augment, cut_mix, resized
from hp_trainer.collage import CollageSet
from hp_trainer.layouts import PhotoOptions, PhotoSet, encoding_of
from hp_trainer.paperdolls import paper_doll
from hp_trainer.sampler import MIXES, DomainMixSampler, Draw, ShareOfBatches

Memory = defaultdict[tuple[Any, ...], dict[Path, Sample]]
"""Kept photographs by how they are read, then by file."""


@dataclass(frozen=True, slots=True)
class SetConfig:
    """One source of samples."""

    root: str = ""
    """Folder of the photographs and labels; empty for paper dolls."""
    labels: dict[str, str] = field(default_factory=dict)
    """Domain → folder of its label PNGs, in `root` or anywhere; `labels` in a published layout.
    `pascal_m2fp` for labels in M2FP's order of classes, which are used as `pascal`."""
    split: str = "train"
    layout: str = "auto"
    """`auto` (the neutral layout, or the published one that `root` looks like), or its name."""
    decode_colors: bool = False
    """Accept label pictures in the colours of the domain's palette; otherwise they are errors."""
    full_check: bool = False
    """Read every photograph and label map before training, instead of a sample."""
    dolls: int = 0
    """Number of synthetic people images per epoch, drawn when needed (no folder)."""
    size_hw: tuple[int, int] = (256, 256)
    """Size of the synthetic images."""
    weight: float = 1.0
    """How often an image of this set is drawn, relative to its share of all images."""
    limit: int = 0
    """Use only the first `limit` images; 0 uses all."""
    fraction: float = 1.0
    """Share of the images that is used, chosen by the seed of the run (Table 5: 0.5, 0.8, 1)."""
    cache_px: int = 0
    """Keep photographs in memory, shrunk to this longer side; 0 decodes them every time."""
    onto: SetConfig | None = None
    """Photographs that the people of this set are pasted onto (`hp_trainer.collage`)."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(
                f"data.sets fraction is {self.fraction}; allowed are numbers above 0, up to 1"
            )


@dataclass(frozen=True, slots=True)
class DataConfig:
    """All sets, how they are mixed and augmented."""

    sets: tuple[SetConfig, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: int = 4
    mix: str = "domains"
    """`domains`: every batch holds every set if it fits; `proportional`: as shuffling all images
    together would give (register A10)."""
    workers: int = 1

    def __post_init__(self) -> None:
        if self.mix not in MIXES:
            raise ConfigError(f"data.mix is {self.mix!r}; choose one of {', '.join(MIXES)}")


class SampleSet(Protocol):
    """Anything that yields labelled images."""

    domains: tuple[str, ...]

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Image (H, W, 3) uint8 RGB and its label maps by domain."""
        ...


class CachedSet:
    """Photographs shrunk once and kept in the memory of the worker process.

    Args:
        source: photographs with labels.
        longer_px: what their longer side is shrunk to.
        kept: where they are kept by file; sets of the same photographs may share it.
    """

    def __init__(self, source: PhotoSet, longer_px: int, kept: dict[Path, Sample]) -> None:
        self.source, self.longer_px, self.domains = source, longer_px, source.domains
        self._kept = kept

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The shrunk sample; labels by nearest neighbour."""
        photo = self.source.image_path(self.source.ids[index])
        if photo not in self._kept:
            self._kept[photo] = shrink(self.source.load(index, rng), self.longer_px)
        return self._kept[photo]


def shrink(sample: Sample, longer_px: int) -> Sample:
    """Image (area average) and labels (nearest) with the longer side at most `longer_px`."""
    h, w = sample[0].shape[:2]
    factor = longer_px / max(h, w)
    if factor >= 1:
        return sample
    return resized(sample, (max(1, round(h * factor)), max(1, round(w * factor))))


class DollSet:
    """Synthetic people, drawn anew for every draw; labels in all built-in domains."""

    domains = ("pascal", "atr", "cihp", "lip", "ccp")

    def __init__(self, count: int, size_hw: tuple[int, int], domains: Sequence[str]) -> None:
        self.count, self.size_hw = count, size_hw
        self.domains = tuple(d for d in type(self).domains if d in domains)

    def __len__(self) -> int:
        return self.count

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """One synthetic image of `size_hw` with the labels of the wanted domains."""
        del index
        doll = paper_doll(rng, self.size_hw)
        return doll.image, {name: doll.labels[name] for name in self.domains}


def configured_path(text: str) -> Path:
    """A folder or file of a configuration; `$NAME` stands for an environment variable.

    Raises:
        ConfigError: the variable is not set.
    """
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise ConfigError(f"{text} needs an environment variable that is not set; export it first")
    return Path(expanded).expanduser()


class ChosenSet:
    """Some samples of another set."""

    def __init__(self, source: SampleSet, chosen: Sequence[int]) -> None:
        self.source, self.chosen, self.domains = source, chosen, source.domains

    def __len__(self) -> int:
        return len(self.chosen)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample at a place among the chosen ones."""
        return self.source.load(self.chosen[index], rng)


def choose(source: SampleSet, fraction: float, seed: int) -> SampleSet:
    """A seeded share of a set, in its order; at least one sample."""
    if fraction == 1:
        return source
    order = np.random.default_rng(seed).permutation(len(source))
    count = max(1, round(fraction * len(source)))
    return ChosenSet(source, sorted(int(i) for i in order[:count]))


def open_sets(
    config: DataConfig, domains: Sequence[str], *, known: Sequence[Domain] = ()
) -> list[SampleSet]:
    """Open every configured set.

    Args:
        config: the sets.
        domains: names of the network's heads.
        known: those of them that are not built in, so that their label ids can be checked.

    Raises:
        ConfigError: no set, or a set labelled in a domain the network has no head for.
        DataError: a set is incomplete.
    """
    if not config.sets:
        raise ConfigError("data.sets is empty; name at least one folder or `dolls = N`")
    for i, entry in enumerate(config.sets):
        named = [*entry.labels, *(entry.onto.labels if entry.onto else ())]
        if unknown := sorted(n for n in named if encoding_of(n)[0] not in domains):
            raise ConfigError(
                f"data.sets[{i}].labels names {unknown[0]!r}; domains are {', '.join(domains)}"
            )
    memory: Memory = defaultdict(dict)
    return [_open_set(entry, domains, known, memory) for entry in config.sets]


def _open_set(
    entry: SetConfig, domains: Sequence[str], known: Sequence[Domain], memory: Memory
) -> SampleSet:
    if entry.dolls:
        return DollSet(entry.dolls, entry.size_hw, domains)
    options = PhotoOptions(entry.layout, entry.decode_colors, entry.full_check, tuple(known))
    root = configured_path(entry.root)
    labels = {domain: str(configured_path(folder)) for domain, folder in entry.labels.items()}
    photos: SampleSet = PhotoSet(root, labels, entry.split, entry.limit, options)
    if entry.cache_px:
        same = (*labels.items(), entry.layout, entry.decode_colors, entry.cache_px)
        photos = CachedSet(photos, entry.cache_px, memory[same])
    if entry.onto is None:
        return photos
    mirrored = {domain.name: domain for domain in known}
    return CollageSet(photos, _open_set(entry.onto, domains, known, memory), mirrored)


class AugmentedSamples(Dataset[Sample]):
    """Draws → augmented samples; what one worker process runs."""

    def __init__(
        self,
        sets: Sequence[SampleSet],
        domains: Sequence[Domain],
        config: AugmentConfig,
        *,
        seed: int,
    ) -> None:
        self.sets, self.config, self.seed = sets, config, seed
        self.domains = {domain.name: domain for domain in domains}

    def __getitem__(self, draw: Draw) -> Sample:
        which, item, number = draw
        rng = np.random.default_rng([self.seed, number])
        view = self._view(which, item, rng)
        if self.config.cutmix and rng.random() < self.config.cutmix:
            another = int(rng.integers(len(self.sets[which])))
            view = cut_mix(view, self._view(which, another, rng), rng)
        return view

    def _view(self, which: int, item: int, rng: np.random.Generator) -> Sample:
        return augment(self.sets[which].load(item, rng), self.domains, self.config, rng)


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (N, H, W, 3) uint8 and, per domain, which of them are labelled and how."""

    images: Tensor
    labels: dict[str, tuple[Tensor, Tensor]]
    """Domain → (positions (n,) int64, label maps (n, H, W) uint8)."""


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples that may be labelled in different domains."""
    images = torch.from_numpy(np.stack([image for image, _ in samples]))
    names = sorted({name for _, labels in samples for name in labels})
    labels: dict[str, tuple[Tensor, Tensor]] = {}
    for name in names:
        which = [i for i, (_, maps) in enumerate(samples) if name in maps]
        maps = np.stack([samples[i][1][name] for i in which])
        labels[name] = (torch.tensor(which), torch.from_numpy(maps))
    return Batch(images, labels)


def _single_threaded(worker: int) -> None:
    del worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def open_batches(
    config: DataConfig,
    domains: Sequence[Domain],
    *,
    seed: int,
    start: int,
    part: tuple[int, int] = (0, 1),
) -> DataLoader[Any]:
    """An endless loader of `Batch` from step `start` on; `part` is (rank, world size)."""
    sets = open_sets(config, [domain.name for domain in domains], known=domains)
    sets = [choose(s, e.fraction, seed) for s, e in zip(sets, config.sets, strict=True)]
    sampler = DomainMixSampler(
        [len(s) for s in sets],
        [entry.weight for entry in config.sets],
        batch=config.batch,
        seed=seed,
        start=start,
        mix=config.mix,
    )
    return DataLoader(
        AugmentedSamples(sets, domains, config.augment, seed=seed),
        batch_sampler=ShareOfBatches(sampler, *part),
        num_workers=config.workers,
        collate_fn=collate,
        worker_init_fn=_single_threaded,
        # its own generator, so that opening a loader moves no other random state
        generator=torch.Generator(),
        persistent_workers=False,
    )


def images_in(loader: DataLoader[Any]) -> int:
    """Images of one pass over all sets of a loader made by `open_batches`."""
    samples = loader.dataset
    assert isinstance(samples, AugmentedSamples)
    return sum(len(each) for each in samples.sets)
