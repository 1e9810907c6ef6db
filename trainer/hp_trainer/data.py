"""Labelled photographs and paper dolls as mixed-domain batches.

    set.load(i) ─ augment ─► worker processes ─ collate ─► Batch(images, {domain: (which, maps)})

Neutral layout of a photo set: `images/<id>.jpg|png`, one folder of label PNGs per domain,
`<split>.txt` with one id per line. One photo may be labelled in several domains.
Every random number comes from (seed, draw number), so a resumed run repeats nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, DataError
from hp_sdk.png import read_labels
from hp_trainer.augment import AugmentConfig, Sample, augment
from hp_trainer.paperdolls import paper_doll
from hp_trainer.sampler import DomainMixSampler, Draw

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class SetConfig:
    """One source of samples."""

    root: str = ""
    """Folder in the neutral layout; empty for paper dolls."""
    labels: dict[str, str] = field(default_factory=dict)
    """Domain → folder of its label PNGs."""
    split: str = "train"
    dolls: int = 0
    """Number of synthetic people images per epoch, drawn when needed (no folder)."""
    size_hw: tuple[int, int] = (256, 256)
    """Size of the synthetic images."""
    weight: float = 1.0
    """How often an image of this set is drawn, relative to its share of all images."""
    limit: int = 0
    """Use only the first `limit` images; 0 uses all."""
    cache_px: int = 0
    """Keep photographs in memory, shrunk to this longer side; 0 decodes them every time."""


@dataclass(frozen=True, slots=True)
class DataConfig:
    """All sets, how they are mixed and augmented."""

    sets: tuple[SetConfig, ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    batch: int = 4
    workers: int = 1


class SampleSet(Protocol):
    """Anything that yields labelled images."""

    domains: tuple[str, ...]

    def __len__(self) -> int: ...

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Image (H, W, 3) uint8 RGB and its label maps by domain."""
        ...


class PhotoSet:
    """Photographs in the neutral layout.

    Raises:
        DataError: a folder, list, image or label map is missing or does not fit, naming the file.
    """

    def __init__(self, root: Path, labels: Mapping[str, str], split: str, limit: int = 0) -> None:
        self.root, self.labels = root, dict(labels)
        self.domains = tuple(labels)
        self.ids = read_ids(root, split)[: limit or None]
        self._images = root / "images"
        for folder in (self._images, *(root / name for name in labels.values())):
            if not folder.is_dir():
                raise DataError(f"data set {root} has no folder {folder.name}/")
        self._check_files()

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Image (H, W, 3) uint8 RGB and its label maps, uncropped."""
        del rng
        name = self.ids[index]
        image = read_image(self.image_path(name))
        maps = {d: read_label(self.root / f / f"{name}.png") for d, f in self.labels.items()}
        for domain, label in maps.items():
            if label.shape != image.shape[:2]:
                raise DataError(
                    f"{self.root / self.labels[domain] / name}.png is {label.shape[1]}x"
                    f"{label.shape[0]}, its image {image.shape[1]}x{image.shape[0]}"
                )
        return image, maps

    def image_path(self, name: str) -> Path:
        """The image file of one id, whatever its suffix."""
        for suffix in IMAGE_SUFFIXES:
            if (path := self._images / f"{name}{suffix}").exists():
                return path
        raise DataError(f"{self._images / name} exists with none of {', '.join(IMAGE_SUFFIXES)}")

    def _check_files(self) -> None:
        images = {path.stem for path in self._images.iterdir()}
        missing = [f"images/{name}" for name in self.ids if name not in images]
        for folder in self.labels.values():
            present = {path.name for path in (self.root / folder).iterdir()}
            missing += [f"{folder}/{n}.png" for n in self.ids if f"{n}.png" not in present]
        if missing:
            first = ", ".join(missing[:10])
            raise DataError(f"{self.root} lacks {len(missing)} listed files, first: {first}")


class CachedSet:
    """Samples of another set, shrunk once and kept in the memory of the worker process."""

    def __init__(self, source: SampleSet, longer_px: int) -> None:
        self.source, self.longer_px, self.domains = source, longer_px, source.domains
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The shrunk sample; labels by nearest neighbour."""
        if index not in self._kept:
            self._kept[index] = shrink(self.source.load(index, rng), self.longer_px)
        return self._kept[index]


def shrink(sample: Sample, longer_px: int) -> Sample:
    """Image (area average) and labels (nearest) with the longer side at most `longer_px`."""
    image, labels = sample
    factor = longer_px / max(image.shape[:2])
    if factor >= 1:
        return sample
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    small = {
        name: np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
        for name, label in labels.items()
    }
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), small


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


def data_folder(text: str) -> Path:
    """A folder of a configuration; `$NAME` stands for an environment variable.

    Raises:
        ConfigError: the variable is not set.
    """
    expanded = os.path.expandvars(text)
    if "$" in expanded:
        raise ConfigError(f"{text} needs an environment variable that is not set; export it first")
    return Path(expanded).expanduser()


def read_ids(root: Path, split: str) -> list[str]:
    """Ids of `<root>/<split>.txt`, as text (leading zeros matter)."""
    path = root / f"{split}.txt"
    if not path.is_file():
        lists = ", ".join(sorted(p.stem for p in root.glob("*.txt"))) or "none"
        raise DataError(f"{root} has no list {split}.txt; lists there: {lists}")
    ids = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not ids:
        raise DataError(f"{path} lists no image")
    return ids


def read_image(path: Path) -> np.ndarray:
    """Raw pixels (H, W, 3) uint8 RGB; EXIF orientation is ignored as annotations ignore it."""
    data = np.fromfile(path, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise DataError(f"{path} cannot be decoded as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_label(path: Path) -> np.ndarray:
    """Label ids (H, W) uint8 of a grey or indexed PNG.

    Raises:
        DataError: unreadable, or a colour picture.
    """
    return read_labels(path)


def open_sets(config: DataConfig, domains: Sequence[str]) -> list[SampleSet]:
    """Open every configured set.

    Raises:
        ConfigError: no set, or a set labelled in a domain the network has no head for.
    """
    if not config.sets:
        raise ConfigError("data.sets is empty; name at least one folder or `dolls = N`")
    sets: list[SampleSet] = []
    for i, entry in enumerate(config.sets):
        if unknown := sorted(set(entry.labels) - set(domains)):
            raise ConfigError(
                f"data.sets[{i}].labels names {unknown[0]!r}; domains are {', '.join(domains)}"
            )
        if entry.dolls:
            sets.append(DollSet(entry.dolls, entry.size_hw, domains))
        else:
            photos = PhotoSet(data_folder(entry.root), entry.labels, entry.split, entry.limit)
            sets.append(CachedSet(photos, entry.cache_px) if entry.cache_px else photos)
    return sets


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
    config: DataConfig, domains: Sequence[Domain], *, seed: int, start: int
) -> DataLoader[Any]:
    """An endless loader of `Batch` from step `start` on."""
    sets = open_sets(config, [domain.name for domain in domains])
    sampler = DomainMixSampler(
        [len(s) for s in sets],
        [entry.weight for entry in config.sets],
        batch=config.batch,
        seed=seed,
        start=start,
    )
    return DataLoader(
        AugmentedSamples(sets, domains, config.augment, seed=seed),
        batch_sampler=sampler,
        num_workers=config.workers,
        collate_fn=collate,
        worker_init_fn=_single_threaded,
        # its own generator, so that opening a loader moves no other random state
        generator=torch.Generator(),
        persistent_workers=False,
    )
