"""Label maps made visible: flat colours, or tinted over the photo with outlines and a legend."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hp_sdk.domain_file import VOID, voc_palette
from hp_sdk.domains import Domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.files import write_bytes

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]
Palette = Sequence[Colour]

# Black for the background, the seven colours of Okabe and Ito (2008), then tints and shades of
# them, each the one that differs most from all before it and from VOID: CIELAB distance, least of
# normal, protan and deutan sight and twice that of tritan sight (Machado et al. 2009).
_COLORBLIND = bytes.fromhex("""
    000000 0072b2 e69f00 009e73 56b4e9 d55e00 cc79a7 f0e442 453000 003959 cce8f8 005f45
    f0c566 954200 eaae80 f8f2a0 8f5575 002f22 e0afca e28e4d 002235 9ad2f2 00507d 338ec1
    523043 007e5c 4dbb9d d8cd3b f8e2b3 22485d f2cf80 80b8d8 b3e2d5 fcfad9 346c8c f4ec7b
    401c00 e69e66 dd7e33 cf8f00 5c4000 3c7ea3 f5d999 d694b9 eebf99 b3d5e8 4da2d2 78c3ed
    002e47 eebc4d 003f2e 3d2432 787221 f5e4ed aa4b00 004f3a 7a4964 1a80ba a36186 2b5a74
""")

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LEGEND_SHARE = 1 / 3  # of the picture, at most
_LEGEND_TEXT_PX = (8, 48)


def colorblind_palette(count: int) -> tuple[Colour, ...]:
    """`count` colours that also colour-blind people tell apart; the more, the less easily.

    Raises:
        ConfigError: there are not that many.
    """
    most = len(_COLORBLIND) // 3
    if count > most:
        raise ConfigError(
            f"the colorblind palette has {most} colours and {count} are needed; "
            "give a list of colours"
        )
    channels = iter(_COLORBLIND[: 3 * count])
    return tuple(zip(channels, channels, channels, strict=True))


def palette_of(domain: Domain, palette: str | Palette | None = None) -> Palette:
    """One RGB colour per id: the domain's own (None), a named palette, or the caller's list.

    Raises:
        ConfigError: there is no palette of that name, or the list has too few or wrong colours.
    """
    if palette is None:
        return domain.palette
    if isinstance(palette, str):
        if palette not in _PALETTES:
            raise ConfigError(
                f"no palette {palette!r}; there are {', '.join(_PALETTES)}, "
                "or give a list of RGB colours"
            )
        return _PALETTES[palette](domain)
    if len(palette) < domain.num_classes or not all(_is_colour(colour) for colour in palette):
        raise ConfigError(
            f"the palette has {len(palette)} entries; domain {domain.name!r} needs "
            f"{domain.num_classes} colours (R, G, B) of 0..255"
        )
    return palette


def paint_labels(labels: Pixels, palette: Palette) -> Pixels:
    """Each id in its colour, (H, W, 3) uint8 RGB; ids beyond the palette in VOC's beige."""
    lut = np.full((256, 3), VOID, np.uint8)
    lut[: len(palette)] = palette[:256]
    return lut[labels]


def blend_labels(
    photo: Pixels, labels: Pixels, palette: Palette, alpha: float, *, contours: bool = True
) -> Pixels:
    """The photo with every part tinted; with contours, parts outlined dark and the figure light.

    `photo` (H, W, 3) uint8 RGB; `labels` (H, W) uint8; `alpha` in 0..1.  The background stays
    as it is.
    """
    tinted = np.asarray(
        cv2.addWeighted(photo, 1 - alpha, paint_labels(labels, palette), alpha, 0), np.uint8
    )
    parts = labels > 0
    tinted[~parts] = photo[~parts]
    if not contours:
        return tinted
    width = max(1, round(max(labels.shape) / 700))
    inner = _edges(labels, width)
    outer = _edges(parts.astype(np.uint8), width)
    out = _draw(tinted, inner, shade=0, strength=0.55 * min(1.0, 2 * alpha))
    return _draw(out, outer, shade=255, strength=0.9 * min(1.0, 2 * alpha))


def draw_legend(
    picture: Pixels, entries: Sequence[tuple[str, Colour]], *, avoid: NDArray[np.bool_]
) -> Pixels:
    """The picture (H, W, 3) with a panel of names beside swatches, in a corner.

    The corner is the one where the panel hides least of `avoid` (H, W).  The panel takes at most
    a third of the picture: where not all entries fit, the first ones are shown and the rest
    counted, and a picture too small for that stays without a legend.
    """
    height, width = avoid.shape
    legend = _fitted(entries, height, width)
    if legend is None:
        return picture.copy()
    panel = _painted(legend)
    rows, columns = panel.shape[:2]
    gap = min(legend.text_px // 2, height - rows, width - columns)
    tops, lefts = (gap, height - rows - gap), (gap, width - columns - gap)
    y, x = min(
        ((y, x) for y in tops for x in lefts),
        key=lambda at: np.count_nonzero(avoid[at[0] : at[0] + rows, at[1] : at[1] + columns]),
    )
    drawn = picture.copy()
    under = drawn[y : y + rows, x : x + columns]
    through = 0.25 * (1 - panel[..., 3:] / np.float32(255))  # the picture, darkened
    under[:] = (panel[..., :3] + through * under + 0.5).astype(np.uint8)
    return drawn


def cut_out(photo: Pixels, alpha: Pixels, background: Colour | Pixels | None = None) -> Pixels:
    """The photo (H, W, 3) at opacity `alpha` (H, W) as RGBA (H, W, 4) uint8.

    Over a `background`, a colour or a picture (H, W, 3), the answer is opaque.  Without one, pixels
    of no opacity are black, so that nothing of the photo is left in them.

    Raises:
        InputError: the background is neither a colour nor a picture of the photo's size.
    """
    if background is None:
        return np.dstack([photo * (alpha > 0)[..., None], alpha])
    behind = np.asarray(background)
    if behind.shape not in {(3,), photo.shape} or behind.min() < 0 or behind.max() > 255:
        raise InputError(
            f"the background has shape {behind.shape}; allowed are a colour (R, G, B) of 0..255 "
            f"and a picture {photo.shape} uint8"
        )
    share = alpha[..., None] / np.float32(255)
    over = photo * share + behind.astype(np.float32) * (1 - share)
    return np.dstack([(over + 0.5).astype(np.uint8), np.full_like(alpha, 255)])


def encode_png(picture: Pixels) -> bytes:
    """The content of a PNG file with the picture (H, W, 3) uint8 RGB."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def show_picture(picture: Pixels, *, title: str) -> Path | None:
    """Show (H, W, 3) RGB in a window until a key is pressed or the window is closed.

    Where that is impossible the picture is written to a temporary PNG; its path is printed and
    returned.
    """
    why_not = _open_window(picture, title)
    if not why_not:
        return None
    folder = Path(tempfile.mkdtemp(prefix="hp-"))
    path = write_bytes(folder / f"{title.replace(' ', '.')}.png", encode_png(picture))
    print(f"{why_not}; the picture is in {path}")  # noqa: T201 - what the function is for
    return path


def _open_window(picture: Pixels, title: str) -> str:
    """Nothing, or why there is no window."""
    # On Linux OpenCV's window library may abort the whole process where there is no display.
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "there is no display"
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.imshow(title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        while cv2.waitKey(50) < 0 and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1:
            pass
        cv2.destroyAllWindows()
    except cv2.error:
        return "this OpenCV has no windows (opencv-python has, opencv-python-headless has not)"
    return ""


@dataclass(frozen=True, slots=True)
class _Legend:
    """Names and colours, one per line, and the measures of their panel in pixels."""

    lines: Sequence[tuple[str, Colour | None]]
    text_px: int
    """Height of a capital letter, and of a swatch."""
    widest_px: int
    """Of the names."""

    @property
    def row_px(self) -> int:
        return round(1.6 * self.text_px)

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.text_px + len(self.lines) * self.row_px, 3 * self.text_px + self.widest_px

    def fits(self, height: int, width: int) -> bool:
        rows, columns = self.size_hw
        inside = rows <= height and columns <= width
        return inside and rows * columns <= _LEGEND_SHARE * height * width


def _fitted(entries: Sequence[tuple[str, Colour]], height: int, width: int) -> _Legend | None:
    """The legend with as many of the first entries as fit; None if none does."""
    smallest, largest = _LEGEND_TEXT_PX
    text_px = min(largest, max(smallest, round(min(height, width) / 45)))
    widths = [_text_width(name, text_px) for name, _ in entries]
    for count in range(len(entries), 0, -1):
        lines: list[tuple[str, Colour | None]] = [*entries[:count]]
        if count < len(entries):
            lines.append((f"+ {len(entries) - count} more", None))
        legend = _Legend(lines, text_px, max(*widths[:count], _text_width(lines[-1][0], text_px)))
        if legend.fits(height, width):
            return legend
    return None


def _painted(legend: _Legend) -> Pixels:
    """Swatches and white names (h, w, 4): RGB times opacity, and opacity."""
    side, (scale, thickness) = legend.text_px, _pen(legend.text_px)
    panel = np.zeros((*legend.size_hw, 4), np.uint8)
    for row, (name, colour) in enumerate(legend.lines):
        bottom = side // 2 + row * legend.row_px + (legend.row_px + side) // 2
        if colour is not None:
            corners = (side // 2, bottom - side), (3 * side // 2, bottom)
            cv2.rectangle(panel, *corners, (*colour, 255), cv2.FILLED)
            cv2.rectangle(panel, *corners, (200, 200, 200, 255), 1)
        at = (2 * side if colour is not None else side // 2, bottom)
        cv2.putText(panel, name, at, _FONT, scale, (255, 255, 255, 255), thickness, cv2.LINE_AA)
    return panel


def _pen(text_px: int) -> tuple[float, int]:
    """Scale and thickness of the font for capitals of that height."""
    (_, cap_px), _ = cv2.getTextSize("H", _FONT, 10.0, 1)
    return 10.0 * text_px / cap_px, max(1, round(text_px / 12))


def _text_width(text: str, text_px: int) -> int:
    (width, _), _ = cv2.getTextSize(text, _FONT, *_pen(text_px))
    return width


def _is_colour(colour: Sequence[int]) -> bool:
    return len(colour) == 3 and all(0 <= channel <= 255 for channel in colour)


def _edges(labels: Pixels, width: int) -> Pixels:
    """Soft lines (H, W) uint8, about `width` pixels wide, where neighbouring ids differ."""
    edges = np.zeros(labels.shape, np.uint8)
    edges[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    edges[1:][labels[1:] != labels[:-1]] = 255
    if width > 1:
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
        edges = np.asarray(cv2.dilate(edges, pen), np.uint8)
    # A slight blur hides the staircase of the label map.
    return np.asarray(cv2.GaussianBlur(edges, (0, 0), 0.6 * width), np.uint8)


def _draw(image: Pixels, lines: Pixels, *, shade: int, strength: float) -> Pixels:
    at = np.nonzero(lines)
    weight = lines[at][:, None] * np.float32(strength / 255)
    drawn = image.copy()
    drawn[at] = (image[at] + (shade - image[at].astype(np.float32)) * weight + 0.5).astype(np.uint8)
    return drawn


_PALETTES: dict[str, Callable[[Domain], Palette]] = {
    "domain": lambda domain: domain.palette,
    "colorblind": lambda domain: colorblind_palette(domain.num_classes),
    "voc": lambda domain: voc_palette(domain.num_classes),
}
