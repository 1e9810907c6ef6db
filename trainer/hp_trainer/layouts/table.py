"""The known layouts, one row each.

Only folders named here are ever read. Left out on purpose: `Categories/` of CIHP (coloured
pictures of the labels) and every `*_rev*` folder (labels mirrored in advance, in ATR not even
correctly; the trainer mirrors by itself).
"""

from __future__ import annotations

from hp_trainer.layouts.id_list import held_out
from hp_trainer.layouts.label_files import MAT, PERSONS
from hp_trainer.layouts.layout import Layout, Split

_WITHOUT_LABELS: tuple[Split, ...] = ()


def _official_cihp(folder: str, name: str) -> tuple[Split, ...]:
    return (Split(f"{folder}/Images", f"{folder}/Category_ids", (f"{folder}/{name}_id.txt",)),)


def _official_lip(name: str) -> tuple[Split, ...]:
    images, labels = "TrainVal_images", "TrainVal_parsing_annotations"
    lists = (f"{name}_id.txt", f"{images}/{name}_id.txt", f"{labels}/{name}_id.txt")
    return tuple(
        Split(f"{i}{name}_images", f"{a}{name}_segmentations", lists)
        for i in (f"{images}/", f"{images}/{images}/", "")  # the archive holds a folder of its name
        for a in (f"{labels}/", f"{labels}/{labels}/")
    )


def _flat_lip(name: str) -> tuple[Split, ...]:
    # The second name is a misprint in a read-me that many have followed.
    return tuple(
        Split(images, f"{name}_segmentations", (f"{name}_id.txt",))
        for images in (f"{name}_images", f"{name}_imgaes")
    )


def _listed(images: str, labels: str, *lists: str) -> tuple[Split, ...]:
    return (Split(images, labels, lists),)


def _m2fp(*folders: str) -> tuple[Split, ...]:
    return tuple(Split(f"{folder}/Images", f"{folder}/Category_ids") for folder in folders)


def _persons(name: str, *lists: str) -> tuple[Split, ...]:
    paths = tuple(f"list/{file}" for file in lists)
    return tuple(
        Split(f"{name}/images", f"{name}/{labels}", paths)
        for labels in ("parsing_annos", "annotations")
    )


# CCP has no official split: 100 of the 1,004 photographs with pixel labels are held out.
_CCP_ALL = tuple(f"{number:04d}" for number in range(1, 1005))
_CCP_VAL = held_out(_CCP_ALL, 100, seed=0)
_CCP_TRAIN = tuple(name for name in _CCP_ALL if name not in set(_CCP_VAL))


def _ccp(ids: tuple[str, ...]) -> tuple[Split, ...]:
    return (Split("photos", "annotations/pixel-level", ids=ids),)


_ROWS = (
    Layout(
        "cihp",
        ("cihp",),
        {
            "train": _official_cihp("Training", "train"),
            "val": _official_cihp("Validation", "val"),
            "test": _WITHOUT_LABELS,
        },
        archives=("instance-level_human_parsing",),
        digits=7,
    ),
    Layout(
        "cihp-graphonomy",
        ("cihp",),
        {
            "train": _listed("Images", "Category_ids", "lists/train_id.txt"),
            "val": _listed("Images", "Category_ids", "lists/val_id.txt"),
            "test": _WITHOUT_LABELS,
        },
        archives=("CIHP_4w",),
        digits=7,
    ),
    Layout(
        "cihp-pgn",
        ("cihp",),
        {
            "train": _listed("images", "labels", "list/train_id.txt", "list/train.txt"),
            "val": _listed("images", "labels", "list/val_id.txt", "list/val.txt"),
            "test": _WITHOUT_LABELS,
        },
        archives=("CIHP",),
        digits=7,
    ),
    Layout(
        "lip",
        ("lip",),
        {"train": _official_lip("train"), "val": _official_lip("val"), "test": _WITHOUT_LABELS},
        archives=("LIP",),
    ),
    Layout(
        "lip-flat",
        ("lip",),
        {"train": _flat_lip("train"), "val": _flat_lip("val"), "test": _WITHOUT_LABELS},
        archives=("LIP", "images_labels", "LIP/images_labels"),
    ),
    Layout(
        "atr",
        ("atr",),
        {
            "train": _listed("JPEGImages", "SegmentationClassAug", "list/train_id.txt"),
            "val": _listed("JPEGImages", "SegmentationClassAug", "list/val_id.txt"),
            "test": _listed("JPEGImages", "SegmentationClassAug", "list/test_id.txt"),
            "all": _listed("JPEGImages", "SegmentationClassAug"),
        },
        archives=("humanparsing", "ATR"),
        cut_jpegs=True,
    ),
    Layout(
        "pascal",
        ("pascal",),
        {
            "train": _listed("JPEGImages", "SegmentationPart", "list/train_id.txt"),
            "val": _listed("JPEGImages", "SegmentationPart", "list/val_id.txt"),
            "test": _listed("JPEGImages", "SegmentationPart", "list/test_id.txt"),
        },
        archives=("pascal",),
    ),
    Layout(
        "m2fp",
        ("cihp", "lip", "pascal_m2fp"),
        {
            "train": _m2fp("Training"),
            "val": _m2fp("Validation", "Testing"),
            "test": _m2fp("Testing"),
        },
        unless=tuple(
            f"{stem}_id{suffix}"
            for stem in ("Training/train", "Validation/val")
            for suffix in (".txt", ".csv")
        ),
    ),
    Layout(
        "ccp",
        ("ccp",),
        {"train": _ccp(_CCP_TRAIN), "val": _ccp(_CCP_VAL), "all": _ccp(_CCP_ALL)},
        archives=("clothing-co-parsing",),
        kind=MAT,
    ),
    Layout(
        "mhp-v2",
        (),
        {
            "train": _persons("train", "train.txt"),
            "val": _persons("val", "val.txt"),
            "test": _persons("test", "test.txt", "test_all.txt"),
        },
        archives=("LV-MHP-v2",),
        kind=PERSONS,
    ),
)

LAYOUTS = {row.name: row for row in _ROWS}
