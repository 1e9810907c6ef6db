"""Weak labels of bare skin: learned colours, one part at a time, undecided where unclear."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hp_sdk.png import read_labels
from hp_trainer.paperdolls import write_dataset
from hp_trainer.skin import WINDOW, colour_evidence, skin_labels

SKIN, CLOTH, OTHER = (205, 150, 120), (40, 60, 160), (90, 200, 90)
SKIN_ID = 41


def painted(*colours: tuple[int, int, int]) -> np.ndarray:
    """Upright stripes 20 pixels wide, with a little noise."""
    image = np.repeat(np.repeat(np.array([colours], np.int16), 20, 1), 30, 0)
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    return (image + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def evidence() -> np.ndarray:
    image = painted(SKIN, CLOTH)
    left = np.zeros(image.shape[:2], bool)
    left[:, :20] = True
    return colour_evidence([(image, left, ~left)])


def test_colours_of_skin_are_for_it_those_of_cloth_against_and_strange_ones_say_nothing(
    evidence: np.ndarray,
):
    def at(colour):
        return evidence[tuple(v * len(evidence) // 256 for v in colour)]

    assert at(SKIN) > 2
    assert at(CLOTH) < -2
    assert at(OTHER) == pytest.approx(0, abs=1e-6)


def test_only_parts_that_look_bare_are_labelled(evidence: np.ndarray):
    image = painted(SKIN, CLOTH, SKIN, OTHER)
    parts = np.zeros(image.shape[:2], np.uint8)
    parts[:, :40], parts[:, 60:] = 3, 4  # the second stripe of skin is no part
    found = skin_labels(image, parts, evidence, skin_id=SKIN_ID)
    assert found.dtype == np.uint8
    assert (found[:, : 20 - WINDOW // 2] == SKIN_ID).all()
    assert (found[:, 20 + WINDOW // 2 :] == 255).all()


def test_a_part_is_judged_by_its_own_pixels_alone(evidence: np.ndarray):
    """Up to its border, a sleeve beside a bare arm takes nothing from it."""
    image = painted(SKIN, CLOTH)
    parts = np.where(np.arange(40) < 20, 3, 4).astype(np.uint8)[None].repeat(30, 0)
    found = skin_labels(image, parts, evidence, skin_id=SKIN_ID)
    assert (found[:, :20] == SKIN_ID).all()
    assert (found[:, 20:] == 255).all()


def test_the_script_writes_one_label_map_for_every_photograph(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    load_script: Callable[[str], ModuleType],
):
    root, out = tmp_path / "dolls", tmp_path / "skin"
    write_dataset(root, count=3, seed=0, size_hw=(96, 96), split="train")
    shutil.rmtree(root / "labels")
    parts = shutil.copytree(root, tmp_path / "parts")
    shutil.copytree(root / "labels_ccp", root / "labels")
    shutil.copytree(root / "labels_pascal", parts / "labels")
    words = ["skin_labels.py", "--from", str(root), "--to", str(parts), "-o", str(out)]
    monkeypatch.setattr("sys.argv", words)
    module = load_script("skin_labels")
    module.main()
    ids = (root / "train.txt").read_text().split()
    assert sorted(p.stem for p in out.glob("*.png")) == sorted(ids)
    assert json.loads((out / "about.json").read_text())["images"] == len(ids)
    label = np.concatenate([read_labels(out / f"{name}.png") for name in ids])
    truth = np.concatenate([read_labels(root / "labels_ccp" / f"{name}.png") for name in ids])
    assert set(np.unique(label)) == {module.SKIN, 255}
    assert (truth[label == module.SKIN] == module.SKIN).mean() > 0.7
