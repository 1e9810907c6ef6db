"""How a photo lies in the network's input."""

import numpy as np
import pytest

from hp_sdk.bundle import InputSpec
from hp_sdk.errors import ConfigError
from hp_sdk.preprocess import Geometry, fit, plan

SPEC = InputSpec(size_hw=(64, 96), pad_value=114)
STRETCH = InputSpec(size_hw=(64, 96), resize="stretch")


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("source_hw", "content_hw"),
    [
        ((64, 96), (64, 96)),
        ((128, 192), (64, 96)),
        ((128, 128), (64, 64)),
        ((10, 60), (16, 96)),
        ((640, 10), (64, 1)),
        ((9999, 1), (64, 1)),
        ((1, 1), (64, 64)),
    ],
)
def test_letterbox_keeps_the_aspect_ratio_as_far_as_whole_pixels_go(source_hw, content_hw):
    assert plan(source_hw, SPEC).content_hw == content_hw


def test_stretch_fills_the_input():
    assert plan((10, 999), STRETCH).content_hw == (64, 96)


def test_padding_lies_right_and_below_in_the_pad_colour():
    pixels, geometry = fit(np.full((32, 32, 3), 200, np.uint8), SPEC)

    assert pixels.shape == (1, 64, 96, 3)
    assert geometry == Geometry((32, 32), (64, 96), (64, 64))
    assert (pixels[0, :, :64] == 200).all()
    assert (pixels[0, :, 64:] == 114).all()


def test_a_photo_of_the_right_size_is_passed_on_without_a_copy():
    photo = noise(64, 96)

    pixels, geometry = fit(photo, SPEC)

    assert np.shares_memory(pixels, photo)
    assert geometry.scale_yx == (1.0, 1.0)


def test_a_photo_that_needs_padding_only_keeps_its_pixels():
    photo = noise(64, 50)

    pixels, _ = fit(photo, SPEC)

    np.testing.assert_array_equal(pixels[0, :, :50], photo)
    assert not np.shares_memory(pixels, photo)


def test_shrinking_averages_the_covered_area():
    photo = noise(128, 192)

    pixels, _ = fit(photo, SPEC)

    mean = photo.reshape(64, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(pixels[0] - mean).max() <= 1


def test_enlarging_interpolates_between_pixel_centres_at_one_half():
    ramp = np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[None, :, None], 32, 0).repeat(3, 2)

    pixels, geometry = fit(ramp, SPEC)

    assert geometry.scale_yx == (2.0, 2.0)
    x = ((np.arange(96) + 0.5) / 2 - 0.5).clip(0, 47)
    assert np.abs(pixels[0, 5, :, 0] - 5 * x).max() <= 1


def test_a_mirrored_photo_gives_mirrored_content():
    photo = noise(50, 33)

    pixels, geometry = fit(photo, SPEC)
    mirrored, _ = fit(np.ascontiguousarray(photo[:, ::-1]), SPEC)

    width = geometry.content_hw[1]
    assert np.abs(pixels[0, :, :width].astype(int) - mirrored[0, :, :width][:, ::-1]).max() <= 1


def test_a_smaller_content_scale_leaves_more_padding():
    pixels, geometry = fit(noise(64, 96), SPEC, content_scale=0.5)

    assert geometry.content_hw == (32, 48)
    assert (pixels[0, 32:] == 114).all()
    assert (pixels[0, :, 48:] == 114).all()


@pytest.mark.parametrize("scale", [0, -1, 4.01, float("nan")])
def test_a_content_scale_that_does_not_fit_is_refused(scale):
    with pytest.raises(ConfigError, match="content scale"):
        fit(noise(8, 8), SPEC, content_scale=scale)


def test_scale_is_network_pixels_per_source_pixel():
    assert plan((128, 128), SPEC).scale_yx == (0.5, 0.5)
    assert plan((32, 96), STRETCH).scale_yx == (2.0, 1.0)
