"""Labels of PASCAL-Person-Part whose limbs have sides, from pieces of limbs told by eye.

    upper arms, lower arms, upper legs, lower legs ─► pieces: connected pixels of one part
        told left or right ─► all of it
        lines of both sides ─► every pixel to the nearest line
        told both ─► every pixel to the side that is nearer along the arm or the leg
        not told ─► undecided (255)

These labels teach a network left and right also where a sleeve or trousers cover a limb, of which
no public domain says the side. The head that learns them need not ship.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from hp_sdk.domains import Domain, admissible, load_domain
from hp_trainer.augment import IGNORED
from hp_trainer.sides import BETWEEN, Stroke, connected, side_map

_PASCAL = load_domain("pascal")
_PARTS = ("upper-arm", "lower-arm", "upper-leg", "lower-leg")
TOLD = {"left": 0, "right": 1, "both": 2}
"""Classes of the strokes."""


def limb_sides() -> Domain:
    """The domain `pascal_sides`: background, head, torso, and left and right of every limb."""
    pairs = [[f"{side}-{part}" for side in ("left", "right")] for part in _PARTS]
    names = [*_PASCAL.names[:3], *(name for pair in pairs for name in pair)]
    return Domain.from_dict({"name": "pascal_sides", "names": names, "flip_pairs": pairs})


def admissible_of_sides(target: Domain) -> tuple[tuple[int, ...], ...] | None:
    """Ids of `target` that a pixel of each class of `pascal_sides` can have; None if unknown.

    Those of PASCAL's part but no parts of the other side: a left arm is a sleeve or a left arm.
    """
    table = admissible("pascal", target.name)
    if table is None:
        return None
    rows = []
    for name in limb_sides().names:
        side, _, limb = name.partition("-")
        other = {"left": "right-", "right": "left-"}.get(side)
        allowed = table[_PASCAL.index(f"{limb}s" if other else name)]
        rows.append(tuple(k for k in allowed if not (other and target.names[k].startswith(other))))
    return tuple(rows)


def limb_side_map(body: np.ndarray, strokes: Iterable[Stroke]) -> np.ndarray:
    """Labels (H, W) uint8 in `pascal_sides` of labels `body` (H, W) uint8 in `pascal`.

    A stroke `left`, `right` or `both` speaks of the piece that it lies in.

    Raises:
        DataError: a stroke is of another class or lies in no limb.
    """
    kinds = [body == _PASCAL.index(f"{part}s") for part in _PARTS]
    told = side_map(connected(kinds, gap=1), strokes, TOLD)
    for limb in (kinds[0] | kinds[1], kinds[2] | kinds[3]):
        _share_out(told, limb)
    labels = np.where(body <= _PASCAL.index("torso"), body, np.uint8(IGNORED))
    for k, kind in enumerate(kinds):
        for side in (TOLD["left"], TOLD["right"]):
            labels[kind & (told == side)] = 3 + 2 * k + side
    return labels


def _share_out(told: np.ndarray, limb: np.ndarray) -> None:
    """Give every pixel told `both` in `limb` (H, W) bool to the side it is nearer to, in place.

    It stays undecided where both sides are about as near, or where one of them cannot be reached.
    """
    both = limb & (told == TOLD["both"])
    if not both.any():
        return
    left, right = (_steps(limb & (told == TOLD[side]), limb) for side in ("left", "right"))
    reached = both & (left >= 0) & (right >= 0)
    told[both] = IGNORED
    told[reached & (right - left >= BETWEEN)] = TOLD["left"]
    told[reached & (left - right >= BETWEEN)] = TOLD["right"]


def _steps(start: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Steps from `start` to each pixel without leaving `inside`, both (H, W) bool; -1: no way.

    Every second step may be diagonal, so that circles are octagons.
    """
    shapes = [cv2.getStructuringElement(s, (3, 3)) for s in (cv2.MORPH_CROSS, cv2.MORPH_RECT)]
    steps = np.where(start, 0, -1)
    count, grown = 0, len(shapes)
    while grown:
        grown = 0
        for shape in shapes:
            count += 1
            reached = cv2.dilate((steps >= 0).astype(np.uint8), shape) > 0
            front = reached & inside & (steps < 0)
            steps[front] = count
            grown += int(front.sum())
    return steps
