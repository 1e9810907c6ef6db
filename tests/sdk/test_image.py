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


def noise():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def saved(image, format, **options):
    if format == "WEBP":
        options["lossless"] = True
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def pil():
    return pytest.importorskip("PIL.Image", reason="needs Pillow")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs torch")


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


def test_the_byte_order_of_sixteen_bits_does_not_matter():
    assert load_image(np.array([[0, 257, 65535]], ">u2"))[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_sixteen_bit_file_and_array_are_scaled_alike(suffix):
    deep = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3), np.uint16)

    np.testing.assert_array_equal(load_image(encoded(deep, suffix)), load_image(deep))
    np.testing.assert_array_equal(
        load_image(cv2.imencode(suffix, deep[..., 0])[1].tobytes()), load_image(deep[..., 0])
    )


def tiff_of_floats(image):
    lossless = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    return cv2.imencode(".tiff", image[..., ::-1].astype(np.float32), lossless)[1].tobytes()


def test_a_tiff_of_floats_spans_zero_to_one():
    np.testing.assert_array_equal(load_image(tiff_of_floats(picture() / 255)), picture())
    with pytest.raises(InputError, match=r"float32 with values from .* to 255"):
        load_image(tiff_of_floats(picture()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_exif_orientation(orientation):
    upright = picture(16, 24)
    content = jpeg_with_orientation(as_stored(upright, orientation), orientation)

    loaded = load_image(content)

    assert loaded.shape == upright.shape
    assert np.abs(loaded.astype(int) - upright).mean() < 4  # JPEG is lossy


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_stands_upright(pil, format, orientation):
    upright = picture(16, 24)
    exif = pil.Exif()
    exif[0x0112] = orientation
    content = saved(pil.fromarray(as_stored(upright, orientation)), format, exif=exif)

    loaded = load_image(content)

    assert loaded.shape == upright.shape
    assert loaded.flags.c_contiguous
    assert np.abs(loaded.astype(int) - upright).mean() < 4  # some are lossy


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_is_none(pil, value):
    content = jpeg_with_orientation(picture(16, 24), value)

    assert load_image(content).shape == (16, 24, 3)
    assert load_image(pil.open(io.BytesIO(content))).shape == (16, 24, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_pil_image_is_read_as_its_file_would_be(pil, format, orientation):
    exif = pil.Exif()
    exif[0x0112] = orientation
    content = saved(pil.fromarray(picture(16, 24)), format, exif=exif)

    from_pil = load_image(pil.open(io.BytesIO(content)))

    assert np.abs(from_pil.astype(int) - load_image(content)).max() <= 4  # two JPEG decoders


FILES = {
    "CMYK JPEG": ("CMYK", "JPEG"),
    "grey JPEG": ("L", "JPEG"),
    "palette PNG": ("P", "PNG"),
    "black and white PNG": ("1", "PNG"),
    "PNG with alpha": ("RGBA", "PNG"),
    "grey PNG with alpha": ("LA", "PNG"),
    "WebP with alpha": ("RGBA", "WEBP"),
    "grey TIFF with alpha": ("LA", "TIFF"),
    "CMYK TIFF": ("CMYK", "TIFF"),
    "palette TIFF": ("P", "TIFF"),
    "palette BMP": ("P", "BMP"),
    "GIF": ("P", "GIF"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_every_kind_are_read_as_pillow_reads_them(pil, kind):
    mode, format = FILES[kind]
    image = pil.fromarray(picture())
    image.putalpha(pil.fromarray(np.full((12, 20), 100, np.uint8)))
    content = saved(image.convert("RGB" if "A" not in mode else "RGBA").convert(mode), format)

    expected = np.asarray(pil.open(io.BytesIO(content)).convert("RGB"))

    assert np.abs(load_image(content).astype(int) - expected).max() <= 1


def test_a_tiff_is_itself_where_it_is_opaque(pil):
    image = pil.fromarray(picture())
    image.putalpha(pil.fromarray(np.repeat([[0], [255]], 6, 0).astype(np.uint8).repeat(20, 1)))

    np.testing.assert_array_equal(load_image(saved(image, "TIFF"))[6:], picture()[6:])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_the_photo(pil, format):
    first, second = (pil.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (40, 200))
    content = saved(first, format, save_all=True, append_images=[second], duration=100)

    assert np.abs(load_image(content).astype(int) - 40).max() <= 1


def test_sixteen_bits_from_pil_are_scaled_not_clipped(pil):
    deep = pil.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert load_image(deep)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_palette_with_alpha_from_pil_is_read_as_its_file(pil):
    image = pil.fromarray(picture())
    image.putalpha(pil.fromarray(np.arange(240, dtype=np.uint8).reshape(12, 20)))
    content = saved(image.quantize(), "PNG")
    opened = pil.open(io.BytesIO(content))

    assert "transparency" in opened.info
    np.testing.assert_array_equal(load_image(opened), load_image(content))


def test_a_pil_image_that_cannot_be_read_is_refused(pil, tmp_path):
    path = tmp_path / "half.png"
    path.write_bytes(encoded(noise())[:2000])
    with pil.open(path) as half, pytest.raises(InputError, match=r"half\.png.*Pillow"):
        load_image(half)
    with pytest.raises(InputError, match="int32"):
        load_image(pil.new("I", (3, 2)))


def test_a_pil_image_with_damaged_exif_stays_as_it_is(pil):
    image = pil.fromarray(picture())
    image.info["exif"] = b"Exif\0\0II*\0\xff"

    np.testing.assert_array_equal(load_image(image), picture())


def test_anything_that_turns_into_an_array_is_taken():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return picture()

    np.testing.assert_array_equal(load_image(Tensor()), picture())


def test_something_that_fails_to_turn_into_an_array_is_refused():
    class OnAnotherDevice:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("copy it to the host first")

    with pytest.raises(InputError, match=r"OnAnotherDevice .* host first"):
        load_image(OnAnotherDevice())


def test_a_tensor_is_channel_first(torch):
    photo = picture()
    tensor = torch.from_numpy(photo).permute(2, 0, 1)

    np.testing.assert_array_equal(load_image(tensor), photo)
    np.testing.assert_array_equal(load_image(tensor.flip(0), color="bgr"), photo)
    np.testing.assert_array_equal(load_image(tensor[:1])[..., 1], photo[..., 0])
    np.testing.assert_array_equal(load_image(torch.cat([tensor, tensor[:1]])), photo)
    np.testing.assert_array_equal(load_image(tensor[:, :, :3]), photo[:, :3])


def test_a_tensor_that_can_only_be_channel_last_is_that(torch):
    photo = picture()

    np.testing.assert_array_equal(load_image(torch.from_numpy(photo)), photo)
    np.testing.assert_array_equal(
        load_image(torch.from_numpy(photo[..., 0]))[..., 2], photo[..., 0]
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_tensor_of_floats_may_need_gradients(torch, dtype):
    tensor = torch.tensor([[0.0, 0.5, 1.0]], dtype=getattr(torch, dtype), requires_grad=True)

    assert load_image(tensor)[0, :, 0].tolist() == [0, 128, 255]


def test_a_parameter_is_a_tensor(torch):
    assert load_image(torch.nn.Parameter(torch.ones(3, 5, 4))).shape == (5, 4, 3)


def test_unusable_tensors_are_refused_with_what_they_are(torch):
    for tensor, hint in (
        (torch.zeros(2, 3, 8, 8), "list of photos"),
        (torch.zeros(8, 8, dtype=torch.bool), "Tensor is bool"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(3, 8, 8) - 1, "from -1 to -1"),
        (torch.zeros(7, 8, 9), r"\(7, 8, 9\)"),
        (torch.zeros(3, 8, 8, device="meta"), "does not turn into an array"),
        (torch.zeros(3, 8, 8).to_sparse(), "does not turn into an array"),
    ):
        with pytest.raises(InputError, match=hint):
            load_image(tensor)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_one_pixel_and_one_row_are_photos(suffix, size):
    assert load_image(encoded(np.zeros((*size, 3), np.uint8), suffix)).shape == (*size, 3)
    assert load_image(np.zeros((*size, 3), np.uint8)).shape == (*size, 3)


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


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match="is a folder"):
        load_image(tmp_path)


def test_a_text_mode_file_is_refused(tmp_path):
    path = tmp_path / "photo.txt"
    path.write_text("x")

    with path.open() as file, pytest.raises(InputError, match="binary mode"):
        load_image(file)


def test_other_objects_are_refused_by_type():
    with pytest.raises(InputError, match="NoneType"):
        load_image(None)


def test_an_unknown_colour_order_is_refused():
    with pytest.raises(ConfigError, match="'gbr'"):
        load_image(picture(), color="gbr")  # pyright: ignore[reportArgumentType]
