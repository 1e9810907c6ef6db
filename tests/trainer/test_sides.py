"""Sides told by strokes: whole parts, crossed legs, and strokes that are none."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import DataError
from hp_trainer.paperdolls import write_dataset
from hp_trainer.sides import Stroke, connected, read_strokes, side_map

IDS = {"left-leg": 16, "right-leg": 17, "left-shoe": 18, "right-shoe": 19}


def stroke(name: str, *points: tuple[float, float]) -> Stroke:
    return Stroke(name, np.array(points, float))


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


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("side_labels", SCRIPTS / "side_labels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_map(folder: Path, photo: str) -> np.ndarray:
    pixels = cv2.imread(str(folder / f"{photo}.png"), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def inside(where: np.ndarray) -> str:
    """The innermost point of a region, as strokes are written."""
    deep = cv2.distanceTransform(np.pad(where, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(deep.argmax(), deep.shape)
    return f"{column},{row}"


def test_the_script_fills_in_what_strokes_tell_and_keeps_what_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """On synthetic people whose left arm and shoe were taken out of the labels."""
    data, cihp = tmp_path / "data", load_domain("cihp")
    arm, shoe = cihp.index("left-arm"), cihp.index("left-shoe")
    for name, domain in (("pascal_person_part", "pascal"), ("ccp", "ccp")):
        root = write_dataset(data / name, count=8, seed=1, size_hw=(192, 192), split="train")
        shutil.rmtree(root / "labels")
        shutil.copytree(root / f"labels_{domain}", root / "labels")
    lines: dict[str, list[str]] = {"pascal_person_part": [], "ccp": []}
    photos = (data / "ccp" / "train.txt").read_text().split()
    for photo in photos:
        truth = read_map(data / "ccp" / "labels_cihp", photo)
        for name, part in (("left-arm", arm), ("left-shoe", shoe)):
            if (truth == part).sum() > 30:
                lines["ccp"].append(f"{photo} {name} {inside(truth == part)}")
        if (truth == arm).sum() > 30:
            lines["pascal_person_part"].append(f"{photo} left-arm {inside(truth == arm)}")
        for domain in ("atr", "cihp", "lip"):
            known = read_map(data / "ccp" / f"labels_{domain}", photo)
            known[(truth == arm) | (truth == shoe)] = 255
            cv2.imwrite(str(data / "ccp" / f"labels_{domain}" / f"{photo}.png"), known)
    strokes = tmp_path / "strokes"
    strokes.mkdir()
    for name, told in lines.items():
        (strokes / f"{name}.txt").write_text("\n".join(told))
    module, out = script(), tmp_path / "out"
    skin = data / "pascal_person_part" / "labels_ccp"
    words = ["side_labels.py", "--data", str(data), "--skin", str(skin), "-o", str(out)]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(module, "STROKES", strokes)
    module.main()

    sided = {name: (out / name / "sided.txt").read_text().split() for name in lines}
    assert json.loads((out / "about.json").read_text()) == {n: len(s) for n, s in sided.items()}
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


def test_the_script_names_the_photograph_of_a_stroke_that_lies_in_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = tmp_path / "data"
    for name, domain in (("pascal_person_part", "pascal"), ("ccp", "ccp")):
        root = write_dataset(data / name, count=1, seed=1, size_hw=(96, 96), split="train")
        shutil.rmtree(root / "labels")
        shutil.copytree(root / f"labels_{domain}", root / "labels")
        (tmp_path / f"{name}.txt").write_text("train_000000 left-arm 0,0\n")
    module, skin = script(), data / "pascal_person_part" / "labels_ccp"
    words = ["side_labels.py", "--data", str(data), "--skin", str(skin), "-o", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(module, "STROKES", tmp_path)
    with pytest.raises(SystemExit, match="pascal_person_part train_000000: the stroke left-arm"):
        module.main()
    assert not (tmp_path / "o").exists()
