"""What parsing one photo gives: a label map and what it takes to trust, to show and to use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.overlay import (
    VOID,
    Colour,
    Palette,
    blend_labels,
    cut_out,
    draw_legend,
    paint_labels,
    palette_of,
    show_picture,
)
from hp_sdk.png import write_labels
from hp_sdk.regions import Box, Ring, Rle, box_of, centroid_of, grown, rings_of, rle_of, soft_alpha
from hp_sdk.remap import RemapLoss, crosswalk

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


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
    model_sha256: str = ""
    """Of the artifact's file that ran."""
    preprocess_hash: str = ""
    """Of the bundle's input specification: equal hashes, equal preprocessing."""
    steps: str = ""
    """What fitted the photo and made its labels: `numpy`, the accelerator `native 1`, or `gpu`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Result:
    """Parts of one photo, pixel for pixel in the photo's own size.

    `labels` (H, W) uint8 holds ids of `domain`; `confidence` (H, W) uint8 is the winner's
    probability times 255; `logits` (Z, h/4, w/4) is there only if asked for.  Pixels with the
    domain's ignore id (255) are undecided: no part, in no mask, beige in pictures.

    Positions are (x, y) in pixels on pixel edges: pixel (0, 0) covers [0, 1) x [0, 1).
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
    labels_device: Any = None
    """The labels in the GPU's memory as well, if asked for: readable without a copy by whatever
    takes `__cuda_array_interface__` (torch, cupy, numba)."""
    losses: tuple[RemapLoss, ...] = ()
    """What `remap` merged or could not decide; empty for what the network answered."""

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

    def mask(self, *names: str) -> Mask:
        """Where any of these parts or groups is, (H, W): `mask("hair")`, `mask("arms", "face")`.

        Raises:
            InputError: no name given, or one that is neither a part nor a group of the domain.
        """
        if not names:
            raise InputError(f"mask() needs a name; there are {', '.join(self.domain.names)}")
        wanted = np.zeros(256, bool)
        wanted[list(self.domain.indices(*names))] = True
        return wanted[self.labels]

    def boxes(self) -> dict[str, Box]:
        """Box (x0, y0, x1, y1) of each part found, half open: `image[y0:y1, x0:x1]`."""
        return {name: box for _, name, where in self._each() if (box := box_of(where))}

    def centroids(self) -> dict[str, tuple[float, float]]:
        """Mean position (x, y) of each part found; it may lie outside a part with a hole."""
        return {name: at for _, name, where in self._each() if (at := centroid_of(where))}

    def polygons(self, *names: str, epsilon_px: float = 1.0) -> list[Ring]:
        """Outlines of parts or groups taken together, each (P, 2) float32 of x, y.

        Outer rings run clockwise as seen on the screen, the largest first, each followed by its
        holes, which run the other way (`regions.ring_area` is negative).  Rings are closed without
        repeating the first point.  `epsilon_px`: how far they may leave the edges of the pixels;
        0 follows every staircase and encloses exactly the pixels of the mask.

        Raises:
            InputError: as `mask`.
            ConfigError: `epsilon_px` is negative.
        """
        return rings_of(self.mask(*names), epsilon_px=epsilon_px)

    def rle(self, *names: str) -> Rle:
        """COCO run lengths of parts or groups taken together: `.counts`, `.to_coco()`.

        Raises:
            InputError: as `mask`.
        """
        return rle_of(self.mask(*names))

    def to_coco(self, *, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
        """One COCO annotation per part found, numbered from `first_id`; the next is free.

        `category_id` is the part's id in the domain (see `coco_categories`), `bbox` x, y, width,
        height, `segmentation` a compressed RLE, `score` the mean confidence where there is one.
        """
        parts = self._each(np.asfortranarray(self.labels))  # run lengths go down the columns
        return [
            {"id": number, "image_id": image_id} | self._annotation(k, where)
            for number, (k, _, where) in enumerate(parts, start=first_id)
        ]

    def coco_categories(self) -> list[dict[str, Any]]:
        """The `categories` of a COCO file for this domain; the background is none."""
        names = enumerate(self.domain.names)
        return [{"id": k, "name": name, "supercategory": "person"} for k, name in names if k]

    def crop(self, *names: str, margin: float = 0.0, image: Pixels | None = None) -> Pixels:
        """The photo around parts or groups (all parts if none is named), (h, w, 3) uint8 RGB.

        `margin` is added on each side, as a share of the box's width and height, up to the photo's
        border; `image` replaces the photo kept in the result.

        Raises:
            InputError: none of the parts is in this photo, or there is no fitting photo.
            ConfigError: `margin` is negative.
        """
        if not margin >= 0:
            raise ConfigError(f"margin is {margin}; allowed are 0 (the box) or more, such as 0.2")
        photo = self._photo("crop", image)
        x0, y0, x1, y1 = box = self._found_box(self._chosen(names), names)
        around = (margin * (x1 - x0), margin * (y1 - y0))
        x0, y0, x1, y1 = grown(box, around, (photo.shape[0], photo.shape[1]))
        return photo[y0:y1, x0:x1].copy()

    def cutout(
        self,
        *names: str,
        background: Colour | Pixels | None = None,
        feather_px: float = 0.0,
        crop: bool = False,
        image: Pixels | None = None,
    ) -> Pixels:
        """Parts or groups (all parts if none is named) cut out of the photo, (H, W, 4) uint8 RGBA.

        Args:
            names: what to keep, as in `mask`.
            background: None for transparency (pixels of no opacity are black, so that nothing of
                the photo is left in them), an RGB colour, or another picture (H, W, 3) behind.
            feather_px: width of the soft edge, half of it on each side of the part's outline.
            crop: keep only the box of what is visible.
            image: replaces the photo kept in the result.

        Raises:
            InputError: unknown name, no fitting photo or background, or nothing left to crop to.
            ConfigError: `feather_px` is negative.
        """
        photo = self._photo("cutout", image)
        alpha = soft_alpha(self._chosen(names), feather_px)  # (H, W)
        cut = cut_out(photo, alpha, background)
        if not crop:
            return cut
        x0, y0, x1, y1 = self._found_box(alpha > 0, names)
        return cut[y0:y1, x0:x1].copy()

    def remap(self, to: str | Path | Domain, *, choose: Mapping[str, str] | None = None) -> Result:
        """The same parts in another domain's words, with what is lost on the way declared.

        A part is mapped if the other domain knows its name or only one part there can be meant.
        The pixels of all others become undecided (the domain's ignore id, 255) rather than a guess
        or background.  `losses` tells what was merged, undecided or unmatched, and so does the
        receipt.  The logits and what lies on the GPU, which belong to the old domain, are dropped.

        Args:
            to: a bundled domain's name, a domain file, or a `Domain`.
            choose: the caller's own decisions, `{"upper-clothes": "torso", "legs": "lower-legs"}`:
                parts or groups of this domain -> parts of the other.

        Raises:
            ConfigError: there is no such domain.
            InputError: `choose` names a part that is not there.
        """
        way = crosswalk(
            self.domain, to if isinstance(to, Domain) else load_domain(to), choose=choose
        )
        losses = way.losses(self.areas())
        receipt = self.receipt
        if receipt is not None:
            receipt = replace(receipt, notes=(*receipt.notes, *way.notes(losses)))
        return replace(
            self,
            labels=way.lut[self.labels],
            domain=way.target,
            logits=None,
            labels_device=None,
            receipt=receipt,
            losses=(*self.losses, *losses),
        )

    def colorize(self, palette: str | Palette | None = None) -> Pixels:
        """The label map in colours, (H, W, 3) uint8 RGB.

        `palette`: None for the domain's own colours, "colorblind", "voc", or one RGB colour per id.

        Raises:
            ConfigError: no such palette, or too few colours in it.
        """
        return paint_labels(self.labels, palette_of(self.domain, palette))

    def overlay(
        self,
        alpha: float = 0.55,
        *,
        image: Pixels | None = None,
        contours: bool = True,
        legend: bool = False,
        palette: str | Palette | None = None,
    ) -> Pixels:
        """The photo with its parts tinted and outlined, (H, W, 3) uint8 RGB.

        Args:
            alpha: strength of the tint, 0..1.
            image: replaces the photo kept in the result.
            contours: outline the parts and the figure.
            legend: name the colours in a corner, as far as a third of the picture holds them.
            palette: as for `colorize`.

        Raises:
            InputError: there is no photo, or it has another size than the label map.
            ConfigError: `alpha` is outside 0..1, or there is no such palette.
        """
        photo = self._photo("overlay", image)
        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha is {alpha}; allowed are 0 (photo only) to 1 (colours only)")
        colours = palette_of(self.domain, palette)
        blended = blend_labels(photo, self.labels, colours, alpha, contours=contours)
        if not legend:
            return blended
        return draw_legend(blended, self._legend(colours), avoid=self.labels > 0)

    def show(
        self,
        *,
        image: Pixels | None = None,
        legend: bool = True,
        palette: str | Palette | None = None,
    ) -> Path | None:
        """Open the overlay in a window until a key is pressed.

        Where no window can be opened (no display, or OpenCV's headless build), the overlay is
        written as a temporary PNG instead, and its path is printed and returned.

        Raises:
            InputError, ConfigError: as `overlay`.
        """
        picture = self.overlay(image=image, legend=legend, palette=palette)
        return show_picture(picture, title=f"{self.domain.name} overlay")

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
            "parts": [self._part(k, name, where) for k, name, where in self._each()],
            "losses": [asdict(loss) for loss in self.losses],
            "receipt": None if self.receipt is None else asdict(self.receipt),
            "timing_ms": {step: round(ms, 3) for step, ms in self.timing.items()},
        }

    def to_json(self) -> str:
        """`to_dict()` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def _each(self, labels: Pixels | None = None) -> Iterator[tuple[int, str, Mask]]:
        """Id, name and mask of each part found, the largest first."""
        for name in self.areas():
            k = self.domain.names.index(name)
            yield k, name, (self.labels if labels is None else labels) == k

    def _part(self, k: int, name: str, where: Mask) -> dict[str, Any]:
        area = int(np.count_nonzero(where))
        part = {
            "id": k,
            "name": name,
            "area_px": area,
            "share": round(area / self.labels.size, 6),
            "box_xyxy": [*(box_of(where) or ())],
        }
        return part | self._mean_confidence("confidence", where)

    def _annotation(self, k: int, where: Mask) -> dict[str, Any]:
        x0, y0, x1, y1 = box_of(where) or (0, 0, 0, 0)
        annotation = {
            "category_id": k,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int(np.count_nonzero(where)),
            "segmentation": rle_of(where).to_coco(),
            "iscrowd": 0,
        }
        return annotation | self._mean_confidence("score", where)

    def _mean_confidence(self, key: str, where: Mask) -> dict[str, float]:
        if self.confidence is None:
            return {}
        return {key: round(float(self.confidence[where].mean()) / 255, 4)}

    def _legend(self, colours: Palette) -> list[tuple[str, Colour]]:
        entries = [(name, colours[k]) for k, name, _ in self._each()]
        undecided = (self.labels >= self.domain.num_classes).any()
        return [*entries, ("undecided", VOID)] if undecided else entries

    def _chosen(self, names: tuple[str, ...]) -> Mask:
        if names:
            return self.mask(*names)
        return (self.labels > 0) & (self.labels < self.domain.num_classes)

    def _found_box(self, where: Mask, names: tuple[str, ...]) -> Box:
        box = box_of(where)
        if box is None:
            asked, found = ", ".join(names) or "no part", ", ".join(self.parts) or "no part at all"
            raise InputError(f"this photo has no {asked}; it has {found}")
        return box

    def _photo(self, method: str, image: Pixels | None) -> Pixels:
        photo = self.image if image is None else image
        if photo is None:
            raise InputError(f"this result keeps no photo; call {method}(image=...)")
        if photo.shape != (*self.labels.shape, 3):
            raise InputError(
                f"the photo has shape {photo.shape}; the label map needs {(*self.labels.shape, 3)}"
            )
        return photo
