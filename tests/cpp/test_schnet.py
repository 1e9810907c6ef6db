"""A small SCHNet, its photos read through windows, gives the same labels from C++ and Python."""

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.image import load_image
from hp_trainer.paperdolls import paper_doll
from tests.cpp.conftest import REPOSITORY, runtimes

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]

SIZES = [(64, 64), (61, 147), (200, 90), (33, 20)]


# One test for all: making the network takes longest, and workers would each make their own.
def test_both_runtimes_agree_with_python_through_windows_and_views(native, tmp_path):
    pytest.importorskip("torch", reason="needs torch to make the network")
    from tests.cpp.schnet import write_schnet

    folder = write_schnet(tmp_path / "schnet").root
    rng = np.random.default_rng(12)
    photos = [paper_doll(rng, size_hw).image for size_hw in SIZES]
    photos.append(load_image(REPOSITORY / "examples" / "astronaut.jpg")[::2, ::3].copy())
    for runtime in runtimes():
        options = {"backend": runtime, "device": "cpu", "num_threads": 1}
        with Parser.load(folder, **options) as ours, native.load(folder, **options) as theirs:
            for tta in ("none", "flip", "schnet"):
                expected = ours.predict(photos, tta=tta, confidence=True)
                found = theirs.parse(photos, tta=tta, confidence=True)
                same = [(a.labels == b.labels).mean() for a, b in zip(found, expected, strict=True)]
                assert min(same) >= 0.9999, (runtime, tta, same)
                for a, b in zip(found, expected, strict=True):
                    assert np.abs(a.confidence.astype(int) - b.confidence).max() <= 1
            assert len({int(i) for r in found for i in np.unique(r.labels)}) > 2
