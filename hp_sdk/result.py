"""What parsing one photo gives: a label map and what it takes to trust and to show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.overlay import blend_labels, paint_labels
from hp_sdk.png import write_labels

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What really ran, as opposed to what was asked for."""

    model: str
    """Name and version of the bundle."""
    head: str
    backend: str
    """Runtime and version, such as `onnxruntime 1.24.0`."""
    provider: str
    """Device as the runtime reports it after opening, such as `CPUExecutionProvider`."""
    artifact: str = ""
    precision: str = ""
    network_hw: tuple[int, int] | None = None
    tta: str = "none"
    notes: tuple[str, ...] = ()
    """Anything the caller should know, such as an accepted fallback."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """Parts of one photo, pixel for pixel in the photo's own size.

    `labels` (H, W) uint8 holds ids of `domain`; `confidence` (H, W) uint8 is the winner's
    probability times 255; `logits` (Z, h/4, w/4) is there only if asked for.
    """

    labels: Pixels
    domain: Domain
    confidence: Pixels | None = None
    logits: NDArray[np.floating[Any]] | None = None
    image: Pixels | None = None
    """The photo (H, W, 3) uint8 RGB."""
    receipt: Receipt | None = None
    timing: Mapping[str, float] = field(default_factory=dict[str, float])
    """Milliseconds per step."""

    def __repr__(self) -> str:
        height, width = self.labels.shape
        return f"Result({self.domain.name}, {height} x {width} px: {', '.join(self.parts)})"

    @property
    def parts(self) -> list[str]:
        """Names of the parts found, the largest first; without the background."""
        return list(self.areas())

    def areas(self) -> dict[str, int]:
        """Pixels of each part found, the largest first; without the background."""
        counts = np.bincount(self.labels.ravel(), minlength=self.domain.num_classes)
        found = [k for k in range(1, self.domain.num_classes) if counts[k]]
        found.sort(key=lambda k: -counts[k])
        return {self.domain.names[k]: int(counts[k]) for k in found}

    def mask(self, *names: str) -> NDArray[np.bool_]:
        """Where any of these parts or groups is, (H, W): `mask("hair")`, `mask("arms", "face")`.

        Raises:
            InputError: no name given, or one that is neither a part nor a group of the domain.
        """
        if not names:
            raise InputError(f"mask() needs a name; there are {', '.join(self.domain.names)}")
        wanted = np.zeros(256, bool)
        wanted[list(self.domain.indices(*names))] = True
        return wanted[self.labels]

    def colorize(self) -> Pixels:
        """The label map in the domain's colours, (H, W, 3) uint8 RGB."""
        return paint_labels(self.labels, self.domain.palette)

    def overlay(self, alpha: float = 0.55, *, image: Pixels | None = None) -> Pixels:
        """The photo with its parts tinted and outlined, (H, W, 3) uint8 RGB.

        `alpha` is the strength of the tint, 0..1; `image` replaces the photo kept in the result.

        Raises:
            InputError: there is no photo, or it has another size than the label map.
            ConfigError: `alpha` is outside 0..1.
        """
        photo = self.image if image is None else image
        if photo is None:
            raise InputError("this result keeps no photo; call overlay(image=...)")
        if photo.shape != (*self.labels.shape, 3):
            raise InputError(
                f"the photo has shape {photo.shape}; the label map needs {(*self.labels.shape, 3)}"
            )
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha}; allowed are 0 (photo only) to 1 (colours only)")
        return blend_labels(photo, self.labels, self.domain.palette, alpha)

    def save(self, path: str | Path) -> Path:
        """Write the label map as an indexed PNG: viewers show colours, `read_labels` the ids.

        Raises:
            ConfigError: the name does not end in .png, or the folder cannot be written to.
        """
        path = Path(path)
        if path.suffix.lower() != ".png":
            raise ConfigError(f"label maps are saved as .png, not {path.name!r}; rename it")
        return write_labels(path, self.labels, self.domain.palette)

    def to_dict(self) -> dict[str, Any]:
        """Parts, areas, receipt and timing as plain data; the label map itself is not in it."""
        height, width = self.labels.shape
        return {
            "domain": self.domain.name,
            "size_hw": [height, width],
            "parts": [self._part(name, area) for name, area in self.areas().items()],
            "receipt": None if self.receipt is None else asdict(self.receipt),
            "timing_ms": {step: round(ms, 3) for step, ms in self.timing.items()},
        }

    def to_json(self) -> str:
        """`to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def _part(self, name: str, area: int) -> dict[str, Any]:
        k = self.domain.index(name)
        where = self.labels == k
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        part = {
            "id": k,
            "name": name,
            "area_px": area,
            "share": round(area / self.labels.size, 6),
            "box_xyxy": [
                int(columns[0]),
                int(rows[0]),
                int(columns[-1]) + 1,
                int(rows[-1]) + 1,
            ],
        }
        if self.confidence is not None:
            part["confidence"] = round(float(self.confidence[where].mean()) / 255, 4)
        return part
