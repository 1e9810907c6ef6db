"""The body of a paper doll: proportions, pose and an articulated skeleton seen from any side.

The skeleton lives in the person's own frame `(l, u, f)`: to their left, up, to their front. It is
projected orthographically. Left and right therefore stay the person's own from every viewpoint.
Lengths are fractions of the standing height until `Skeleton` turns them into pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

Array = np.ndarray
Vector = tuple[float, float, float]
T = TypeVar("T")

SIDES = ("L", "R")
_SIGN = {"L": 1.0, "R": -1.0}

# (upper arm, forearm) directions in (outward, up, forward) of the arm's own side.
_ARMS: dict[str, tuple[Vector, Vector]] = {
    "hang": ((0.18, -1.0, 0.0), (0.06, -1.0, 0.15)),
    "relaxed": ((0.26, -1.0, -0.05), (0.0, -1.0, 0.45)),
    "on hip": ((0.75, -0.7, -0.1), (-0.75, -0.55, 0.25)),
    "pocket": ((0.38, -0.95, -0.1), (-0.25, -0.95, 0.15)),
    "raised": ((0.5, 0.9, 0.05), (0.1, 1.0, 0.0)),
    "wave": ((0.9, -0.2, 0.1), (0.25, 1.0, 0.15)),
    "stretched": ((1.0, 0.05, 0.0), (1.0, 0.1, 0.1)),
    "phone": ((0.25, -0.9, 0.3), (-0.35, 0.65, 0.6)),
    "crossed": ((0.2, -0.95, 0.25), (-0.95, 0.08, 0.35)),
    "behind": ((0.3, -0.95, -0.25), (-0.6, -0.6, -0.5)),
    "at head": ((0.85, 0.5, 0.0), (-0.7, 0.7, -0.05)),
    "forward": ((0.15, -0.35, 0.9), (0.0, -0.1, 1.0)),
    "carry": ((0.15, -1.0, 0.05), (0.05, -0.35, 0.95)),
    "swing fore": ((0.1, -0.95, 0.35), (-0.05, -0.75, 0.65)),
    "swing back": ((0.14, -0.95, -0.4), (0.04, -1.0, -0.12)),
}
_ARM_ODDS = (24, 14, 9, 7, 6, 4, 3, 5, 4, 4, 4, 3, 5, 4, 4)

# (thigh, shin) of the left leg, then of the right leg.
_Leg = tuple[Vector, Vector]
_LEGS: dict[str, tuple[_Leg, _Leg]] = {
    "stand": (((0.07, -1, 0.02), (0.02, -1, -0.02)), ((0.07, -1, 0.02), (0.02, -1, -0.02))),
    "wide": (((0.26, -1, 0.0), (0.16, -1, 0.0)), ((0.26, -1, 0.0), (0.16, -1, 0.0))),
    "at ease": (((0.01, -1, 0.0), (0.0, -1, -0.03)), ((0.18, -1, 0.14), (0.06, -1, -0.12))),
    "walk": (((0.03, -1, 0.42), (0.0, -1, 0.0)), ((0.02, -1, -0.22), (0.0, -0.95, -0.5))),
    "run": (((0.05, -0.7, 0.75), (0.0, -0.9, -0.5)), ((0.02, -1, -0.3), (0.0, -0.4, -0.95))),
    "crossed": (((-0.14, -1, 0.12), (-0.22, -1, 0.02)), ((-0.08, -1, 0.0), (-0.12, -1, -0.03))),
    "sit": (((0.18, -0.28, 0.95), (0.04, -1, -0.05)), ((0.18, -0.28, 0.95), (0.04, -1, 0.05))),
    "sit crossed": (((0.1, -0.3, 0.95), (0.0, -1, 0.1)), ((-0.22, -0.1, 0.95), (-0.3, -0.8, 0.5))),
    "kick": (((0.25, -0.75, 0.6), (0.1, -0.95, 0.3)), ((0.05, -1, 0.0), (0.02, -1, -0.02))),
    "step up": (((0.12, -0.45, 0.85), (0.02, -1, -0.15)), ((0.05, -1, -0.05), (0.02, -1, -0.08))),
}
_LEG_ODDS = (26, 10, 16, 18, 5, 7, 7, 4, 3, 4)


@dataclass(frozen=True, slots=True)
class Build:
    """Proportions of one person, in standing heights."""

    head: float
    shoulder: float
    hip: float
    waist: float
    girth: float
    bust: float
    legs: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Joint directions and viewpoint; angles in radians, `yaw` 0 faces the viewer."""

    arms: dict[str, tuple[Array, Array]]
    legs: dict[str, tuple[Array, Array]]
    yaw: float
    pitch: float
    roll: float
    twist: float
    lean: tuple[float, float]
    look: float
    head_tilt: float


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Joints `name -> (x, y, depth)` in pixels, depth growing towards the viewer."""

    joints: dict[str, Array]
    unit: float
    view: Array
    chest_view: Array
    head_view: Array
    build: Build

    def at(self, name: str) -> Array:
        """Image position (x, y) of a joint."""
        return self.joints[name][:2]

    def depth(self, name: str) -> float:
        """Depth of a joint, pixels towards the viewer."""
        return float(self.joints[name][2])

    @property
    def facing(self) -> float:
        """Cosine between the chest and the viewer: 1 from the front, -1 from behind."""
        return float(self.chest_view[2, 2])

    def placed(self, *, unit: float, pelvis_xy: tuple[float, float]) -> Skeleton:
        """The same person `unit` pixels tall, the pelvis at `pelvis_xy`."""
        offset = np.array((*pelvis_xy, 0.0))
        scale = unit / self.unit
        joints = {name: point * scale + offset for name, point in self.joints.items()}
        return replace(self, joints=joints, unit=unit)


def pick(rng: np.random.Generator, items: Sequence[T], odds: Sequence[float]) -> T:
    """One of `items`, drawn with `odds` that need not sum to one."""
    mark = rng.random() * sum(odds)
    for item, weight in zip(items, odds, strict=True):
        mark -= weight
        if mark < 0:
            return item
    return items[-1]


def draw_build(rng: np.random.Generator, kind: str) -> Build:
    """Proportions of a "man", "woman" or "child", with individual variation."""
    head, shoulder, hip, waist, girth, bust, legs = {
        "man": (0.131, 0.112, 0.056, 0.082, 1.0, 0.0, 1.0),
        "woman": (0.133, 0.097, 0.058, 0.069, 0.9, 0.018, 1.02),
        "child": (0.172, 0.1, 0.054, 0.08, 1.05, 0.0, 0.9),
    }[kind]
    spread = rng.normal(0.0, 1.0, 7)
    stout = 1.0 + 0.11 * float(np.clip(spread[0], -1.2, 2.6))
    return Build(
        head=head * (1 + 0.05 * spread[1]),
        shoulder=shoulder * (1 + 0.05 * spread[2]) * stout**0.35,
        hip=hip * (1 + 0.05 * spread[3]) * stout**0.5,
        waist=waist * (1 + 0.05 * spread[4]) * stout**1.1,
        girth=girth * stout * (1 + 0.04 * spread[5]),
        bust=bust,
        legs=legs * (1 + 0.03 * spread[6]),
    )


def draw_yaw(rng: np.random.Generator) -> float:
    """A viewpoint: mostly frontal, often from behind, three-quarter, or in profile."""
    view = pick(rng, ("front", "quarter", "profile", "back", "back quarter"), (36, 24, 8, 20, 12))
    degrees = {
        "front": rng.normal(0, 10),
        "quarter": rng.uniform(22, 62),
        "profile": rng.uniform(65, 115),
        "back": 180 + rng.normal(0, 12),
        "back quarter": rng.uniform(118, 158),
    }[view]
    return float(np.deg2rad(degrees) * (1 if rng.random() < 0.5 else -1))


def draw_pose(rng: np.random.Generator, *, yaw: float | None = None) -> Pose:
    """A natural pose; `yaw` in radians fixes the viewpoint."""
    stance = pick(rng, tuple(_LEGS), _LEG_ODDS)
    legs = _jitter_legs(rng, stance)
    return Pose(
        arms=_draw_arms(rng, stance),
        legs=legs,
        yaw=draw_yaw(rng) if yaw is None else yaw,
        pitch=float(np.deg2rad(np.clip(rng.normal(7, 6), -6, 24))),
        roll=float(np.deg2rad(rng.normal(0, 2.5))),
        twist=float(np.deg2rad(rng.normal(0, 7))),
        lean=(float(rng.normal(0, 0.04)), float(rng.normal(0.02, 0.05))),
        look=float(np.deg2rad(np.clip(rng.normal(0, 18), -55, 55))),
        head_tilt=float(np.deg2rad(rng.normal(0, 6))),
    )


def _jitter(rng: np.random.Generator, direction: Vector, spread: float) -> Array:
    moved = np.asarray(direction, float) + rng.normal(0, spread, 3)
    return moved / np.linalg.norm(moved)


def _draw_arms(rng: np.random.Generator, stance: str) -> dict[str, tuple[Array, Array]]:
    names = [pick(rng, tuple(_ARMS), _ARM_ODDS) for _ in SIDES]
    if stance in {"walk", "run"} and rng.random() < 0.75:
        names = ["swing back", "swing fore"]
    elif names[0] in {"raised", "crossed", "hang", "on hip", "behind"} and rng.random() < 0.6:
        names[1] = names[0]
    arms = {}
    for side, name in zip(SIDES, names, strict=True):
        upper, fore = _ARMS[name]
        arms[side] = (_jitter(rng, upper, 0.07), _jitter(rng, fore, 0.1))
    return arms


def _jitter_legs(rng: np.random.Generator, stance: str) -> dict[str, tuple[Array, Array]]:
    pair = _LEGS[stance]
    if stance not in {"walk", "run"} and rng.random() < 0.5:
        pair = pair[::-1]
    spread = 0.015 if stance == "stand" else 0.035
    return {
        side: (_jitter(rng, thigh, spread), _jitter(rng, shin, spread))
        for side, (thigh, shin) in zip(SIDES, pair, strict=True)
    }


def mirrored(pose: Pose) -> Pose:
    """The pose seen in a mirror: limbs trade sides, the view turns the other way."""
    return replace(
        pose,
        arms={"L": pose.arms["R"], "R": pose.arms["L"]},
        legs={"L": pose.legs["R"], "R": pose.legs["L"]},
        yaw=-pose.yaw,
        roll=-pose.roll,
        twist=-pose.twist,
        lean=(-pose.lean[0], pose.lean[1]),
        look=-pose.look,
        head_tilt=-pose.head_tilt,
    )


def view_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """(3, 3) from the person's (l, u, f) to the image's (x right, y down, depth)."""
    c, s, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    view = np.array([[c, 0, s], [-s * sp, -cp, c * sp], [-s * cp, sp, c * cp]])
    cr, sr = np.cos(roll), np.sin(roll)
    return np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ view


def _spin(angle: float) -> Array:
    """(3, 3) turn about the vertical, to the person's left for a positive `angle`."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def pose_skeleton(build: Build, pose: Pose) -> Skeleton:
    """Joints of `build` in `pose`, one unit tall, the pelvis at the origin."""
    view = view_matrix(pose.yaw, pose.pitch, pose.roll)
    twist = _spin(pose.twist)
    spine = np.array((pose.lean[0], 1.0, pose.lean[1]))
    spine /= np.linalg.norm(spine)
    points: dict[str, Array] = {"pelvis": np.zeros(3)}
    points["neck"] = spine * (0.305 - 0.3 * (build.head - 0.13))
    up = twist @ np.array((np.sin(pose.head_tilt), np.cos(pose.head_tilt), 0.06))
    points["skull"] = points["neck"] + up * (0.03 + 0.52 * build.head)
    for side in SIDES:
        points |= _arm_joints(build, pose, side, points["neck"], twist)
        points |= _leg_joints(build, pose, side)
    joints = {name: view @ point for name, point in points.items()}
    c, s = np.cos(pose.head_tilt), np.sin(pose.head_tilt)
    tilt = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    head_view = view @ twist @ tilt @ _spin(pose.look)
    return Skeleton(joints, 1.0, view, view @ twist, head_view, build)


def _arm_joints(build: Build, pose: Pose, side: str, neck: Array, twist: Array) -> dict[str, Array]:
    flip = np.array((_SIGN[side], 1.0, 1.0))
    upper, fore = (twist @ (flip * direction) for direction in pose.arms[side])
    lift = 0.022 * max(float(upper[1]), 0.0)
    inward = 1.0 - 0.14 * max(float(upper[1]), 0.0)
    offset = np.array((_SIGN[side] * build.shoulder * inward, -0.035 + lift, 0.0))
    shoulder = neck + twist @ offset
    elbow = shoulder + 0.178 * upper
    wrist = elbow + 0.148 * fore
    thumb = twist @ np.array((-0.5 * _SIGN[side], 0.0, 1.0))
    return {
        f"shoulder{side}": shoulder,
        f"elbow{side}": elbow,
        f"wrist{side}": wrist,
        f"fingers{side}": wrist + 0.1 * (0.92 * fore + 0.25 * upper),
        f"thumb{side}": wrist + 0.045 * fore + 0.032 * thumb,
    }


def _leg_joints(build: Build, pose: Pose, side: str) -> dict[str, Array]:
    flip = np.array((_SIGN[side], 1.0, 1.0))
    thigh, shin = (flip * direction for direction in pose.legs[side])
    hip = np.array((_SIGN[side] * build.hip, -0.012, 0.0))
    knee = hip + 0.245 * build.legs * thigh
    ankle = knee + 0.24 * build.legs * shin
    ahead = np.array((0.3 * _SIGN[side], -0.1, 1.0))
    ahead -= 0.85 * (ahead @ shin) * shin
    ahead /= np.linalg.norm(ahead)
    heel = ankle + 0.03 * shin - 0.028 * ahead
    return {
        f"hip{side}": hip,
        f"knee{side}": knee,
        f"ankle{side}": ankle,
        f"heel{side}": heel,
        f"toe{side}": heel + 0.125 * ahead,
    }
