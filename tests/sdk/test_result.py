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


def test_boxes_and_centroids_are_those_of_the_parts(result):
    assert result.boxes() == {
        "hair": (5, 2, 25, 10),
        "face": (8, 10, 22, 20),
        "right-arm": (5, 20, 10, 30),
        "left-arm": (20, 20, 24, 30),
    }
    assert result.centroids()["hair"] == (15, 6)
    assert result.centroids()["left-arm"] == (22, 25)
    assert list(result.centroids()) == result.parts


def test_polygons_of_a_group_are_one_ring_per_piece(result):
    left, right = result.polygons("arms", epsilon_px=0)
    assert left.tolist() == [[5, 20], [10, 20], [10, 30], [5, 30]]
    assert right.tolist() == [[20, 20], [24, 20], [24, 30], [20, 30]]
    assert result.polygons("coat") == []
    with pytest.raises(InputError, match="no part 'wing'"):
        result.polygons("wing")


def test_run_lengths_are_those_of_the_mask(result):
    rle = result.rle("left-arm")
    assert rle.size_hw == (40, 30)
    assert rle.counts == (820, 10, 30, 10, 30, 10, 30, 10, 250)
    assert rle.to_coco() == {"size": [40, 30], "counts": rle.compressed}


def test_coco_annotations_are_one_per_part(result):
    annotations = result.to_coco(image_id=7, first_id=100)
    assert [each["id"] for each in annotations] == [100, 101, 102, 103]
    assert {each["image_id"] for each in annotations} == {7}
    assert annotations[0] == {
        "id": 100,
        "image_id": 7,
        "category_id": HAIR,
        "bbox": [5, 2, 20, 8],
        "area": 160,
        "segmentation": result.rle("hair").to_coco(),
        "iscrowd": 0,
    }
    json.dumps(annotations)


def test_coco_categories_name_what_annotations_refer_to(result):
    names = {each["id"]: each["name"] for each in result.coco_categories()}
    assert [names[each["category_id"]] for each in result.to_coco()] == result.parts
    assert list(names) == list(range(1, 20))


def test_a_confident_annotation_has_a_score(labels):
    confidence = np.full(labels.shape, 51, np.uint8)
    result = Result(labels=labels, domain=CIHP, confidence=confidence)
    assert {each["score"] for each in result.to_coco()} == {0.2}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_annotations(result):
    coco = pytest.importorskip(
        "pycocotools.mask", reason="pycocotools is missing: pip install pycocotools"
    )
    for each, name in zip(result.to_coco(), result.parts, strict=True):
        np.testing.assert_array_equal(coco.decode(each["segmentation"]), result.mask(name))
        assert coco.toBbox(each["segmentation"]).tolist() == each["bbox"]


def test_a_crop_is_the_photo_around_the_parts(result):
    np.testing.assert_array_equal(result.crop("face"), result.image[10:20, 8:22])
    np.testing.assert_array_equal(result.crop("hair", "arms"), result.image[2:30, 5:25])
    np.testing.assert_array_equal(result.crop(), result.image[2:30, 5:25])


def test_a_crops_margin_is_a_share_of_the_box_and_ends_at_the_border(result):
    np.testing.assert_array_equal(result.crop("face", margin=0.1), result.image[9:21, 7:23])
    np.testing.assert_array_equal(result.crop("face", margin=9.0), result.image)
    with pytest.raises(ConfigError, match=r"margin is -0\.1"):
        result.crop("face", margin=-0.1)


def test_a_crop_is_a_copy(result):
    before = result.image.copy()
    result.crop("face")[:] = 0
    np.testing.assert_array_equal(result.image, before)


def test_there_is_no_crop_of_what_is_not_there(result):
    with pytest.raises(InputError, match="no coat; it has hair, face, right-arm, left-arm"):
        result.crop("coat")
    with pytest.raises(InputError, match=r"keeps no photo; call crop\(image=\.\.\.\)"):
        Result(labels=result.labels, domain=CIHP).crop("face")


def test_a_cutout_is_the_photo_within_the_parts(result):
    cut = result.cutout("face", "hair")
    mask = result.mask("face", "hair")
    assert cut.shape == (40, 30, 4)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut[mask][:, :3], result.image[mask])
    np.testing.assert_array_equal(cut[..., 3], np.where(mask, 255, 0))
    assert not cut[~mask].any()


def test_a_cutout_without_names_is_the_whole_person(result, labels):
    np.testing.assert_array_equal(result.cutout()[..., 3] > 0, labels > 0)


def test_a_cutout_can_be_soft_cropped_and_lie_on_a_colour(result):
    soft = result.cutout("face", feather_px=4)
    assert {*np.unique(soft[15, :, 3])} > {0, 255}
    assert result.cutout("face", crop=True).shape == (10, 14, 4)
    assert result.cutout("face", crop=True, feather_px=4).shape == (14, 18, 4)
    on_green = result.cutout("face", background=(0, 255, 0))
    assert on_green[0, 0].tolist() == [0, 255, 0, 255]
    np.testing.assert_array_equal(on_green[15, 15, :3], result.image[15, 15])


def test_a_cutout_of_what_is_not_there_is_empty_and_has_no_box(result):
    assert not result.cutout("coat").any()
    with pytest.raises(InputError, match="no coat"):
        result.cutout("coat", crop=True)


def test_colours_can_be_chosen(result, labels):
    np.testing.assert_array_equal(result.colorize("domain"), result.colorize())
    assert result.colorize("colorblind")[5, 15].tolist() == [0xE6, 0x9F, 0]
    own = [(k, k, k) for k in range(20)]
    np.testing.assert_array_equal(result.colorize(own)[..., 0], labels)
    over = result.overlay(1.0, contours=False, palette=own)
    np.testing.assert_array_equal(over[labels > 0][:, 0], labels[labels > 0])
    with pytest.raises(ConfigError, match="no palette 'nice'"):
        result.overlay(palette="nice")


@pytest.fixture
def large():
    labels = np.zeros((300, 240), np.uint8)
    labels[100:200, 60:120], labels[200:280, 60:120] = HAIR, 255
    return Result(labels=labels, domain=CIHP, image=np.full((300, 240, 3), 128, np.uint8))


def test_the_legend_has_the_parts_found_and_what_is_undecided(large):
    outside = (large.overlay(legend=True) != large.overlay()).any(axis=2)
    legend = large.overlay(legend=True)[outside].tolist()
    assert [*CIHP.palette[HAIR]] in legend
    assert [224, 224, 192] in legend
    assert [*CIHP.palette[FACE]] not in legend
    assert not (outside & (large.labels > 0)).any()


def test_show_tells_where_it_put_the_overlay(large, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = large.show(palette="colorblind")
    assert str(path) in capsys.readouterr().out
    seen = cv2.imread(str(path))
    assert seen is not None
    expected = large.overlay(legend=True, palette="colorblind")
    np.testing.assert_array_equal(seen[..., ::-1], expected)


def test_a_receipt_says_which_file_and_which_preprocessing(labels):
    receipt = Receipt(model="m 1", head="cihp", backend="ort", provider="CPU")
    assert (receipt.model_sha256, receipt.preprocess_hash) == ("", "")
    data = Result(labels=labels, domain=CIHP, receipt=receipt).to_dict()
    assert {"model_sha256", "preprocess_hash"} <= set(data["receipt"])
