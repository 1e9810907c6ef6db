"""Head, face, hair, hat and sunglasses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hp_trainer.paperdolls.body import Array
from hp_trainer.paperdolls.canvas import OVERSAMPLING
from hp_trainer.paperdolls.figure import Figure
from hp_trainer.paperdolls.patterns import Material, shaded
from hp_trainer.paperdolls.shapes import capsule, egg, ellipse, hull, unit_vector
from hp_trainer.paperdolls.wardrobe import code_of

_DARK = Material((38.0, 28.0, 26.0))
_WHITE = Material((236.0, 232.0, 228.0))


@dataclass(frozen=True, slots=True)
class Head:
    """A head as the viewer sees it: `radius` (x, y) in pixels, `axes` (2, 2) its x and y."""

    centre: Array
    radius: tuple[float, float]
    axes: Array
    view: Array
    """(3, 3) from the head's own (l, u, f) to image (x, y, depth)."""

    def spot(self, left: float, up: float) -> tuple[Array, float]:
        """Image point and depth (-1..1) of the place `left`, `up` (-1..1) on the face."""
        ahead = max(1.0 - left * left - up * up, 0.0) ** 0.5
        x, y, depth = self.view @ np.array((left, up, ahead))
        scale = np.array((0.92 * self.radius[1] * 0.8, self.radius[1]))
        return self.centre + np.array((x, y)) * scale, float(depth)

    def beside(self, left: float, up: float, ahead: float) -> tuple[Array, float]:
        """Image point and depth of a place relative to the centre, in half heights of the head."""
        x, y, depth = self.view @ np.array((left, up, ahead))
        return self.centre + self.radius[1] * np.array((x, y)), float(depth)


def measure_head(figure: Figure) -> Head:
    """The head of `figure`, a little deeper than wide."""
    skeleton = figure.skeleton
    view = skeleton.head_view
    tall = 0.53 * skeleton.build.head * skeleton.unit
    turn = min(float(view[0, 2] ** 2), 1.0)
    wide = tall * (0.74**2 * (1.0 - turn) + 0.86**2 * turn) ** 0.5
    down = unit_vector(-view[:2, 1])
    axes = np.stack([np.array((down[1], -down[0])), down], axis=1)
    return Head(skeleton.at("skull"), (wide, tall), axes, view)


def draw_hair_behind(figure: Figure, head: Head) -> None:
    """Long hair that hangs behind the neck of someone who faces the viewer."""
    if head.view[2, 2] > -0.1:
        _draw_fall(figure, head)
        _draw_tail(figure, head)


def draw_head(figure: Figure, head: Head) -> None:
    """Everything above the neck."""
    _draw_face(figure, head)
    _draw_hair(figure, head)
    if head.view[2, 2] <= -0.1:
        _draw_fall(figure, head)
        _draw_tail(figure, head)
    elif figure.outfit.hair_style == "long" and figure.outfit.hair_length > 0.13:
        _draw_locks(figure, head)
    _draw_sunglasses(figure, head)
    _draw_hat(figure, head)


def _draw_face(figure: Figure, head: Head) -> None:
    rx, ry = head.radius
    for sign in (1.0, -1.0):
        place, depth = head.beside(0.8 * sign, -0.02, -0.02)
        if depth > -0.35:
            ear = ellipse(place, 0.1 * ry, 0.2 * ry, head.axes)
            figure.skin(ear, "face", "ear")
    figure.skin(egg(head.centre, rx, ry, head.axes), "face", "face")
    if figure.outfit.beard and head.view[2, 2] > -0.2:
        knots = [head.spot(a, b)[0] for a, b in _BEARD]
        tint = shaded(figure.outfit.hair, 1.2)
        figure.fill(np.array(knots), "face", "skin", tint, "face")
    _draw_features(figure, head)


_BEARD = (
    (0.66, -0.12), (0.62, -0.5), (0.4, -0.78), (0.0, -0.92), (-0.4, -0.78), (-0.62, -0.5),
    (-0.66, -0.12), (-0.36, -0.4), (0.0, -0.33), (0.36, -0.4),
)  # fmt: skip


def _draw_features(figure: Figure, head: Head) -> None:
    """Eyes, brows, nose and mouth, where the face is turned to the viewer."""
    ry, skin = head.radius[1], figure.outfit.skin
    brow = shaded(figure.outfit.hair, 0.8)
    squeeze = max(abs(float(head.view[2, 2])), 0.45)
    for sign in (1.0, -1.0):
        eye, depth = head.spot(0.38 * sign, 0.03)
        if depth < 0.25:
            continue
        parts = (
            (ellipse(eye, 0.13 * ry * squeeze, 0.065 * ry, head.axes), _WHITE),
            (ellipse(eye, 0.065 * ry, 0.065 * ry), _DARK),
            (
                ellipse(head.spot(0.38 * sign, 0.2)[0], 0.17 * ry * squeeze, 0.035 * ry, head.axes),
                brow,
            ),
        )
        for outline, material in parts:
            figure.fill(outline, "face", "skin", material, "face")
    nose, depth = head.spot(0.0, -0.2)
    if depth > 0.1:
        tip = ellipse(nose, 0.09 * ry, 0.055 * ry, head.axes)
        figure.fill(tip, "face", "skin", shaded(skin, 0.85), "face")
    mouth, depth = head.spot(0.0, -0.5)
    if depth > 0.15:
        red, green, blue = shaded(skin, 0.8).colour
        lips = Material((min(red * 1.08, 255.0), green * 0.68, blue * 0.72))
        outline = ellipse(mouth, 0.2 * ry * squeeze, 0.06 * ry, head.axes)
        figure.fill(outline, "face", "skin", lips, "face")


def _stamp_cap(
    figure: Figure,
    head: Head,
    garment: str,
    material: Material,
    cap: tuple[Array, float, float],
) -> None:
    """Cover the part of the skull around a direction.

    `cap` = (direction (l, u, f), cosine at its rim, swelling over the skull).
    """
    direction, rim, swell = cap
    rx, ry = (OVERSAMPLING * swell * radius for radius in head.radius)
    reach = int(np.ceil(max(rx, ry))) + 2
    centre = OVERSAMPLING * (head.centre - 0.05 * head.radius[1] * head.axes[:, 1])
    corner = np.floor(centre).astype(int) - reach
    span = np.arange(2 * reach + 1, dtype=np.float32) + 0.5
    dx, dy = (span + corner[0] - centre[0])[None, :], (span + corner[1] - centre[1])[:, None]
    ax, ay = head.axes[:, 0], head.axes[:, 1]
    nx = (dx * ax[0] + dy * ax[1]) / rx
    ny = (dx * ay[0] + dy * ay[1]) / ry
    inside = 1.0 - nx * nx - ny * ny
    facing = head.view @ direction
    across, down = facing[:2] @ ax, facing[:2] @ ay
    towards = nx * across + ny * down + np.sqrt(np.maximum(inside, 0)) * facing[2]
    piece = figure.canvas.piece(code_of("scalp", garment), material, (figure.number, garment))
    mask = (inside > 0) & (towards > rim)
    figure.canvas.stamp(mask, (int(corner[0]), int(corner[1])), piece)


def _tilted(angle_deg: float) -> Array:
    """Direction (l, u, f) tilted back from straight up by `angle_deg`."""
    angle = np.deg2rad(angle_deg)
    return np.array((0.0, np.cos(angle), -np.sin(angle)))


def _draw_hair(figure: Figure, head: Head) -> None:
    outfit = figure.outfit
    if outfit.hair_style == "bald":
        return
    swell, rim = {"short": (1.07, -0.02), "curly": (1.3, -0.08)}.get(
        outfit.hair_style, (1.1, -0.12)
    )
    if outfit.hat is not None:
        swell = min(swell, 1.08)  # A hat presses the hair down.
    # The hairline is a circle on the skull; tilting it back uncovers the forehead.
    _stamp_cap(figure, head, "hair", outfit.hair, (_tilted(46), rim, swell))
    if outfit.hair_style == "bun":
        place, _ = head.beside(0.0, 0.95, -0.45)
        knot = ellipse(place, 0.4 * head.radius[1], 0.36 * head.radius[1])
        figure.fill(knot, "scalp", "hair", outfit.hair, "bun")


def _draw_fall(figure: Figure, head: Head) -> None:
    """Hair hanging from the back of the head, straight down."""
    outfit = figure.outfit
    if outfit.hair_style != "long":
        return
    rx, ry = head.radius
    top, _ = head.beside(0.0, 0.1, -0.35)
    end = top + np.array((0.0, 0.1 * ry + outfit.hair_length * figure.unit))
    radii = np.array((0.98, 1.14, 1.2, 1.16, 0.95)) * rx
    fall = capsule(top, end, radii, caps=(0.7, 0.25))
    figure.fill(fall, "scalp", "hair", outfit.hair, "hair")


def _draw_tail(figure: Figure, head: Head) -> None:
    outfit = figure.outfit
    if outfit.hair_style != "ponytail":
        return
    ry = head.radius[1]
    root, _ = head.beside(0.0, 0.45, -0.85)
    sway = 0.7 * (root[0] - head.centre[0])
    end = root + np.array((sway, 0.3 * ry + outfit.hair_length * figure.unit))
    radii = np.array((0.16, 0.34, 0.36, 0.26, 0.06)) * ry
    figure.fill(capsule(root, end, radii), "scalp", "hair", outfit.hair, "tail")


def _draw_locks(figure: Figure, head: Head) -> None:
    """Strands that fall over the shoulders to the front."""
    rx, ry = head.radius
    drop = np.array((0.0, 0.55 * ry + 0.75 * figure.outfit.hair_length * figure.unit))
    for sign in (1.0, -1.0):
        root, depth = head.beside(0.74 * sign, 0.15, -0.05)
        if depth < -0.35:
            continue
        radii = np.array((0.18, 0.26, 0.3, 0.26, 0.1)) * rx
        end = root + drop
        end[0] += 0.08 * sign * rx * np.sign(head.view[0, 0])
        figure.fill(capsule(root, end, radii), "scalp", "hair", figure.outfit.hair, "hair")


def _draw_sunglasses(figure: Figure, head: Head) -> None:
    glasses = figure.outfit.sunglasses
    if glasses is None:
        return
    ry = head.radius[1]
    squeeze = max(abs(float(head.view[2, 2])), 0.4)
    seen = []
    for sign in (1.0, -1.0):
        eye, depth = head.spot(0.36 * sign, 0.03)
        hinge, aside = head.spot(0.72 * sign, 0.06)
        if depth < 0.1:
            continue
        seen.append(eye)
        lens = ellipse(eye, 0.25 * ry * squeeze, 0.19 * ry, head.axes)
        figure.fill(lens, "face", "sunglasses", glasses.material, "glasses")
        if aside > 0.0:
            arm = np.array((eye, hinge, head.beside(0.8 * sign, 0.08, 0.0)[0]))
            figure.stroke(arm, ("face", "sunglasses"), glasses.material, "glasses", width=0.005)
    if len(seen) == 2:
        figure.stroke(
            np.array(seen), ("face", "sunglasses"), glasses.material, "glasses", width=0.006
        )


def _draw_hat(figure: Figure, head: Head) -> None:
    hat = figure.outfit.hat
    if hat is None:
        return
    ry = head.radius[1]
    if hat.style == "brim":
        centre, _, _ = _crown(head, 0.42)
        flat = max(abs(float(head.view[2, 1])), 0.16)
        brim = ellipse(centre, 1.55 * ry, 1.5 * ry * flat, head.axes)
        figure.fill(brim, "scalp", "hat", hat.material, "brim")
    swell, rim, tilt = {"beanie": (1.17, 0.18, 16), "cap": (1.12, 0.3, 8)}.get(
        hat.style, (1.14, 0.4, 4)
    )
    _stamp_cap(figure, head, "hat", hat.material, (_tilted(tilt), rim, swell))
    if hat.style == "cap":
        _draw_visor(figure, head, hat.material)
    elif hat.style == "brim" and head.view[2, 1] > -0.05:
        band = hull((_crown(head, 0.5)[1], 0.06 * ry), (_crown(head, 0.5)[2], 0.06 * ry))
        figure.fill(band, "scalp", "hat", shaded(hat.material, 0.5), "brim band")


def _crown(head: Head, up: float) -> tuple[Array, Array, Array]:
    """Middle, left end and right end of the level line `up` (-1..1) across the head."""
    middle = head.centre - up * head.radius[1] * head.axes[:, 1]
    reach = 1.02 * head.radius[0] * head.axes[:, 0]
    return middle, middle - reach, middle + reach


def _draw_visor(figure: Figure, head: Head, material: Material) -> None:
    """The shade of a cap, ahead of the forehead; unseen from behind."""
    ry = head.radius[1]
    if head.view[2, 2] < -0.3:
        return
    rim = [(0.68, 0.3, 0.3), (0.6, 0.2, 1.2), (0.0, 0.16, 1.5), (-0.6, 0.2, 1.2), (-0.68, 0.3, 0.3),
           (-0.5, 0.45, 0.8), (0.0, 0.5, 0.95), (0.5, 0.45, 0.8)]  # fmt: skip
    points = head.centre + (np.array(rim) @ head.view[:2].T) * (ry * 0.95)
    figure.fill(points, "scalp", "hat", shaded(material, 0.8), "visor")
