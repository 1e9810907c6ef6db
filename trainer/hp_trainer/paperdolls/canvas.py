"""The sheet a paper doll is painted on: one number per pixel tells colour and labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from hp_trainer.paperdolls.body import Array
from hp_trainer.paperdolls.patterns import Material, swatch
from hp_trainer.paperdolls.wardrobe import label_tables

_SUBPIXEL_BITS = 4
OVERSAMPLING = 2
"""The sheet is this much finer than the picture, which smooths the picture's edges only."""


def _on_sheet(points: Array) -> Array:
    """Fixed-point sheet coordinates of picture coordinates (N, 2)."""
    # OpenCV counts from the centre of the first pixel, we count from its corner.
    scaled = points * (OVERSAMPLING << _SUBPIXEL_BITS) - (1 << (_SUBPIXEL_BITS - 1))
    return np.rint(scaled).astype(np.int32)


def _fine(start: int, length: int) -> slice:
    return slice(start * OVERSAMPLING, (start + length) * OVERSAMPLING)


class Canvas:
    """Paints polygons; later ones cover earlier ones.

    Coordinates are pixels of the picture with the origin at its top left corner.  Every painted
    piece is one number on `sheet` (h*OVERSAMPLING, w*OVERSAMPLING) uint16; 0 is background.
    """

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = size_hw
        h, w = size_hw
        self.sheet = np.zeros((h * OVERSAMPLING, w * OVERSAMPLING), np.uint16)
        self._pieces: dict[tuple[int, Material, Hashable], int] = {}
        self._codes = [0]
        self._groups = [0]
        self._group_ids: dict[Hashable, int] = {}
        self._looks = [0]
        self._look_numbers: dict[Material, int] = {}
        self._materials: list[Material] = [Material((0.0, 0.0, 0.0))]

    def piece(self, code: int, material: Material, group: Hashable) -> int:
        """Number of a surface of one label code; a crease shows wherever two groups meet."""
        key = (code, material, group)
        if key not in self._pieces:
            self._pieces[key] = len(self._codes)
            self._codes.append(code)
            self._looks.append(self._look_of(material))
            self._groups.append(self._group_ids.setdefault(group, len(self._group_ids) + 1))
        return self._pieces[key]

    def _look_of(self, material: Material) -> int:
        if material not in self._look_numbers:
            self._look_numbers[material] = len(self._materials)
            self._materials.append(material)
        return self._look_numbers[material]

    def fill(self, outline: Array, piece: int) -> None:
        """Paint a polygon (N, 2)."""
        cv2.fillPoly(self.sheet, [_on_sheet(outline)], piece, cv2.LINE_8, _SUBPIXEL_BITS)

    def line(self, points: Array, piece: int, *, width: float) -> None:
        """Paint an open line through `points` (N, 2), `width` pixels wide."""
        scaled = _on_sheet(points)
        thickness = max(1, round(width * OVERSAMPLING))
        cv2.polylines(self.sheet, [scaled], False, piece, thickness, cv2.LINE_8, _SUBPIXEL_BITS)

    @contextmanager
    def spare(self, outline: Array | None) -> Iterator[None]:
        """Nothing painted inside the block shows within `outline`: an opening in a coat."""
        before = self.sheet.copy() if outline is not None else self.sheet
        yield
        if outline is not None:
            hole = np.zeros(self.sheet.shape, np.uint8)
            cv2.fillPoly(hole, [_on_sheet(outline)], 1, cv2.LINE_8, _SUBPIXEL_BITS)
            np.copyto(self.sheet, before, where=hole.astype(bool))

    def stamp(self, mask: Array, corner_xy: tuple[int, int], piece: int) -> None:
        """Paint the pixels of a boolean `mask` of the fine sheet, its corner at `corner_xy`."""
        x, y = corner_xy
        h, w = self.sheet.shape
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(mask.shape[0], h - y), min(mask.shape[1], w - x)
        if top < bottom and left < right:
            window = self.sheet[y + top : y + bottom, x + left : x + right]
            window[mask[top:bottom, left:right]] = piece

    def labels(self) -> dict[str, Array]:
        """Domain name -> (h, w) uint8 label map."""
        # All domains share one look-up: a row of eight bytes per piece, read as one number.
        rows = np.zeros((len(self._codes), 8), np.uint8)
        tables = label_tables()
        for column, table in enumerate(tables.values()):
            rows[:, column] = table[self._codes]
        packed = rows.view(np.uint64)[:, 0].take(self._pieces_small())
        columns = packed.view(np.uint8).reshape(*packed.shape, 8)
        return {name: columns[..., k].copy() for k, name in enumerate(tables)}

    def _pieces_small(self) -> Array:
        return self.sheet[1::OVERSAMPLING, ::OVERSAMPLING]

    def picture(self, backdrop: Array, *, light_xy: tuple[float, float], depth: float) -> Array:
        """(h, w, 3) float32 RGB 0..255: everything painted, over `backdrop` (h, w, 3) uint8.

        `light_xy` points to the light; `depth` is the radius in pixels over which edges round off.
        """
        image = backdrop.astype(np.float32)
        x, y, w, h = cv2.boundingRect((self._pieces_small() != 0).view(np.uint8))
        if w:
            coarse = self._colours(self.sheet[_fine(y, h), _fine(x, w)])
            people, alpha = coarse[..., :3].astype(np.float32), coarse[..., 3]
            pieces = self._pieces_small()[y : y + h, x : x + w]
            looks = np.asarray(self._looks, np.uint16).take(pieces)
            self._weave(people, looks)
            people *= self._relief(pieces, looks, light_xy=light_xy, depth=depth)[..., None]
            region = image[y : y + h, x : x + w]
            region *= (alpha.astype(np.float32) * np.float32(-1 / 255) + np.float32(1))[..., None]
            region += people
        return image

    def _colours(self, sheet: Array) -> Array:
        """(h, w, 4) uint8 smoothed RGB and cover of a part of the fine sheet."""
        # Colour and cover travel as one number per fine pixel: one look-up instead of four.
        packed = np.full((len(self._looks), 4), 255, np.uint8)
        colours = np.array([material.colour for material in self._materials])
        packed[:, :3] = np.clip(colours, 0, 255)[self._looks]
        packed[0] = 0
        fine = packed.view(np.uint32)[:, 0].take(sheet).view(np.uint8)
        half = sheet.shape[1] // OVERSAMPLING, sheet.shape[0] // OVERSAMPLING
        return cv2.resize(fine.reshape(*sheet.shape, 4), half, interpolation=cv2.INTER_AREA)

    def _weave(self, image: Array, looks: Array) -> None:
        """Mix the second colour of every patterned material into `image`, in place."""
        for number, material in enumerate(self._materials):
            if material.pattern == "plain":
                continue
            mask = (looks == number).view(np.uint8)
            x, y, w, h = cv2.boundingRect(mask)
            if w == 0:
                continue
            on = mask[y : y + h, x : x + w] > 0
            weave = swatch(material.pattern, (h, w), scale=material.scale, angle=material.angle)
            weight = weave[on][:, None] * np.float32(material.strength / 255)
            region = image[y : y + h, x : x + w]
            here = region[on]
            region[on] = here + weight * (np.array(material.second, np.float32) - here)

    def _relief(
        self, pieces: Array, looks: Array, *, light_xy: tuple[float, float], depth: float
    ) -> Array:
        """(h, w) brightness: limbs are round, cloth has folds, creases are dark."""
        groups = np.asarray(self._groups, np.uint16).take(pieces)
        inside = np.ones(groups.shape, np.uint8)
        inside[:, 1:][groups[:, 1:] != groups[:, :-1]] = 0
        inside[1:][groups[1:] != groups[:-1]] = 0
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)
        height = 1 - np.exp(distance * np.float32(-1.0 / max(depth, 0.5)))
        folds = np.array([material.folds for material in self._materials], np.float32).take(looks)
        wrinkles = swatch("folds", pieces.shape, scale=max(depth, 1.0) / 5, angle=0.5 + light_xy[0])
        bump = cv2.GaussianBlur(height + folds * wrinkles * np.float32(1 / 255), (3, 3), 0)
        slope_x = cv2.Sobel(bump, cv2.CV_32F, 1, 0, scale=depth / 10)
        slope_y = cv2.Sobel(bump, cv2.CV_32F, 0, 1, scale=depth / 10)
        # A slope that rises away from the light faces it.
        lit = slope_x * np.float32(-light_xy[0]) + slope_y * np.float32(-light_xy[1])
        shade = (
            np.float32(0.79)
            + np.float32(0.24) * height
            + np.float32(0.6) * np.clip(lit, -0.4, 0.35)
        )
        shade[pieces == 0] = 1
        return shade
