"""The same bundle gives the same labels from C++ and from Python."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.errors import InputError, UnknownHead
from hp_sdk.image import load_image
from hp_trainer.paperdolls import paper_doll

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]

ASTRONAUT = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
UNIVERSAL = "universal"
REQUIRED = 0.9999
SIZES = [(224, 224), (61, 47), (480, 321), (96, 700), (713, 254), (33, 224)]


@pytest.fixture(scope="module")
def dolls():
    rng = np.random.default_rng(11)
    return [paper_doll(rng, size_hw).image for size_hw in SIZES]


@pytest.fixture
def both(native, runtime, bundles):
    """The bundled model opened by both languages."""
    options = {"backend": runtime, "device": "cpu", "num_threads": 1}
    with (
        Parser.load(UNIVERSAL, **options) as ours,
        native.load(UNIVERSAL, bundles=bundles, **options) as theirs,
    ):
        yield ours, theirs


@pytest.fixture
def bundles(repository: Path) -> str:
    return str(repository / "hp_sdk" / "bundles")


def agreement(labels, expected):
    assert [each.shape for each in labels] == [each.shape for each in expected]
    same = sum(int((a == b).sum()) for a, b in zip(labels, expected, strict=True))
    return same / sum(each.size for each in expected)


def test_every_head_agrees_on_made_up_and_real_photos(both, dolls):
    ours, theirs = both
    for photo in [*dolls[:3], load_image(ASTRONAUT)]:
        expected = ours.predict(photo, domains=ours.heads)
        found = theirs.parse_heads(photo, list(ours.heads))
        for head, result in expected.items():
            assert found[head].names == result.domain.names
            assert found[head].backend == result.receipt.backend
            assert agreement([found[head].labels], [result.labels]) >= REQUIRED, head


@pytest.mark.parametrize("tta", ["none", "flip", "ms+flip"])
def test_batches_views_and_confidence_agree(both, dolls, tta):
    ours, theirs = both
    photos = dolls[:4]
    expected = ours.predict(photos, tta=tta, confidence=True)
    found = theirs.parse(photos, tta=tta, confidence=True)
    assert agreement([r.labels for r in found], [r.labels for r in expected]) >= REQUIRED
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a.confidence.astype(int) - b.confidence).max() <= 1
    plain = theirs.parse(photos, tta=tta)
    assert agreement([r.labels for r in plain], [r.labels for r in expected]) >= REQUIRED
    assert all(result.confidence is None for result in plain)


def test_real_photos_of_mixed_sizes_agree(both, shared_data):
    ours, theirs = both
    sets = ("pascal_person_part", "ccp", "cihp_samples", "atr_samples", "lip_samples")
    files = [sorted((shared_data / each / "images").iterdir())[:9] for each in sets]
    photos = [load_image(path) for some in files for path in some][:30]
    assert len({photo.shape for photo in photos}) > 10
    expected = [result.labels for result in ours.predict(photos)]
    found = [result.labels for result in theirs.parse(photos)]
    assert agreement(found, expected) >= REQUIRED


def test_the_golden_sample_is_reproduced(both):
    _, theirs = both
    assert theirs.selftest() >= 0.999


@pytest.mark.parametrize(
    ("format", "order"), [(1, [2, 1, 0]), (2, [0, 1, 2, 0]), (3, [2, 1, 0, 0])]
)
def test_other_channel_orders_are_the_same_photo(native, runtime, bundles, dolls, format, order):
    photo = dolls[2]
    padded = np.zeros((photo.shape[0], photo.shape[1] + 5, len(order)), np.uint8)
    padded[:, : photo.shape[1]] = photo[..., order]
    with native.load("cihp", bundles=bundles, backend=runtime) as parser:
        expected = parser.parse([photo])[0].labels
        found = parser.parse([padded[:, : photo.shape[1]]], format=format)[0].labels
    np.testing.assert_array_equal(found, expected)


def test_an_unusable_photo_is_named_and_loses_nothing(both, dolls):
    _, theirs = both
    nothing = np.zeros((0, 4, 3), np.uint8)
    with pytest.raises(InputError, match=r"photo 2 of the batch.*0 x 4"):
        theirs.parse([dolls[0], nothing])
    with pytest.raises(UnknownHead, match=r"no head 'face'.*cihp"):
        theirs.parse_heads(dolls[0], ["cihp", "face"])
    assert theirs.parse([dolls[0]])[0].labels.shape == dolls[0].shape[:2]


def test_threads_share_a_parser(both, dolls):
    _, theirs = both
    expected = theirs.parse(dolls)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda photo: theirs.parse([photo])[0], dolls * 3)
    for a, b in zip(found, expected * 3, strict=True):
        assert (a.labels == b.labels).mean() >= REQUIRED
