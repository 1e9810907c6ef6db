"""Sides told by strokes: whole parts, crossed legs, and strokes that are none."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import DataError
from hp_sdk.png import read_labels
from hp_trainer.checkpoint import Checkpoint, write_checkpoint
from hp_trainer.models.sst import PRESETS, SST
from hp_trainer.paperdolls import write_dataset
from hp_trainer.sides import Stroke, connected, read_strokes, side_map

IDS = {"left-leg": 16, "right-leg": 17, "left-shoe": 18, "right-shoe": 19}


def stroke(name: str, *points: tuple[float, float]) -> Stroke:
    return Stroke(name, np.array(points, float))


def test_bare_and_other_parts_of_an_arm_are_told_apart(script: ModuleType):
    """A bare forearm below a sleeve: a stroke on one says nothing of the other."""
    pascal = load_domain("pascal")
    body = np.zeros((40, 20), np.uint8)
    body[:20, 5:15], body[20:, 5:15] = pascal.indices("upper-arms")[0], pascal.index("lower-arms")
    image = np.full((40, 20, 3), 20, np.uint8)
    image[20:] = 220
    evidence = np.full((32, 32, 32), -5.0, np.float32)
    evidence[16:, 16:, 16:] = 5.0
    parts, known = script.Limbs(evidence, {})(image, {"pascal": body})
    told = side_map(parts, [stroke("left-arm", (10, 30))], {"left-arm": 14})
    assert (told[20:, 5:15] == 14).all()
    assert (told[:20] == 255).all()
    assert (known["cihp"] == 255).all()
    assert len(np.unique(parts)) == 3


def test_a_stroke_names_the_whole_part_it_lies_in_and_no_other():
    shoes = np.zeros((20, 30), bool)
    shoes[10:15, 2:8] = shoes[10:15, 20:28] = True
    labels = side_map(connected([shoes], 3), [stroke("right-shoe", (4, 12))], IDS)
    assert (labels[10:15, 2:8] == 19).all()
    assert (np.delete(labels, np.s_[2:8], 1) == 255).all()


def test_pixels_of_crossed_legs_follow_the_nearest_line_and_stay_open_between():
    """An X of two legs: above the crossing the right leg is on the picture's left, below right."""
    rows, columns = np.mgrid[:100, :100]
    down, up = np.abs(columns - rows) < 6, np.abs(columns - (99 - rows)) < 6
    parts = connected([down | up], 3)
    lines = [stroke("right-leg", (5, 5), (94, 94)), stroke("left-leg", (94, 5), (5, 94))]
    labels = side_map(parts, lines, IDS)
    far = np.abs(rows - 49.5) > 12
    assert (labels[down & far] == 17).all()
    assert (labels[up & far] == 16).all()
    assert (labels[~(down | up)] == 255).all()
    assert labels[50, 50] == 255


def test_a_leg_behind_the_other_has_a_line_on_either_side_of_it():
    legs = np.ones((60, 9), bool)
    lines = [
        stroke("left-leg", (4, 2), (4, 15)),
        stroke("right-leg", (4, 25), (4, 35)),
        stroke("left-leg", (4, 45), (4, 58)),
    ]
    labels = side_map(connected([legs], 3), lines, IDS)
    assert (labels[:17] == 16).all()
    assert (labels[23:37] == 17).all()
    assert (labels[43:] == 16).all()


def test_kinds_are_numbered_apart_and_gaps_are_bridged():
    skin, shoe = np.zeros((2, 10, 20), bool)
    skin[2:5, 2:9] = skin[2:5, 11:18] = True
    shoe[5:8, 2:9] = True
    parts = connected([skin, shoe], 5)
    assert len(np.unique(parts[skin])) == 1
    assert set(np.unique(parts[shoe])).isdisjoint(np.unique(parts[skin]))
    assert not parts[~(skin | shoe)].any()
    assert len(np.unique(connected([skin], 1)[skin])) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (stroke("left-hand", (1, 1)), "'left-hand' is none of left-leg"),
        (stroke("left-leg", (15, 15)), "left-leg 15,15 lies in no part"),
        (stroke("left-leg", (99, -3)), "lies in no part"),
    ],
)
def test_a_stroke_that_tells_nothing_is_an_error(wrong: Stroke, message: str):
    parts = np.zeros((20, 20), np.int32)
    parts[:5, :5] = 1
    with pytest.raises(DataError, match=message):
        side_map(parts, [wrong], IDS)


def test_strokes_are_read_and_errors_name_the_line(tmp_path):
    file = tmp_path / "sides.txt"
    file.write_text("# by hand\n0552 right-leg 146,326 150,370 # crossed\n\n0552 left-shoe 4,5\n")
    strokes = read_strokes(file)
    assert [s.name for s in strokes["0552"]] == ["right-leg", "left-shoe"]
    assert strokes["0552"][0].points.tolist() == [[146, 326], [150, 370]]
    file.write_text("0552 left-leg 1,2\n0553 left-leg 1,2,3\n")
    with pytest.raises(DataError, match=r"sides\.txt:2: '0553 left-leg 1,2,3' is no stroke"):
        read_strokes(file)
    file.write_text("0552\n")
    with pytest.raises(DataError, match=":1: '0552' is no stroke"):
        read_strokes(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_strokes(tmp_path / "absent.txt")


SETS = {"pascal_person_part": "pascal", "ccp": "ccp"}


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("side_labels")


@pytest.fixture
def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The script with strokes of its own."""

    def call(data: Path, strokes: Path, out: Path, *more: str) -> None:
        words = ["side_labels.py", "--data", str(data), "-o", str(out), *more]
        (strokes / "pascal_limbs.txt").touch()
        monkeypatch.setattr("sys.argv", words)
        monkeypatch.setattr(script, "STROKES", strokes)
        script.main()

    return call


def read_map(folder: Path, photo: str) -> np.ndarray:
    return read_labels(folder / f"{photo}.png")


def dolls(data: Path, *, count: int, size: int) -> None:
    """The sets that the script reads, of synthetic people."""
    for name, domain in SETS.items():
        root = write_dataset(data / name, count=count, seed=1, size_hw=(size, size), split="train")
        shutil.rmtree(root / "labels")
        shutil.copytree(root / f"labels_{domain}", root / "labels")


def inside(where: np.ndarray) -> str:
    """The innermost point of a region, as strokes are written."""
    deep = cv2.distanceTransform(np.pad(where, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(deep.argmax(), deep.shape)
    return f"{column},{row}"


def test_the_script_fills_in_what_strokes_tell_and_keeps_what_was_decided(
    tmp_path: Path, run: Callable[..., None]
):
    """On synthetic people whose left arm and shoe were taken out of the labels."""
    data, cihp = tmp_path / "data", load_domain("cihp")
    arm, shoe = cihp.index("left-arm"), cihp.index("left-shoe")
    dolls(data, count=8, size=192)
    lines: dict[str, list[str]] = {"pascal_person_part": [], "ccp": []}
    photos = (data / "ccp" / "train.txt").read_text().split()
    for photo in photos:
        truth = read_map(data / "ccp" / "labels_cihp", photo)
        for name, part in (("left-arm", arm), ("left-shoe", shoe)):
            if (truth == part).sum() > 30:
                lines["ccp"].append(f"{photo} {name} {inside(truth == part)}")
        if (truth == arm).sum() > 30:
            lines["pascal_person_part"].append(f"{photo} left-arm {inside(truth == arm)}")
        for domain in ("atr", "cihp"):
            known = read_map(data / "ccp" / f"labels_{domain}", photo)
            known[(truth == arm) | (truth == shoe)] = 255
            cv2.imwrite(str(data / "ccp" / f"labels_{domain}" / f"{photo}.png"), known)
    strokes = tmp_path / "strokes"
    strokes.mkdir()
    for name, told in lines.items():
        (strokes / f"{name}.txt").write_text("\n".join(told))
    out = tmp_path / "out"
    run(data, strokes, out)

    sided = {name: (out / name / "sided.txt").read_text().split() for name in lines}
    about = {n: len(s) for n, s in sided.items()} | {"limbs": len(sided["pascal_person_part"])}
    assert json.loads((out / "about.json").read_text()) == about
    assert sided["ccp"] == sorted({line.split()[0] for line in lines["ccp"] if "shoe" in line})
    assert (out / "ccp" / "images" / f"{photos[0]}.png").exists()
    filled = 0
    for photo in photos:
        before = read_map(data / "ccp" / "labels_cihp", photo)
        after = read_map(out / "ccp" / "labels_cihp", photo)
        decided = before != 255
        np.testing.assert_array_equal(after[decided], before[decided])
        filled += int((after[~decided] != 255).sum())
        alone = read_map(out / "pascal_person_part" / "labels_cihp", photo)
        assert set(np.unique(alone)) <= {arm, 255}
    assert filled > 300
    assert set(sided["pascal_person_part"]) == {
        photo
        for photo in photos
        if (read_map(out / "pascal_person_part" / "labels_atr", photo) != 255).any()
    }


def test_sides_of_limbs_are_those_told_and_those_of_bare_limbs(
    one_photo: Path, run: Callable[..., None]
):
    """The right leg is told as a limb, the left arm as bare skin: or as a right one, once each."""
    root, photo = one_photo / "pascal_person_part", "train_000000"
    body, cihp = read_map(root / "labels", photo), load_domain("cihp")
    legs = body == load_domain("pascal").index("lower-legs")
    arm = read_map(root / "labels_cihp", photo) == cihp.index("left-arm")
    (one_photo / "pascal_limbs.txt").write_text(f"{photo} right {inside(legs)}")
    (one_photo / "pascal_person_part.txt").write_text(f"{photo} left-arm {inside(arm)}")
    (one_photo / "ccp.txt").touch()
    run(one_photo, one_photo, one_photo / "out")

    sides = load_domain(one_photo / "out" / "pascal_sides.json")
    found = read_map(one_photo / "out" / root.name / "labels_pascal_sides", photo)
    bare = read_map(one_photo / "out" / root.name / "labels_cihp", photo) == cihp.index("left-arm")
    assert bare.sum() > 20
    assert {sides.names[k] for k in np.unique(found[bare])} <= {"left-upper-arm", "left-lower-arm"}

    leg = found == sides.index("right-lower-leg")
    assert leg.sum() > 20
    assert legs[leg].all()
    assert {sides.names[k].split("-")[0] for k in np.unique(found) if k != 255} == {
        *("background", "head", "torso", "left", "right")
    }

    (one_photo / "pascal_limbs.txt").write_text(f"{photo} right {inside(bare)}")
    run(one_photo, one_photo, one_photo / "again")
    doubtful = read_map(one_photo / "again" / root.name / "labels_pascal_sides", photo)[bare]
    told = connected([body == k for k in load_domain("pascal").indices("arms")], 1)[bare]
    assert (doubtful[told == np.bincount(told).argmax()] == 255).all()


@pytest.mark.parametrize(
    ("left", "right", "crossed"),
    [(5, 20, True), (20, 5, False), (5, None, False), (None, 5, False), (None, None, False)],
)
def test_feet_are_crossed_where_the_left_shoe_is_on_the_left(
    left: int | None, right: int | None, crossed: bool, script: ModuleType
):
    cihp, labels = load_domain("cihp"), np.full((30, 30), 255, np.uint8)
    for name, column in (("left-shoe", left), ("right-shoe", right)):
        if column is not None:
            labels[20:26, column : column + 5] = cihp.index(name)
    assert script.has_crossed_feet(labels, cihp) == crossed


def test_a_checkpoint_without_the_heads_is_an_error(
    one_photo: Path, tmp_path: Path, run: Callable[..., None]
):
    net = SST(PRESETS["sst-tiny"], [load_domain("pascal")])
    saved = Checkpoint("sst", asdict(net.config), net.domains, net.state_dict())
    write_checkpoint(tmp_path / "net.pt", saved)
    with pytest.raises(
        SystemExit, match="sst with heads pascal; name a checkpoint of SST with atr"
    ):
        run(
            one_photo,
            one_photo,
            tmp_path / "out",
            "--checkpoint",
            f"{tmp_path}/net.pt",
        )


@pytest.fixture
def one_photo(tmp_path: Path) -> Path:
    """Both sets with a single synthetic person each."""
    dolls(tmp_path, count=1, size=96)
    return tmp_path


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (
            "train_000000",
            "pascal_person_part train_000000: the stroke left-arm 0,0 lies",
        ),
        ("train_000009", "strokes name train_000009, which no list"),
    ],
)
def test_a_stroke_of_no_part_or_no_photograph_is_an_error_and_writes_nothing(
    photo: str, message: str, one_photo: Path, tmp_path: Path, run: Callable[..., None]
):
    for name in SETS:
        (tmp_path / f"{name}.txt").write_text(f"{photo} left-arm 0,0\n")
    with pytest.raises(SystemExit, match=message):
        run(one_photo, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("worn", "dressed"),
    [("pants", {"upper-legs", "lower-legs"}), ("upper-clothes", {"upper-arms", "upper-legs"})],
)
def test_covered_limbs_get_the_garment_that_a_network_finds_likeliest(
    worn: str, dressed: set[str], one_photo: Path, tmp_path: Path, run: Callable[..., None]
):
    """Where the part admits it: trousers are no sleeves; skin does not count. Shoes: see below."""
    found, rows = labels_by_a_network_that_likes(worn, one_photo, tmp_path, run)
    garment = load_domain("cihp").index(worn)
    for name, where in rows.items():
        assert (found[where, 26:44] == (garment if name in dressed else 255)).all()
    assert set(np.unique(found)) == {garment, 255}


def test_where_a_network_sees_a_shoe_the_label_stays_undecided(
    one_photo: Path, tmp_path: Path, run: Callable[..., None]
):
    """Lower legs reach down to the sole, and nobody has told whose shoe it is."""
    found, _ = labels_by_a_network_that_likes("left-shoe", one_photo, tmp_path, run)
    assert (found == 255).all()


def labels_by_a_network_that_likes(
    worn: str, one_photo: Path, tmp_path: Path, run: Callable[..., None]
) -> tuple[np.ndarray, dict[str, slice]]:
    """Its labels of a person in cloth, and the rows of their parts: skin before `worn`."""
    domains = [load_domain(name) for name in ("atr", "cihp")]
    net = SST(PRESETS["sst-tiny"], domains)
    for domain in domains:
        liked = net.get_parameter(f"heads.{domain.name}.bias").data.zero_()
        liked[[domain.index("left-arm"), domain.index("face")]] = 2e3
        liked[domain.index(worn)] = 1e3
    look = {"size_hw": [64, 64], "resize": "letterbox", "pad_value": 0}
    weights = net.state_dict()
    trained = Checkpoint("sst", asdict(net.config), tuple(domains), weights, None, look, {})
    write_checkpoint(tmp_path / "net.pt", trained)
    for name in SETS:
        (tmp_path / f"{name}.txt").write_text("")
    ccp, tags = load_domain("ccp"), read_map(one_photo / "ccp" / "labels", "train_000000")
    picture = cv2.imread(str(one_photo / "ccp" / "images" / "train_000000.png"))
    assert picture is not None
    clothes = ~np.isin(tags, [0, 255, *ccp.indices("skin", "hair")])
    cloth = np.full((96, 96, 3), np.median(picture[clothes], axis=0), np.uint8)
    body = np.zeros((96, 96), np.uint8)
    names = load_domain("pascal").names
    rows = {"upper-arms": slice(10, 30), "upper-legs": slice(40, 60), "lower-legs": slice(60, 80)}
    for name, where in rows.items():
        body[where, 20:50] = names.index(name)
    root = one_photo / "pascal_person_part"
    cv2.imwrite(str(root / "images" / "train_000000.png"), cloth)
    cv2.imwrite(str(root / "labels" / "train_000000.png"), body)

    words = ("--checkpoint", str(tmp_path / "net.pt"), "--size", "64x64")
    run(one_photo, tmp_path, tmp_path / "out", *words)
    found = read_map(tmp_path / "out" / "pascal_person_part" / "labels_cihp", "train_000000")
    assert (found[body == 0] == 255).all()
    return found, rows
