"""Whatever a caller holds becomes upright RGB, or one clear sentence."""

import io
import struct

import cv2
import numpy as np
import pytest

from hp_sdk.errors import ConfigError, InputError
from hp_sdk.image import load_image

ORANGE = (250, 120, 10)


def picture(height=12, width=20):
    """Smooth, asymmetric and coloured, so that any mistake in order or orientation shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 - 8 * y, 10 * x, 60 + 0 * x], -1).clip(0, 255).astype(np.uint8)


def encoded(image, suffix=".png"):
    return cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def jpeg_with_orientation(image, orientation):
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    jpeg = encoded(image, ".jpg")
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def as_stored(upright, orientation):
    """What the sensor stores for a photo that is `upright` once EXIF is applied."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def test_path_text_bytes_and_open_file_give_the_same_photo(tmp_path):
    photo = picture()
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo))

    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        np.testing.assert_array_equal(load_image(source), photo)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_image(file), photo)
    np.testing.assert_array_equal(load_image(io.BytesIO(path.read_bytes())), photo)


def test_a_file_is_read_as_rgb_whatever_is_said_about_arrays(tmp_path):
    path = tmp_path / "orange.png"
    path.write_bytes(encoded(np.full((2, 3, 3), ORANGE, np.uint8)))

    for color in (None, "rgb", "bgr"):
        assert tuple(load_image(path, color=color)[0, 0]) == ORANGE


def test_an_array_is_rgb_unless_it_is_called_bgr():
    photo = picture()

    np.testing.assert_array_equal(load_image(photo), photo)
    np.testing.assert_array_equal(load_image(photo[..., ::-1], color="bgr"), photo)


def test_an_array_that_is_right_is_not_copied():
    photo = picture()

    assert np.shares_memory(load_image(photo), photo)


def test_the_result_is_contiguous_even_for_a_mirrored_view():
    mirrored = load_image(picture()[:, ::-1])

    assert mirrored.flags.c_contiguous
    np.testing.assert_array_equal(mirrored, picture()[:, ::-1])


def test_alpha_is_dropped_in_either_order():
    photo = picture()
    alpha = np.full((*photo.shape[:2], 1), 7, np.uint8)

    np.testing.assert_array_equal(load_image(np.concatenate([photo, alpha], -1)), photo)
    bgra = np.concatenate([photo[..., ::-1], alpha], -1)
    np.testing.assert_array_equal(load_image(bgra, color="bgr"), photo)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_grey_becomes_three_equal_channels(shape):
    grey = np.arange(20, dtype=np.uint8).reshape(shape)

    loaded = load_image(grey)

    assert loaded.shape == (5, 4, 3)
    np.testing.assert_array_equal(loaded, np.repeat(grey.reshape(5, 4, 1), 3, -1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_zero_to_one_span_the_whole_range(dtype):
    values = np.array([[0.0, 0.5, 1.0]], dtype)

    assert load_image(values)[0, :, 0].tolist() == [0, 128, 255]


def test_sixteen_bits_are_scaled_not_cut():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)

    assert load_image(values)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_sixteen_bit_png_is_scaled_to_eight(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(cv2.imencode(".png", np.full((2, 2), 257 * 90, np.uint16))[1].tobytes())

    assert load_image(path)[0, 0].tolist() == [90, 90, 90]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_exif_orientation(orientation):
    upright = picture(16, 24)
    content = jpeg_with_orientation(as_stored(upright, orientation), orientation)

    loaded = load_image(content)

    assert loaded.shape == upright.shape
    assert np.abs(loaded.astype(int) - upright).mean() < 4  # JPEG is lossy


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_read_as_its_file_would_be(orientation):
    pil = pytest.importorskip("PIL.Image", reason="needs Pillow")
    content = jpeg_with_orientation(as_stored(picture(16, 24), orientation), orientation)

    from_pil = load_image(pil.open(io.BytesIO(content)))

    assert np.abs(from_pil.astype(int) - load_image(content)).max() <= 4  # two JPEG decoders


def test_anything_that_turns_into_an_array_is_taken():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return picture()

    np.testing.assert_array_equal(load_image(Tensor()), picture())


def test_one_pixel_is_a_photo():
    assert load_image(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (np.zeros((3, 480, 640), np.uint8), "channel-first"),
        (np.zeros((2, 8, 8, 3), np.uint8), "list of photos"),
        (np.zeros((8, 8, 5), np.uint8), r"\(H, W, 3\)"),
        (np.zeros(8, np.uint8), r"\(H, W, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixel"),
        (np.full((8, 8, 3), 255.0), "from 255 to 255"),
        (np.full((8, 8, 3), np.nan), "0..1"),
        (np.full((8, 8, 3), -0.1), "0..1"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
        (np.zeros((8, 8), bool), "bool"),
    ],
)
def test_an_unusable_array_is_refused_with_what_it_is(array, hint):
    with pytest.raises(InputError, match=hint):
        load_image(array)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"hello, I am no photo\n" * 20, "text file"),
        ("žluťoučký kůň, ".encode() * 500, "text file"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\x00\x01\x02\x03" * 30, "00 01 02 03"),
    ],
)
def test_a_file_that_is_no_photo_is_named_with_what_it_is(tmp_path, content, hint):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)

    with pytest.raises(InputError, match=hint) as refusal:
        load_image(path)
    assert "photo.jpg" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_half_a_photo_is_refused(suffix):
    content = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), suffix)

    with pytest.raises(InputError):
        load_image(content[: len(content) // 2])


def test_a_jpeg_with_bytes_after_its_end_is_whole():
    assert load_image(encoded(picture(), ".jpg") + b"\0" * 40).shape == (12, 20, 3)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_a_text_mode_file_is_refused(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_text("x")

    with path.open() as file, pytest.raises(InputError, match="binary"):
        load_image(file)


def test_other_objects_are_refused_by_type():
    with pytest.raises(InputError, match="NoneType"):
        load_image(None)


def test_an_unknown_colour_order_is_refused():
    with pytest.raises(ConfigError, match="'gbr'"):
        load_image(picture(), color="gbr")  # pyright: ignore[reportArgumentType]
