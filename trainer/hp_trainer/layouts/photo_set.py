"""Photographs with label maps from a folder, every file of which is known to exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from hp_sdk.domains import Domain
from hp_sdk.errors import DataError, InputError
from hp_trainer.augment import Sample
from hp_trainer.layouts.labels import encoding_of, label_reader
from hp_trainer.layouts.listing import find_files, list_photos

_SAMPLE = 16  # photographs decoded when a set is opened
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class PhotoOptions:
    """How the files of a photo set are found and checked; see `SetConfig`."""

    layout: str = "auto"
    decode_colors: bool = False
    full_check: bool = False
    domains: tuple[Domain, ...] = ()
    """Domains that are not built in; their label ids are checked too."""


class PhotoSet:
    """Photographs with label maps, in the neutral or a published layout.

    Opening checks that every listed file exists, and reads a sample of them.

    Raises:
        DataError: a folder, list, image or label map is missing or does not fit, naming the file.
        ConfigError: the layout or an option is not allowed.
    """

    def __init__(
        self,
        root: Path,
        labels: Mapping[str, str],
        split: str,
        limit: int = 0,
        options: PhotoOptions | None = None,
    ) -> None:
        options = options or PhotoOptions()
        self.root, self.labels = root, dict(labels)
        self._listing = list_photos(root, labels, split, options.layout)
        self.layout = self._listing.layout
        self.ids = self._listing.ids[: limit or None]
        self._files = find_files(root, self._listing, self.ids)
        self._readers = {
            name: label_reader(
                self._listing.kind,
                name,
                known=options.domains,
                decode_colors=options.decode_colors,
            )
            for name in labels
        }
        self.domains = tuple(encoding_of(name)[0] for name in labels)
        self._check(every=options.full_check)

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """Image (H, W, 3) uint8 RGB and its label maps by domain, uncropped."""
        del rng
        name = self.ids[index]
        image = read_image(self.image_path(name), cut_jpeg=self._listing.cut_jpegs)
        maps = [self._label_map(domain, name, image.shape) for domain in self.labels]
        return image, dict(zip(self.domains, maps, strict=True))

    def image_path(self, name: str) -> Path:
        """The image file of one id."""
        return self._listing.images / self._files.images[name]

    def _label_map(self, domain: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        folder = self._listing.labels[domain]
        paths = [folder / file for file in self._files.labels[domain][name]]
        label = self._readers[domain](paths)
        if label.shape != shape[:2]:
            raise DataError(
                f"{paths[0]} is {label.shape[1]}x{label.shape[0]}, its image {shape[1]}x{shape[0]}"
            )
        return label

    def _check(self, *, every: bool) -> None:
        count = len(self) if every else min(len(self), _SAMPLE)
        wanted = np.linspace(0, len(self) - 1, count).round().astype(int)
        # A full check takes minutes; the bar shows on terminals only.
        bar = tqdm(wanted, f"checking {self.root.name}", disable=None if every else True)
        problems = [problem for index in bar if (problem := self._problem(int(index)))]
        if problems:
            first = "; ".join(problems[:_SHOWN])
            raise DataError(
                f"{len(problems)} of {count} photographs checked in {self.root} cannot be used, "
                f"first: {first}"
            )

    def _problem(self, index: int) -> str:
        try:
            self.load(index, np.random.default_rng(0))
        except InputError as exc:
            return str(exc)
        return ""


def read_image(path: Path, *, cut_jpeg: bool = False) -> np.ndarray:
    """Raw pixels (H, W, 3) uint8 RGB; EXIF orientation is ignored as annotations ignore it.

    Args:
        path: photograph, in colour or grey.
        cut_jpeg: accept a JPEG without its end; what is missing is grey.

    Raises:
        DataError: not a picture.
    """
    data = np.fromfile(path, np.uint8)
    if cut_jpeg and data[:2].tobytes() == b"\xff\xd8":
        data = np.append(data, np.array([0xFF, 0xD9], np.uint8))  # unread after a real end
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(data, flags) if len(data) else None
    if image is None:
        raise DataError(f"{path} cannot be decoded as an image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
