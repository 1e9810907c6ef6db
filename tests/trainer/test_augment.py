"""One warp for image and labels: what moves together stays together."""

import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_trainer.augment import AugmentConfig, augment, cut_mix
from hp_trainer.data import AugmentedSamples

DOMAINS = {name: load_domain(name) for name in ("cihp", "pascal")}


def coloured(labels: np.ndarray) -> np.ndarray:
    """An image whose grey level tells the label: 10 · id."""
    return np.repeat((labels * 10)[..., None], 3, 2).astype(np.uint8)


def blocks(rng: np.random.Generator, size=(60, 80)) -> np.ndarray:
    coarse = rng.integers(0, 20, (size[0] // 20, size[1] // 20)).astype(np.uint8)
    return np.kron(coarse, np.ones((20, 20), np.uint8))


def test_without_scale_and_flip_a_large_crop_keeps_every_pixel():
    rng = np.random.default_rng(0)
    labels = blocks(rng)
    config = AugmentConfig(crop_hw=(100, 120), scale=(1.0, 1.0), flip=0.0)
    image, maps = augment((coloured(labels), {"cihp": labels}), DOMAINS, config, rng)
    valid = maps["cihp"] != 255
    assert valid.sum() == labels.size
    assert np.array_equal(maps["cihp"][valid], labels.ravel())
    assert np.array_equal(image[valid][:, 0], labels.ravel() * 10)


@pytest.mark.parametrize("seed", range(6))
def test_image_and_labels_stay_registered_under_scale_rotation_and_crop(seed: int):
    rng = np.random.default_rng(seed)
    labels = blocks(rng, (120, 160))
    config = AugmentConfig(crop_hw=(96, 96), scale=(0.6, 1.6), rotate_deg=20, flip=0.0)
    image, maps = augment((coloured(labels), {"cihp": labels}), DOMAINS, config, rng)
    valid = maps["cihp"] != 255
    close = np.abs(image[..., 0].astype(int) - 10 * maps["cihp"].astype(int)) <= 5
    assert close[valid].mean() > 0.75  # block borders are blurred, interiors must agree


def test_a_flip_swaps_left_and_right():
    labels = np.zeros((32, 32), np.uint8)
    labels[:, :8] = 14  # left arm on the left side of the picture
    config = AugmentConfig(crop_hw=(32, 32), scale=(1.0, 1.0), flip=1.0)
    _, maps = augment(
        (coloured(labels), {"cihp": labels}), DOMAINS, config, np.random.default_rng(0)
    )
    assert (maps["cihp"][:, -8:] == 15).all()
    assert not (maps["cihp"] == 14).any()


def test_all_domains_of_a_photo_get_the_same_view():
    rng = np.random.default_rng(3)
    labels = blocks(rng, (60, 60)) % 7
    config = AugmentConfig(crop_hw=(48, 48), scale=(0.7, 1.3), rotate_deg=10)
    _, maps = augment((coloured(labels), {"pascal": labels, "cihp": labels}), DOMAINS, config, rng)
    assert np.array_equal(maps["pascal"], np.where(maps["cihp"] == 255, 255, maps["cihp"]))


def test_the_same_random_state_gives_the_same_view():
    labels = blocks(np.random.default_rng(1))
    config = AugmentConfig(crop_hw=(40, 40), colour=1.0, cutout=1.0, blur=1.0, grey=0.5)
    views = [
        augment((coloured(labels), {"cihp": labels}), DOMAINS, config, np.random.default_rng(9))
        for _ in range(2)
    ]
    assert np.array_equal(views[0][0], views[1][0])
    assert np.array_equal(views[0][1]["cihp"], views[1][1]["cihp"])


def test_colour_changes_leave_the_labels_alone():
    labels = blocks(np.random.default_rng(1), (40, 40))
    plain = AugmentConfig(crop_hw=(40, 40), scale=(1.0, 1.0), flip=0.0)
    loud = AugmentConfig(crop_hw=(40, 40), scale=(1.0, 1.0), flip=0.0, colour=1.0, cutout=1.0)
    quiet, changed = (
        augment((coloured(labels), {"cihp": labels}), DOMAINS, c, np.random.default_rng(2))
        for c in (plain, loud)
    )
    assert np.array_equal(quiet[1]["cihp"], changed[1]["cihp"])
    assert not np.array_equal(quiet[0], changed[0])


def test_a_photo_smaller_than_the_crop_is_padded_with_ignored_pixels():
    labels = np.full((10, 10), 5, np.uint8)
    config = AugmentConfig(crop_hw=(32, 32), scale=(1.0, 1.0))
    image, maps = augment(
        (coloured(labels), {"cihp": labels}), DOMAINS, config, np.random.default_rng(0)
    )
    assert (maps["cihp"] == 5).sum() == 100
    assert (image[maps["cihp"] == 255] == 0).all()


def test_photometric_distortion_stays_within_its_numbers_and_turns_the_hue():
    grey, red = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    labels = {"cihp": np.zeros((8, 8), np.uint8)}
    config = AugmentConfig(crop_hw=(8, 8), scale=(1.0, 1.0), flip=0.0, photometric=True)
    levels, others = [], []
    for seed in range(60):
        for image, seen in ((grey, levels), (red, others)):
            found, maps = augment((image, labels), DOMAINS, config, np.random.default_rng(seed))
            assert np.array_equal(maps["cihp"], labels["cihp"])
            seen.append(found[0, 0].astype(int))
    assert all(level.min() == level.max() for level in levels)  # grey has no hue to turn
    assert min(level[0] for level in levels) >= 0.5 * (100 - 32) - 1
    assert max(level[0] for level in levels) <= 1.5 * (100 + 32) + 1
    untouched = sum(level[0] == 100 for level in levels)
    assert 5 <= untouched <= 30  # a quarter: neither brightness nor contrast
    assert len({int(other.argmax()) for other in others}) == 1  # 18 of 180 leave red red
    assert len({tuple(other) for other in others}) > 20


def test_without_photometric_distortion_colours_stay():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    config = AugmentConfig(crop_hw=(8, 8), scale=(1.0, 1.0), flip=0.0)
    labels = {"cihp": np.zeros((8, 8), np.uint8)}
    found, _ = augment((image, labels), DOMAINS, config, np.random.default_rng(0))
    assert np.array_equal(found, image)


@pytest.mark.parametrize("seed", range(5))
def test_cut_mix_takes_one_rectangle_of_pixels_and_labels_together(seed: int):
    here, there = np.full((2, 40, 60), 1, np.uint8), np.full((2, 40, 60), 7, np.uint8)

    def sample(maps):
        return coloured(maps[0]), {"cihp": maps[0], "pascal": maps[1]}

    image, maps = cut_mix(sample(here), sample(there), np.random.default_rng(seed))
    from_there = maps["cihp"] == 7
    rows, columns = np.nonzero(from_there)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert height * width == from_there.sum()
    assert 12 <= height <= 28
    assert 18 <= width <= 42
    assert np.array_equal(maps["pascal"] == 7, from_there)
    assert np.array_equal(image[..., 0], maps["cihp"] * 10)
    assert (here == 1).all()


def test_views_are_cut_into_each_other_as_often_as_asked():
    class Two:
        domains: tuple[str, ...] = ("cihp",)

        def __len__(self):
            return 2

        def load(self, index, rng):
            del rng
            label = np.full((32, 32), index, np.uint8)
            return coloured(label), {"cihp": label}

    def mixed(share):
        config = AugmentConfig(crop_hw=(32, 32), scale=(1.0, 1.0), cutmix=share)
        samples = AugmentedSamples([Two()], list(DOMAINS.values()), config, seed=1)
        return np.mean([len(np.unique(samples[0, 0, n][1]["cihp"])) for n in range(200)]) - 1

    assert mixed(0.0) == 0
    assert 0.12 < mixed(0.5) < 0.4  # half of the others are the same image again
