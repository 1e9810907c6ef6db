"""Photo sets in the neutral layout, checked before training; batches of mixed domains."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError, DataError
from hp_trainer.augment import AugmentConfig
from hp_trainer.data import (
    AugmentedSamples,
    DataConfig,
    DollSet,
    PhotoSet,
    SetConfig,
    choose,
    collate,
    configured_path,
    open_batches,
    open_sets,
)
from hp_trainer.paperdolls import write_dataset


@pytest.fixture(scope="module")
def dolls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dolls")
    write_dataset(root, count=4, seed=0, size_hw=(64, 48), split="train")
    return root


def test_a_folder_of_dolls_loads_with_every_domain(dolls: Path):
    photos = PhotoSet(dolls, {"cihp": "labels_cihp", "atr": "labels_atr"}, "train")
    image, labels = photos.load(0, np.random.default_rng(0))
    assert image.shape == (64, 48, 3)
    assert set(labels) == {"cihp", "atr"}
    assert labels["cihp"].shape == (64, 48)


def test_a_missing_label_file_is_named(dolls: Path, tmp_path: Path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.txt").write_text("0001\n", "utf-8")
    cv2.imwrite(str(tmp_path / "images" / "0001.jpg"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match=r"labels/0001\.png"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train")


def test_a_missing_split_names_those_there_are(dolls: Path):
    with pytest.raises(DataError, match="lists there: train"):
        PhotoSet(dolls, {"cihp": "labels_cihp"}, "val")


def test_an_undecodable_image_is_named(tmp_path: Path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.txt").write_text("a\n", "utf-8")
    (tmp_path / "images" / "a.jpg").write_text("no picture", "utf-8")
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train").load(0, np.random.default_rng(0))


def test_sizes_of_image_and_labels_must_agree(tmp_path: Path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "train.txt").write_text("a\n", "utf-8")
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 9, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "labels" / "a.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is 8x8, its image 9x8"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train").load(0, np.random.default_rng(0))


def test_a_set_labelled_in_a_foreign_domain_is_refused(dolls: Path):
    config = DataConfig((SetConfig(str(dolls), {"lip": "labels_lip"}),))
    with pytest.raises(ConfigError, match="lip"):
        open_sets(config, ["cihp"])


def test_no_set_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"data\.sets is empty"):
        open_sets(DataConfig(), ["cihp"])


def test_an_unset_variable_in_a_root_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HP_DATA", raising=False)
    with pytest.raises(ConfigError, match="HP_DATA"):
        configured_path("$HP_DATA/photos")


def test_a_batch_tells_which_images_carry_which_labels(dolls: Path):
    photos = PhotoSet(dolls, {"cihp": "labels_cihp"}, "train")
    synthetic = DollSet(3, (48, 48), ["cihp", "atr"])
    config = AugmentConfig(crop_hw=(32, 32))
    domains = [load_domain(name) for name in ("cihp", "atr")]
    samples = AugmentedSamples([photos, synthetic], domains, config, seed=0)
    batch = collate([samples[(0, 0, 0)], samples[(1, 0, 1)], samples[(0, 1, 2)]])
    assert batch.images.shape == (3, 32, 32, 3)
    assert batch.images.dtype == torch.uint8
    assert batch.labels["cihp"][0].tolist() == [0, 1, 2]
    assert batch.labels["atr"][0].tolist() == [1]
    assert batch.labels["atr"][1].shape == (1, 32, 32)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_do_not_depend_on_the_number_of_workers(dolls: Path, workers: int):
    sets = (SetConfig(str(dolls), {"cihp": "labels_cihp"}), SetConfig(dolls=5, size_hw=(48, 48)))
    config = DataConfig(sets, AugmentConfig(crop_hw=(32, 32)), batch=3, workers=workers)
    domains = [load_domain("cihp")]
    first = next(iter(open_batches(config, domains, seed=4, start=2)))
    direct = AugmentedSamples(open_sets(config, ["cihp"]), domains, config.augment, seed=4)
    from hp_trainer.sampler import DomainMixSampler

    draws = next(iter(DomainMixSampler([4, 5], [1, 1], batch=3, seed=4, start=2)))
    wanted = collate([direct[draw] for draw in draws])
    assert torch.equal(first.images, wanted.images)
    assert torch.equal(first.labels["cihp"][1], wanted.labels["cihp"][1])


def test_a_share_of_a_set_is_seeded_and_keeps_its_order():
    dolls = DollSet(10, (32, 32), ("atr",))
    halves: list[Any] = [choose(dolls, 0.5, seed) for seed in (1, 1, 2)]
    half, again, other = (list(chosen.chosen) for chosen in halves)
    assert len(half) == 5
    assert half == again == sorted(half)
    assert half != other
    assert choose(dolls, 1.0, 1) is dolls
    assert len(choose(dolls, 0.01, 1)) == 1


def test_an_impossible_share_is_refused():
    with pytest.raises(ConfigError, match="above 0, up to 1"):
        SetConfig(dolls=3, fraction=0.0)


def test_photographs_of_several_sets_are_kept_once(dolls: Path):
    """By how they are read and by file: lists, domains and sizes may differ."""
    last = PhotoSet(dolls, {}, "train").ids[-1]
    (dolls / "last.txt").write_text(f"{last}\n", "utf-8")
    both = {"atr": "labels_atr", "cihp": "labels_cihp"}
    entries = [
        SetConfig(str(dolls), both, cache_px=32),
        SetConfig(str(dolls), both, "last", cache_px=32),
        SetConfig(str(dolls), {"atr": "labels_atr"}, "last", cache_px=32),
        SetConfig(str(dolls), both, "last", cache_px=48),
    ]
    sets = open_sets(DataConfig(sets=tuple(entries)), ["atr", "cihp"])
    rng = np.random.default_rng(0)
    first = sets[0].load(3, rng)
    assert sets[0].load(3, rng) is first
    assert sets[1].load(0, rng) is first
    assert set(sets[2].load(0, rng)[1]) == {"atr"}
    assert sets[3].load(0, rng)[0].shape == (48, 36, 3)
    assert not np.array_equal(sets[0].load(0, rng)[0], first[0])
