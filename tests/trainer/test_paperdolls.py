"""Paper dolls: five domains that agree with each other and with the person's own sides."""

import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import InputError
from hp_trainer.paperdolls import Doll, paper_doll, write_dataset
from hp_trainer.paperdolls.body import Pose, draw_build, draw_pose, mirrored, pose_skeleton
from hp_trainer.paperdolls.canvas import Canvas
from hp_trainer.paperdolls.outfit import Outfit, draw_outfit
from hp_trainer.paperdolls.people import Person, paint_person
from hp_trainer.paperdolls.wardrobe import ATOMS, DOMAINS, GARMENTS, code_of, label_tables, name_of

Labels = dict[str, np.ndarray]
DOMAIN = {name: load_domain(name) for name in DOMAINS}
SIZE = (160, 128)


@pytest.fixture(scope="module")
def dolls() -> list[Doll]:
    return [paper_doll(np.random.default_rng([5, seed]), (80, 80)) for seed in range(200)]


@pytest.fixture(scope="module")
def crowd(dolls: list[Doll]) -> Labels:
    """The labels of all dolls, (200, 80, 80) per domain."""
    return {name: np.stack([doll.labels[name] for doll in dolls]) for name in DOMAINS}


def where(labels: Labels, domain: str, *names: str) -> np.ndarray:
    return np.isin(labels[domain], DOMAIN[domain].indices(*names))


def plain_outfit(seed: int = 0) -> Outfit:
    """Clothes without one-sided extras; arms, legs and feet show their side."""
    rng = np.random.default_rng(seed)
    outfit = draw_outfit(rng, "man")
    while outfit.lower is None or outfit.shoes is None or outfit.upper is None:
        outfit = draw_outfit(rng, "man")
    return replace(
        outfit, bag=None, scarf=None, gloves=None, socks=None, outer=None, hair_style="short",
        upper=replace(outfit.upper, sleeve=0.5), lower=replace(outfit.lower, length=0.6),
    )  # fmt: skip


def open_pose(yaw: float) -> Pose:
    """Arms and legs spread, so that every limb is visible."""
    arm = (np.array((0.9, -0.4, 0.0)), np.array((0.95, -0.3, 0.0)))
    leg = (np.array((0.25, -0.97, 0.0)), np.array((0.2, -0.98, 0.0)))
    pose = draw_pose(np.random.default_rng(0), yaw=yaw)
    return replace(
        pose, arms={"L": arm, "R": arm}, legs={"L": leg, "R": leg},
        roll=0.0, lean=(0.0, 0.0), twist=0.0,
    )  # fmt: skip


def paint(pose: Pose, outfit: Outfit, *, x: float = SIZE[1] / 2) -> Labels:
    skeleton = pose_skeleton(draw_build(np.random.default_rng(3), "man"), pose)
    canvas = Canvas(SIZE)
    paint_person(canvas, Person(skeleton.placed(unit=135, pelvis_xy=(x, 82.0)), outfit), 0)
    return canvas.labels()


def mean_x(labels: Labels, domain: str, name: str) -> float:
    found = np.nonzero(where(labels, domain, name))[1]
    assert found.size > 20, f"{domain} {name} is hardly visible"
    return float(found.mean())


def test_every_label_exists_in_its_domain(dolls: list[Doll]) -> None:
    for doll in dolls:
        assert set(doll.labels) == set(DOMAINS)
        assert doll.image.shape == (80, 80, 3)
        assert doll.image.dtype == np.uint8
        for name, labels in doll.labels.items():
            assert labels.dtype == np.uint8
            assert labels.shape == (80, 80)
            assert labels.max() < DOMAIN[name].num_classes


@pytest.mark.parametrize("name", ["pascal", "atr", "cihp", "lip"])
def test_two_hundred_dolls_show_every_class(crowd: Labels, name: str) -> None:
    seen = np.unique(crowd[name])
    assert seen.tolist() == list(range(DOMAIN[name].num_classes))


def test_two_hundred_dolls_wear_every_garment_of_the_wardrobe(crowd: Labels) -> None:
    seen = np.unique(crowd["ccp"])
    worn = {name_of("ccp", "chest", garment) for garment in GARMENTS}
    assert set(DOMAIN["ccp"].indices(*worn)) <= set(seen.tolist())


def test_a_person_covers_the_same_pixels_in_every_domain(crowd: Labels) -> None:
    person = crowd["cihp"] > 0
    bag = where(crowd, "atr", "bag")
    np.testing.assert_array_equal(crowd["pascal"] > 0, person)
    np.testing.assert_array_equal(crowd["atr"] > 0, person | bag)
    np.testing.assert_array_equal(crowd["ccp"] > 0, person | bag)
    bare = where(crowd, "cihp", "torso-skin")
    np.testing.assert_array_equal(crowd["lip"] > 0, person & ~bare)


@pytest.mark.parametrize("name", ["hair", "hat", "sunglasses", "scarf", "skirt", "dress"])
def test_equal_names_mean_equal_pixels(crowd: Labels, name: str) -> None:
    # A belt hides part of its carrier in ATR and CCP only.
    shown = ~where(crowd, "atr", "belt")
    masks = [where(crowd, domain, name) & shown for domain in ("atr", "cihp", "lip", "ccp")]
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


def test_bare_neck_and_chest_follow_the_convention_of_each_domain(crowd: Labels) -> None:
    bare = where(crowd, "cihp", "torso-skin")
    assert where(crowd, "atr", "face")[bare].all()
    assert where(crowd, "pascal", "head", "torso")[bare].all()
    assert where(crowd, "ccp", "skin")[bare].all()
    assert not crowd["lip"][bare].any()


def test_gloves_count_to_the_arm_and_socks_to_the_leg_in_atr(crowd: Labels) -> None:
    assert where(crowd, "atr", "left-arm", "right-arm")[where(crowd, "cihp", "glove")].all()
    assert where(crowd, "atr", "left-leg", "right-leg")[where(crowd, "cihp", "socks")].all()


def test_arms_legs_and_shoes_lie_on_the_limbs_of_pascal(crowd: Labels) -> None:
    arms = where(crowd, "cihp", "left-arm", "right-arm", "glove")
    legs = where(crowd, "cihp", "left-leg", "right-leg")
    shoes = where(crowd, "cihp", "left-shoe", "right-shoe")
    assert where(crowd, "pascal", "upper-arms", "lower-arms")[arms].all()
    assert where(crowd, "pascal", "upper-legs", "lower-legs")[legs].all()
    assert where(crowd, "pascal", "lower-legs")[shoes].all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("part", ["arm", "leg", "shoe"])
def test_sides_agree_between_the_domains(crowd: Labels, side: str, part: str) -> None:
    mine = where(crowd, "cihp", f"{side}-{part}")
    np.testing.assert_array_equal(mine, where(crowd, "lip", f"{side}-{part}"))
    assert where(crowd, "atr", f"{side}-{part}")[mine].all()


@pytest.mark.parametrize("part", ["arm", "leg", "shoe"])
@pytest.mark.parametrize("domain", ["atr", "cihp", "lip"])
def test_seen_from_the_front_the_left_limb_is_on_the_right_of_the_image(
    domain: str, part: str
) -> None:
    labels = paint(open_pose(0.0), plain_outfit())
    assert mean_x(labels, domain, f"left-{part}") > mean_x(labels, domain, f"right-{part}") + 5


@pytest.mark.parametrize("part", ["arm", "leg", "shoe"])
@pytest.mark.parametrize("domain", ["atr", "cihp", "lip"])
def test_seen_from_behind_the_left_limb_is_on_the_left_of_the_image(domain: str, part: str) -> None:
    labels = paint(open_pose(np.pi), plain_outfit())
    assert mean_x(labels, domain, f"left-{part}") < mean_x(labels, domain, f"right-{part}") - 5


def test_the_face_shows_from_the_front_and_hardly_from_behind() -> None:
    front, behind = (paint(open_pose(yaw), plain_outfit()) for yaw in (0.0, np.pi))
    face = where(front, "cihp", "face").sum()
    assert face > 100
    assert where(behind, "cihp", "face").sum() < 0.3 * face


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("yaw", [0.0, 0.6, 2.5])
def test_the_mirrored_person_has_the_mirrored_labels(domain: str, yaw: float) -> None:
    pose, outfit = open_pose(yaw), plain_outfit()
    seen = paint(pose, outfit, x=60.0)[domain]
    # Labels are taken a quarter pixel left of the pixel's centre, hence the half pixel.
    twin = DOMAIN[domain].mirror(paint(mirrored(pose), outfit, x=SIZE[1] - 60.5)[domain])
    person = (seen > 0) | (twin > 0)
    assert (seen == twin)[person].mean() > 0.98


def test_equal_seeds_give_equal_dolls_and_others_differ() -> None:
    first, again, other = (paper_doll(np.random.default_rng(s), (64, 80)) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.image, again.image)
    for name in DOMAINS:
        np.testing.assert_array_equal(first.labels[name], again.labels[name])
    assert (first.image != other.image).mean() > 0.5


def test_nobody_is_painted_when_nobody_is_asked_for() -> None:
    doll = paper_doll(np.random.default_rng(1), (64, 64), people=0)
    assert not any(labels.any() for labels in doll.labels.values())


def test_a_given_background_shows_where_nobody_stands() -> None:
    teal = np.full((50, 70, 3), (0, 255, 255), np.uint8)
    doll = paper_doll(np.random.default_rng(4), (96, 96), background=teal, people=1)
    corner = doll.image[:6, :6].reshape(-1, 3).mean(axis=0)
    assert corner[0] < 60
    assert corner[1:].min() > 120


def test_truncated_people_and_odd_sizes_are_painted_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed, size in enumerate([(16, 16), (17, 61), (300, 40), (33, 290)]):
            doll = paper_doll(np.random.default_rng(seed), size, people=3)
            assert doll.image.shape == (*size, 3)
            assert doll.labels["ccp"].shape == size


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size_hw": (8, 64)}, "at least 16"),
        ({"size_hw": (64, 64), "people": -1}, "people=-1"),
        ({"size_hw": (64, 64), "background": np.zeros((9, 9), np.uint8)}, "RGB"),
    ],
)
def test_what_is_not_allowed_is_named(options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        paper_doll(np.random.default_rng(0), **options)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_pair_of_atom_and_garment_has_a_label(domain: str) -> None:
    table = label_tables()[domain]
    assert len(table) == 1 + len(ATOMS) * len(GARMENTS)
    for atom, garment in (("handL", "gloves"), ("footR", "boots"), ("chest", "romper")):
        name = name_of(domain, atom, garment)
        assert table[code_of(atom, garment)] == DOMAIN[domain].index(name)


def test_a_romper_is_split_at_the_waist_where_the_domain_lacks_it() -> None:
    assert name_of("lip", "chest", "romper") == name_of("lip", "llegR", "romper") == "jumpsuits"
    for domain in ("atr", "cihp"):
        assert name_of(domain, "uarmL", "romper") == "upper-clothes"
        assert name_of(domain, "ulegL", "romper") == "pants"


def test_a_written_dataset_reads_back_as_the_dolls_it_was_made_of(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "dolls", count=3, seed=2, size_hw=(48, 64), split="val")
    names = (root / "val.txt").read_text().split()
    assert len(names) == 3
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["images", "labels", "val.txt", *(f"labels_{name}" for name in DOMAINS)]
    )
    for name in names:
        image = cv2.imread(str(root / "images" / f"{name}.png"))
        assert image is not None
        assert image.shape == (48, 64, 3)
        for folder, domain in [("labels", "cihp"), *((f"labels_{d}", d) for d in DOMAINS)]:
            labels = cv2.imread(str(root / folder / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            assert labels is not None
            assert labels.shape == (48, 64)
            assert labels.max() < DOMAIN[domain].num_classes


def test_a_dataset_grows_without_changing_and_splits_differ(tmp_path: Path) -> None:
    sizes: dict = {"seed": 0, "size_hw": (32, 32)}
    few = write_dataset(tmp_path / "few", count=1, **sizes)
    more = write_dataset(tmp_path / "more", count=2, **sizes)
    val = write_dataset(tmp_path / "val", count=1, split="val", **sizes)
    first = (few / "images" / "train_000000.png").read_bytes()
    assert first == (more / "images" / "train_000000.png").read_bytes()
    assert first != (val / "images" / "val_000000.png").read_bytes()
    assert not list(tmp_path.rglob("*.part"))
