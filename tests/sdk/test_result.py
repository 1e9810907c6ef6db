"""What a Result offers."""

import json

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.png import read_labels
from hp_sdk.result import Receipt, Result

CIHP = load_domain("cihp")
HAIR, FACE, LEFT_ARM, RIGHT_ARM = (
    CIHP.index(name) for name in ("hair", "face", "left-arm", "right-arm")
)


@pytest.fixture
def labels():
    labels = np.zeros((40, 30), np.uint8)
    labels[2:10, 5:25] = HAIR
    labels[10:20, 8:22] = FACE
    labels[20:30, 5:10] = RIGHT_ARM
    labels[20:30, 20:24] = LEFT_ARM
    return labels


@pytest.fixture
def result(labels):
    photo = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    return Result(labels=labels, domain=CIHP, image=photo)


def test_parts_come_largest_first_without_the_background(result):
    assert result.parts == ["hair", "face", "right-arm", "left-arm"]
    assert result.areas() == {"hair": 160, "face": 140, "right-arm": 50, "left-arm": 40}


def test_ignored_pixels_are_no_part(labels):
    labels[0, 0] = 255
    result = Result(labels=labels, domain=CIHP)
    assert "hair" in result.parts
    assert sum(result.areas().values()) == 390
    assert not result.mask("person", "background")[0, 0]


def test_an_empty_photo_has_no_parts(result):
    empty = Result(labels=np.zeros((4, 4), np.uint8), domain=CIHP, image=np.ones((4, 4, 3), "u1"))
    assert empty.parts == []
    np.testing.assert_array_equal(empty.overlay(), empty.image)


def test_a_mask_takes_parts_groups_and_any_spelling(result, labels):
    assert result.mask("Hair").dtype == bool
    np.testing.assert_array_equal(result.mask("hair"), labels == HAIR)
    np.testing.assert_array_equal(
        result.mask("arms", "face"), np.isin(labels, [FACE, LEFT_ARM, RIGHT_ARM])
    )
    np.testing.assert_array_equal(result.mask("person"), labels > 0)
    assert not result.mask("coat").any()


def test_a_wrong_mask_name_is_answered_with_the_list(result):
    with pytest.raises(InputError, match=r"no part 'hairs'.*did you mean 'hair'"):
        result.mask("hairs")
    with pytest.raises(InputError, match="needs a name"):
        result.mask()


def test_colours_are_the_palette(result, labels):
    np.testing.assert_array_equal(result.colorize(), np.array(CIHP.palette, np.uint8)[labels])


def test_the_overlay_tints_parts_and_leaves_the_rest_of_the_photo(result, labels):
    over = result.overlay()
    assert over.shape == (40, 30, 3)
    assert over.dtype == np.uint8
    np.testing.assert_array_equal(over[34:], result.image[34:])
    expected = 0.45 * result.image[14, 15] + 0.55 * np.array(CIHP.palette[FACE])
    np.testing.assert_allclose(over[14, 15], expected, atol=1)


def test_outlines_are_dark_between_parts_and_light_around_the_figure(labels):
    photo = np.full((40, 30, 3), 128, np.uint8)
    over = Result(labels=labels, domain=CIHP, image=photo).overlay(1.0).astype(int)
    flat = np.array(CIHP.palette)[FACE]
    assert over[10, 15].sum() < flat.sum()  # hair | face
    assert over[2, 15].min() > 128  # background | hair


def test_an_overlay_of_no_strength_is_the_photo(result):
    np.testing.assert_array_equal(result.overlay(0.0), result.image)


def test_the_overlay_changes_neither_photo_nor_labels(result, labels):
    photo, before = result.image.copy(), labels.copy()
    result.overlay()
    np.testing.assert_array_equal(result.image, photo)
    np.testing.assert_array_equal(result.labels, before)


def test_an_overlay_needs_a_fitting_photo(result, labels):
    bare = Result(labels=labels, domain=CIHP)
    with pytest.raises(InputError, match="keeps no photo"):
        bare.overlay()
    with pytest.raises(InputError, match=r"\(40, 30, 3\)"):
        bare.overlay(image=np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        result.overlay(1.5)
    assert bare.overlay(image=result.image).shape == (40, 30, 3)


def test_a_saved_result_gives_the_ids_back(result, labels, tmp_path):
    path = result.save(tmp_path / "deep" / "a.labels.png")
    np.testing.assert_array_equal(read_labels(path), labels)
    seen = cv2.imread(str(path))
    assert seen is not None
    np.testing.assert_array_equal(seen[..., ::-1], result.colorize())


def test_labels_are_saved_as_png_only(result, tmp_path):
    with pytest.raises(ConfigError, match=r"not 'a\.jpg'"):
        result.save(tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_json_tells_parts_receipt_and_timing(labels):
    confidence = np.full(labels.shape, 51, np.uint8)
    receipt = Receipt(model="m 1", head="cihp", backend="ort", provider="CPU", network_hw=(64, 96))
    result = Result(
        labels=labels, domain=CIHP, confidence=confidence, receipt=receipt, timing={"run": 1.23456}
    )
    data = json.loads(result.to_json())
    assert data["domain"] == "cihp"
    assert data["size_hw"] == [40, 30]
    assert data["parts"][0] == {
        "id": HAIR,
        "name": "hair",
        "area_px": 160,
        "share": round(160 / 1200, 6),
        "box_xyxy": [5, 2, 25, 10],
        "confidence": 0.2,
    }
    assert data["receipt"]["provider"] == "CPU"
    assert data["receipt"]["network_hw"] == [64, 96]
    assert data["timing_ms"] == {"run": 1.235}


def test_a_result_introduces_itself_in_one_line(result):
    assert repr(result) == "Result(cihp, 40 x 30 px: hair, face, right-arm, left-arm)"
