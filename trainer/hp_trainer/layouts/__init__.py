"""Human parsing datasets as their owners and well-known repositories lay them out on disk.

    PhotoSet(root, {"cihp": "labels"}, "val")
        `listing`   which ids, which folders, which files
            `detect`    which layout a folder has, or what was looked for and what is there
            `table`     one row per layout: folders, lists, label files
            `layout`    how a row recognises itself and finds a split
        `labels`    label files of every kind → ids (H, W) uint8, checked against the domain

Users' own data has the neutral layout: `images/`, a folder of label PNGs, `<split>.txt`.
"""

from hp_trainer.layouts.labels import encoding_of
from hp_trainer.layouts.photo_set import PhotoOptions, PhotoSet, read_image
from hp_trainer.layouts.table import LAYOUTS

__all__ = ["LAYOUTS", "PhotoOptions", "PhotoSet", "encoding_of", "read_image"]
