"""The published datasets are read as they lie on disk (T-70 to T-76); users' own stay neutral."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, DataError
from hp_trainer.data import DataConfig, PhotoSet, SetConfig, open_sets
from hp_trainer.layouts import LAYOUTS, PhotoOptions

SIZE_HW = (6, 8)
NAMES = ("0000002", "0000013", "0000407")

# layout, domain, split, folder of images, folder of labels, list
CIHP = ("cihp", "cihp", "val", "Validation/Images", "Validation/Category_ids")
PUBLISHED = {
    "T-70 CIHP": (*CIHP, "Validation/val_id.txt"),
    "T-70 CIHP training": (
        *("cihp", "cihp", "train", "Training/Images", "Training/Category_ids"),
        "Training/train_id.txt",
    ),
    "T-70 CIHP_4w": (
        *("cihp-graphonomy", "cihp", "val", "Images", "Category_ids"),
        "lists/val_id.txt",
    ),
    "T-70 CIHP of PGN": ("cihp-pgn", "cihp", "train", "images", "labels", "list/train_id.txt"),
    "T-71 LIP": (
        *("lip", "lip", "train", "TrainVal_images/train_images"),
        *("TrainVal_parsing_annotations/train_segmentations", "TrainVal_images/train_id.txt"),
    ),
    "T-71 LIP, archives in folders of their name": (
        *("lip", "lip", "val", "TrainVal_images/TrainVal_images/val_images"),
        "TrainVal_parsing_annotations/TrainVal_parsing_annotations/val_segmentations",
        "TrainVal_images/val_id.txt",
    ),
    "T-71 LIP flat": ("lip-flat", "lip", "val", "val_images", "val_segmentations", "val_id.txt"),
    "T-71 LIP with the misprint": (
        *("lip-flat", "lip", "train", "train_imgaes", "train_segmentations"),
        "train_id.txt",
    ),
    "T-71 LIP of CDGNet": (
        *("lip-flat", "lip", "train", "images_labels/train_images"),
        *("images_labels/train_segmentations", "images_labels/train_id.txt"),
    ),
    "T-72 ATR": ("atr", "atr", "val", "JPEGImages", "SegmentationClassAug", "list/val_id.txt"),
    "T-72 humanparsing": ("atr", "atr", "all", "JPEGImages", "SegmentationClassAug", ""),
    "T-73 PASCAL": (
        *("pascal", "pascal", "train", "JPEGImages", "SegmentationPart"),
        "list/train_id.txt",
    ),
    "T-74 M2FP's CIHP": (
        *("m2fp", "cihp", "train", "Training/Images"),
        *("Training/Category_ids", ""),
    ),
    "T-74 M2FP's LIP": ("m2fp", "lip", "val", "Validation/Images", "Validation/Category_ids", ""),
}
INSIDE = {
    "instance-level_human_parsing": "T-70 CIHP",
    "CIHP_4w": "T-70 CIHP_4w",
    "LIP": "T-71 LIP of CDGNet",
    "humanparsing": "T-72 humanparsing",
    "ATR": "T-72 ATR",
    "pascal": "T-73 PASCAL",
}


def write_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_photos(root: Path, images: str, labels: str, names: Sequence[str] = NAMES) -> None:
    """Photograph k is of one grey, and its label map all id k + 1."""
    for k, name in enumerate(names):
        write_picture(root / images / f"{name}.jpg", np.full((*SIZE_HW, 3), 50 * k, np.uint8))
        write_picture(root / labels / f"{name}.png", np.full(SIZE_HW, k % 6 + 1, np.uint8))


def write_lines(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def write_layout(root: Path, case: str, names: Sequence[str] = NAMES) -> tuple[str, str, str]:
    """Write one of `PUBLISHED`; returns layout, domain and split."""
    layout, domain, split, images, labels, listed = PUBLISHED[case]
    write_photos(root, images, labels, names)
    if listed:
        write_lines(root / listed, names)
    return layout, domain, split


def label_values(photos: PhotoSet, domain: str) -> list[list[int]]:
    """Ids in each label map."""
    loaded = [photos.load(i, np.random.default_rng(0))[1][domain] for i in range(len(photos))]
    return [np.unique(label).tolist() for label in loaded]


@pytest.mark.parametrize("case", PUBLISHED)
def test_a_published_layout_is_recognised_and_read(tmp_path: Path, case: str):
    layout, domain, split = write_layout(tmp_path, case)
    photos = PhotoSet(tmp_path, {domain: "labels"}, split, 0)
    assert photos.layout == layout
    assert tuple(photos.ids) == NAMES
    assert label_values(photos, domain) == [[1], [2], [3]]
    greys = [photos.load(i, np.random.default_rng(0))[0].mean() for i in range(3)]
    assert greys == pytest.approx([0, 50, 100], abs=2)


@pytest.mark.parametrize(("folder", "case"), INSIDE.items())
def test_a_layout_is_found_inside_the_folder_of_its_archive(tmp_path: Path, folder: str, case: str):
    layout, domain, split = write_layout(tmp_path / folder, case)
    assert PhotoSet(tmp_path, {domain: "labels"}, split).layout == layout


@pytest.mark.parametrize("case", PUBLISHED)
def test_no_other_layout_of_the_same_domain_claims_a_folder(tmp_path: Path, case: str):
    layout, domain, _ = write_layout(tmp_path, case)
    claims = [n for n, row in LAYOUTS.items() if domain in row.domains and row.base_in(tmp_path)]
    assert claims == [layout]


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_ids_that_lost_their_leading_zeros_get_them_back(tmp_path: Path, suffix: str):
    """T-70: a spreadsheet turns 0000002 into 2."""
    write_layout(tmp_path, "T-70 CIHP")
    (tmp_path / "Validation" / "val_id.txt").unlink()
    write_lines(tmp_path / "Validation" / f"val_id.{suffix}", ["2,x", '"13",y', "0000407"])
    assert tuple(PhotoSet(tmp_path, {"cihp": "labels"}, "val").ids) == NAMES


def test_lists_of_paths_are_read_and_reversed_labels_are_not(tmp_path: Path):
    """T-70, layout of PGN: image, label map and a map mirrored in advance on each line."""
    write_photos(tmp_path, "images", "labels")
    (tmp_path / "labels_rev").mkdir()
    (tmp_path / "labels_rev" / "0000002.png").write_text("never read", "utf-8")
    lines = [f"/images/{n}.jpg /labels/{n}.png /labels_rev/{n}.png" for n in NAMES]
    write_lines(tmp_path / "list" / "train.txt", lines)
    write_lines(tmp_path / "list" / "train_rev.txt", [line + " " for line in lines])
    photos = PhotoSet(tmp_path, {"cihp": "labels"}, "train")
    assert (photos.layout, tuple(photos.ids)) == ("cihp-pgn", NAMES)
    assert label_values(photos, "cihp") == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("case", "trap"),
    [
        ("T-70 CIHP", "Validation/Categories"),
        ("T-70 CIHP_4w", "Category_rev_ids"),
        ("T-72 ATR", "SegmentationClassAug_rev"),
    ],
)
def test_coloured_and_reversed_folders_beside_the_labels_are_never_read(
    tmp_path: Path, case: str, trap: str
):
    _, domain, split = write_layout(tmp_path, case)
    for name in NAMES:
        write_picture(tmp_path / trap / f"{name}.png", np.full((2, 2, 3), 200, np.uint8))
    photos = PhotoSet(tmp_path, {domain: "labels"}, split, 0, PhotoOptions(full_check=True))
    assert label_values(photos, domain) == [[1], [2], [3]]


def test_coloured_categories_alone_are_no_labels(tmp_path: Path):
    """T-70: the error names the folder that holds the ids."""
    write_photos(tmp_path, "Training/Images", "Training/Categories")
    write_lines(tmp_path / "Training" / "train_id.txt", NAMES)
    with pytest.raises(DataError, match="ids are in Category_ids"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train")


def test_a_split_published_without_labels_is_said_to_be_so(tmp_path: Path):
    write_layout(tmp_path, "T-70 CIHP")
    write_picture(tmp_path / "Testing" / "Images" / "0000009.jpg", np.zeros((4, 4, 3), np.uint8))
    write_lines(tmp_path / "Testing" / "test_id.txt", ["0000009"])
    with pytest.raises(DataError, match=r"'test' .* without labels; labelled splits there: val"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "test")


def test_a_split_that_is_not_there_names_what_it_would_need(tmp_path: Path):
    """T-72: the archive of ATR has no lists."""
    write_layout(tmp_path, "T-72 humanparsing")
    with pytest.raises(DataError, match=r"lacks split 'val'.*list/val_id\.txt.*there: all"):
        PhotoSet(tmp_path, {"atr": "labels"}, "val")
    with pytest.raises(DataError, match="no split 'validation'; labelled splits there: all"):
        PhotoSet(tmp_path, {"atr": "labels"}, "validation")


def test_without_a_list_a_photograph_without_labels_is_a_gap(tmp_path: Path):
    """T-74: M2FP's folders have no lists."""
    write_layout(tmp_path, "T-74 M2FP's LIP")
    (tmp_path / "Validation" / "Category_ids" / "0000013.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 listed .*Category_ids/0000013\.png"):
        PhotoSet(tmp_path, {"lip": "labels"}, "val")


def test_permuted_ids_of_m2fp_become_those_of_pascal(tmp_path: Path):
    """T-74: 1 lower-arm, 2 head, 3 upper-leg, 4 torso, 5 lower-leg, 6 upper-arm."""
    write_photos(tmp_path, "Training/Images", "Training/Category_ids", ["a"])
    path = tmp_path / "Training" / "Category_ids" / "a.png"
    stored = np.array([[0, 1, 2, 3, 4, 5, 6, 255]] * 6, np.uint8)
    write_picture(path, stored)
    photos = PhotoSet(tmp_path, {"pascal_m2fp": "labels"}, "train")
    assert photos.domains == ("pascal",)
    label = photos.load(0, np.random.default_rng(0))[1]["pascal"]
    assert label[0].tolist() == [0, 4, 1, 5, 2, 6, 3, 255]


def test_m2fp_folders_of_pascal_are_not_guessed_at(tmp_path: Path):
    """T-74: permuted or not cannot be seen, so the user says it."""
    write_photos(tmp_path, "Testing/Images", "Testing/Category_ids")
    with pytest.raises(DataError, match=r'pascal_m2fp, not pascal.*layout = "m2fp"'):
        PhotoSet(tmp_path, {"pascal": "labels"}, "val")
    named = PhotoSet(tmp_path, {"pascal": "labels"}, "val", 0, PhotoOptions("m2fp"))
    assert label_values(named, "pascal") == [[1], [2], [3]]


def test_a_permuted_set_trains_the_head_it_is_permuted_from(tmp_path: Path):
    write_photos(tmp_path, "Training/Images", "Training/Category_ids")
    config = DataConfig((SetConfig(str(tmp_path), {"ppp_m2fp": "labels"}, layout="m2fp"),))
    assert open_sets(config, ["pascal"])[0].domains == ("pascal",)
    with pytest.raises(ConfigError, match="ppp_m2fp"):
        open_sets(config, ["cihp"])


def test_a_folder_with_no_known_layout_says_what_was_looked_for_and_what_is_there(tmp_path: Path):
    write_picture(tmp_path / "pictures" / "small" / "a.jpg", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError) as caught:
        PhotoSet(tmp_path, {"lip": "labels"}, "train")
    said = str(caught.value)
    assert "train_images/ + train_segmentations/ + train_id.txt" in said
    assert "neutral (images/ + labels/ + <split>.txt)" in said
    assert "There is pictures/small/" in said
    assert "SegmentationPart" not in said


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(DataError, match="There is no such folder"):
        PhotoSet(tmp_path / "nowhere", {"cihp": "labels"}, "train")


def test_two_layouts_in_one_folder_must_be_told_apart(tmp_path: Path):
    write_layout(tmp_path / "instance-level_human_parsing", "T-70 CIHP")
    write_layout(tmp_path / "CIHP_4w", "T-70 CIHP_4w", ["0000777"])
    with pytest.raises(DataError, match="several layouts, cihp, cihp-graphonomy; choose one"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "val")
    named = PhotoSet(tmp_path, {"cihp": "labels"}, "val", 0, PhotoOptions("cihp-graphonomy"))
    assert named.ids == ["0000777"]


def test_a_neutral_list_beside_a_published_layout_must_be_told_apart(tmp_path: Path):
    write_photos(tmp_path, "images", "labels")
    write_lines(tmp_path / "list" / "train_id.txt", NAMES)
    write_lines(tmp_path / "train.txt", NAMES[:1])
    with pytest.raises(DataError, match="several layouts, cihp-pgn, neutral"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train")


def test_labels_of_another_domain_are_not_taken_for_those_asked_for(tmp_path: Path):
    """CIHP and LIP differ in one class only, which no check of ids would notice."""
    write_layout(tmp_path, "T-70 CIHP")
    with pytest.raises(DataError, match="looks like layout cihp, whose labels are cihp, not lip"):
        PhotoSet(tmp_path, {"lip": "labels"}, "val")


def test_a_named_layout_that_is_not_there_is_refused(tmp_path: Path):
    write_layout(tmp_path, "T-72 ATR")
    with pytest.raises(DataError, match=r"not laid out as pascal.*There is JPEGImages/"):
        PhotoSet(tmp_path, {"pascal": "labels"}, "train", 0, PhotoOptions("pascal"))


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(ConfigError, match="'voc'; allowed are auto, neutral, cihp"):
        PhotoSet(tmp_path, {"pascal": "labels"}, "train", 0, PhotoOptions("voc"))


def test_a_published_layout_has_no_folder_of_the_users_choice(tmp_path: Path):
    write_layout(tmp_path, "T-72 ATR")
    with pytest.raises(ConfigError, match="knows its only label folder"):
        PhotoSet(tmp_path, {"atr": "SegmentationClassAug"}, "val", 0, PhotoOptions("atr"))


def test_the_neutral_layout_needs_no_name_and_may_have_one(tmp_path: Path):
    write_photos(tmp_path, "images", "labels")
    write_photos(tmp_path, "images", "labels_atr")
    write_lines(tmp_path / "train.txt", ["0000013", "0000002"])
    for layout in ("auto", "neutral"):
        both = {"cihp": "labels", "atr": "labels_atr"}
        photos = PhotoSet(tmp_path, both, "train", 0, PhotoOptions(layout))
        assert (photos.layout, photos.ids) == ("neutral", ["0000013", "0000002"])
        assert label_values(photos, "atr") == [[2], [1]]


def test_a_users_own_domain_may_have_any_layout(tmp_path: Path):
    write_layout(tmp_path, "T-72 ATR")
    domain = load_domain("pascal").to_dict() | {"name": "mine"}
    mine = type(load_domain("pascal")).from_dict(domain)
    config = DataConfig((SetConfig(str(tmp_path), {"mine": "labels"}, split="val"),))
    assert len(open_sets(config, ["mine"], known=[mine])[0]) == 3
    write_picture(tmp_path / "SegmentationClassAug" / "0000002.png", np.full(SIZE_HW, 7, np.uint8))
    with pytest.raises(DataError, match=r"0000002\.png holds id 7; domain mine has 0\.\.6"):
        open_sets(config, ["mine"], known=[mine])
