"""Thirty real photographs from C++ and from Python, and how long each takes.

    HP_DATA=folder python -m pytest -m slow -s tests/cpp/test_photos.py

`folder` has the layout of `make model`; every line printed is a JSON object.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.image import load_image
from hp_sdk.planes import Planes, View
from hp_sdk.preprocess import plan
from tests.cpp.conftest import REPOSITORY

pytestmark = [pytest.mark.cpp, pytest.mark.slow, pytest.mark.timeout(3600)]

SETS = ("pascal_person_part", "ccp", "cihp_samples", "atr_samples", "lip_samples")
MARGIN = 1e-3
ROUNDS = 3
NOISE = 1.05
"""Two runs of the same program differ by that much."""


@pytest.fixture(scope="module")
def photos(request):
    named = os.environ.get("HP_DATA")
    folder = Path(named) if named else request.getfixturevalue("shared_data")
    files = [sorted((folder / each / "images").glob("*.jpg"))[:9] for each in SETS]
    found = [load_image(path) for some in files for path in some][:30]
    assert len(found) == 30
    assert len({photo.shape for photo in found}) > 10
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from tests.cpp.schnet import write_schnet

    schnet = write_schnet(tmp_path_factory.mktemp("schnet") / "bundle").root
    return {"universal": REPOSITORY / "hp_sdk" / "bundles" / "universal", "schnet-tiny": schnet}


@pytest.mark.parametrize("name", ["universal", "schnet-tiny"])
def test_labels_are_the_same_and_come_as_fast(native, runtime, models, photos, name):
    options = {"backend": runtime, "device": "cpu", "num_threads": 1}
    differ, pixels, margins, python_s, cpp_s = 0, 0, [0.0], 0.0, 0.0
    with (
        Parser.load(models[name], **options) as ours,
        native.load(models[name], **options) as theirs,
    ):
        for photo in photos:
            expected, took = least(lambda photo=photo: ours.predict(photo))
            python_s += took
            found, took = least(lambda photo=photo: theirs.parse([photo])[0])
            cpp_s += took
            apart = found.labels != expected.labels
            differ += int(apart.sum())
            pixels += apart.size
            if apart.any():
                margins.append(float(margin_of(ours, photo)[apart].max()))
    report = {"model": name, "runtime": runtime, "photos": len(photos), "pixels": pixels}
    report |= {"differ": differ, "largest_margin": max(margins)}
    report |= {"python_ms": 1e3 * python_s, "cpp_ms": 1e3 * cpp_s, "ratio": cpp_s / python_s}
    sys.stdout.write(f"{json.dumps(report)}\n")
    assert differ <= 1e-4 * pixels
    assert max(margins) < MARGIN
    assert cpp_s <= NOISE * python_s


def least(work: Callable[[], Any]) -> tuple[Any, float]:
    """The answer, and the seconds of the quickest of a few runs."""
    times: list[float] = []
    answer: Any = None
    for _ in range(ROUNDS):
        start = perf_counter()
        answer = work()
        times.append(perf_counter() - start)
    return answer, min(times)


def margin_of(parser: Parser, photo: np.ndarray) -> np.ndarray:
    """How far the best class leads the second in every pixel."""
    logits = parser.predict(photo, logits=True).logits
    assert logits is not None
    planes = Planes([View(logits, plan(photo.shape[:2], parser.bundle.input))])
    best = np.sort(np.stack([planes.read(k).copy() for k in range(planes.num_classes)]), axis=0)
    return best[-1] - best[-2]
