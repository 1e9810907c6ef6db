"""Labels in which only people seen from the front have limbs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.png import read_labels

CIHP = load_domain("cihp")


@pytest.fixture
def run(
    load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    script = load_script("front_labels")

    def call(data: Path, strokes: str, out: Path) -> None:
        (data.parent / f"front_{data.name}.txt").write_text(strokes)
        words = ["front_labels.py", "--data", str(data), "--domain", "cihp", "-o", str(out)]
        monkeypatch.setattr(script, "STROKES", data.parent)
        monkeypatch.setattr("sys.argv", words)
        script.main()

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Two people with a left arm each, and a face."""
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 5:15] = labels[10:30, 40:50] = CIHP.index("left-arm")
    labels[2:8, 5:15] = CIHP.index("face")
    root = tmp_path / "set"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    cv2.imwrite(str(root / "labels" / "a.png"), labels)
    cv2.imwrite(str(root / "images" / "a.png"), np.zeros((40, 60, 3), np.uint8))
    (root / "all.txt").write_text("a\n")
    return root


def test_pieces_that_no_stroke_names_are_undecided(photo: Path, run: Callable[..., None]):
    out = photo.parent / "out"
    run(photo, "a front 10,20\n", out)
    truth, seen = (read_labels(root / "labels" / "a.png") for root in (photo, out))
    assert (seen[10:30, 40:50] == 255).all()
    seen[10:30, 40:50] = truth[10:30, 40:50]
    np.testing.assert_array_equal(seen, truth)
    assert (out / "images" / "a.png").exists()
    assert (out / "all.txt").read_text() == "a\n"


@pytest.mark.parametrize(
    ("strokes", "told"),
    [
        ("b front 10,20\n", "strokes name b, which the list of"),
        ("a front 25,20\n", "set a: the stroke front 25,20 lies in no part"),
        ("a back 10,20\n", "set a: 'back' is none of front"),
    ],
)
def test_strokes_that_fit_nothing_write_nothing(
    strokes: str, told: str, photo: Path, run: Callable[..., None]
):
    with pytest.raises(SystemExit, match=told):
        run(photo, strokes, photo.parent / "out")
    assert not (photo.parent / "out").exists()
