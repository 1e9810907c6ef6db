"""Files that are foreign, cut, damaged or made to harm: an image or an InputError, never more."""

import io
import struct
from collections import Counter
from time import perf_counter

import cv2
import numpy as np
import pytest

import hp_sdk.image
from hp_sdk.errors import InputError
from hp_sdk.image import MAX_PIXELS, load_image

ORANGE = (250, 120, 10)
LARGEST_PX = 2**20


def noise(height=64, width=64):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def encoded(image, suffix=".png", *options):
    return cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif", ".avif"])
def test_a_picture_too_large_is_refused_before_it_is_decoded(suffix, monkeypatch):
    content = encoded(np.zeros((40, 50, 3), np.uint8), suffix)
    monkeypatch.setattr(hp_sdk.image, "MAX_PIXELS", 40 * 50 - 1)
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("it was decoded"))

    with pytest.raises(InputError, match="50 x 40 pixels; at most 1999"):
        load_image(content)


def test_the_header_of_a_decompression_bomb_is_enough():
    header = struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 30000, 30000, 8, 2, 0, 0, 0, 0)

    with pytest.raises(InputError, match="30000 x 30000"):
        load_image(b"\x89PNG\r\n\x1a\n" + header)


def test_a_chunk_of_a_png_that_claims_gigabytes_is_not_made_room_for(monkeypatch):
    content = encoded(noise())
    at = content.index(b"IDAT") - 4
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("it was decoded"))

    with pytest.raises(InputError, match="truncated PNG"):
        load_image(content[:at] + b"\xff\xff\xff\xf0" + content[at + 4 :])


def test_the_limit_leaves_room_for_any_camera():
    assert 16_320 * 12_240 < MAX_PIXELS < 2**30


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_ninety_six_megapixels_are_a_photo(suffix):
    large = np.zeros((8000, 12000, 3), np.uint8)
    large[4000:, 6000:] = ORANGE

    loaded = load_image(encoded(large, suffix))

    assert loaded.shape == large.shape
    assert np.abs(loaded[7000, 11000].astype(int) - ORANGE).max() <= 3


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "empty"),
        (b"hello, I am no photo\n" * 20, "text file"),
        ("žluťoučký kůň, ".encode() * 500, "text file"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "damaged AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypisom\0\0\2\0", "video"),
        (b"%PDF-1.7\n\x80\x81", "PDF"),
        (b"PK\x03\x04\x14\0", "archive"),
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


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("missing", [1, 2, 50, 1000])
def test_a_truncated_photo_is_called_that(suffix, missing):
    content = encoded(noise(), suffix)

    with pytest.raises(InputError, match=r"truncated (JPEG|PNG|WebP)"):
        load_image(content[:-missing])


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".gif", ".avif"])
def test_half_a_photo_of_any_kind_is_refused(suffix):
    content = encoded(noise(), suffix)

    with pytest.raises(InputError, match="damaged"):
        load_image(content[: len(content) // 2])


def test_a_jpeg_with_bytes_after_its_end_is_whole():
    film_of_a_moving_photo = b"\0\0\0\x18ftypmp42\xff\xda\0\x08 and so on \xff\xda"

    content = encoded(noise(12, 20), ".jpg")

    assert load_image(content + film_of_a_moving_photo).shape == (12, 20, 3)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_photo():
    thumbnail = encoded(noise(12, 20), ".jpg")
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    jpeg = encoded(noise(), ".jpg")
    content = jpeg[:2] + comment + jpeg[2:]

    assert load_image(content).shape == (64, 64, 3)
    for length in (len(thumbnail) + 20, len(content) // 2):
        with pytest.raises(InputError, match="truncated JPEG"):
            load_image(content[:length])


def test_a_file_read_to_its_end_before_is_empty():
    file = io.BytesIO(encoded(noise(12, 20)))
    file.read()

    with pytest.raises(InputError, match="read to its end before"):
        load_image(file)


def test_a_file_that_gives_little_at_a_time_is_read_whole():
    class Pipe(io.BytesIO):
        def read(self, size=-1, /):
            return super().read(7)

    np.testing.assert_array_equal(load_image(Pipe(encoded(noise(12, 20)))), noise(12, 20))


def test_an_endless_file_is_left_as_soon_as_it_is_no_picture():
    class Zeros:
        name, pieces = "zeros", 0

        def read(self, size=-1, /):
            self.pieces += 1
            return bytes(size)

    zeros = Zeros()
    with pytest.raises(InputError, match="'zeros' is not a readable picture"):
        load_image(zeros)
    assert zeros.pieces == 1


def test_a_file_longer_than_any_picture_is_refused(monkeypatch):
    monkeypatch.setattr(hp_sdk.image, "MAX_BYTES", 5000)

    with pytest.raises(InputError, match="longer than 5000 bytes"):
        load_image(io.BytesIO(encoded(noise())))


def test_a_closed_file_and_one_for_writing_are_refused(tmp_path):
    file = io.BytesIO(encoded(noise(12, 20)))
    file.close()
    with pytest.raises(InputError, match="closed"):
        load_image(file)
    with (tmp_path / "out.png").open("wb") as out, pytest.raises(InputError, match=r"out\.png"):
        load_image(out)


@pytest.mark.parametrize("name", ["iVBORw0KGgo" * 1000, "photo\0.jpg", ""])
def test_text_that_is_no_path_is_refused_in_a_short_sentence(name):
    with pytest.raises(InputError) as refusal:
        load_image(name)
    assert len(str(refusal.value)) < 400


def whole_files():
    """One small file of every kind, as other programs write them."""
    smooth = cv2.GaussianBlur(noise(40, 60), (0, 0), 2)
    alpha = np.dstack([smooth, smooth[..., 0]])
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)
    jpeg = encoded(smooth, ".jpg")
    progressive = encoded(smooth, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    turned = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    lossless = encoded(smooth, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)
    extended = struct.pack("<4sIBxxxHBHB", b"VP8X", 10, 8, 59, 0, 39, 0) + lossless[12:]
    extended += struct.pack("<4sI", b"EXIF", len(exif) - 6) + exif[6:]
    return [
        jpeg,
        progressive,
        turned,
        *(
            encoded(smooth, suffix)
            for suffix in (".png", ".webp", ".bmp", ".tiff", ".gif", ".avif")
        ),
        *(encoded(alpha, suffix) for suffix in (".png", ".webp", ".tiff")),
        *(encoded(smooth.astype(np.uint16) * 257, suffix) for suffix in (".png", ".tiff")),
        encoded(smooth, ".tiff", cv2.IMWRITE_TIFF_COMPRESSION, 1),
        lossless,
        b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended,
    ]


def flip(rng, content, others):
    for at in rng.integers(0, len(content), rng.integers(1, 20)):
        content[at] ^= 1 << rng.integers(8)
    return content


def cut(rng, content, others):
    return content[: rng.integers(len(content))]


def drop(rng, content, others):
    first, last = sorted(rng.integers(0, len(content), 2))
    return content[:first] + content[last:]


def splice(rng, content, others):
    other = others[rng.integers(len(others))]
    first, last = sorted(rng.integers(0, len(other), 2))
    at = rng.integers(len(content))
    return content[:at] + other[first:last] + content[at + (last - first) * rng.integers(2) :]


def edit_header(rng, content, others):
    extremes = (b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\1\0")
    for _ in range(rng.integers(1, 4)):
        value = extremes[rng.integers(len(extremes))]
        at = rng.integers(4, 80)
        content[at : at + len(value)] = value
    return content


MUTATIONS = (flip, cut, drop, splice, edit_header)


def mutated(number, files):
    rng = np.random.default_rng(number)
    content = bytearray(files[rng.integers(len(files))])
    for mutate in rng.choice(np.array(MUTATIONS), rng.integers(1, 3)):
        content = mutate(rng, content, files) or bytearray(b"\0")
    return bytes(content)


@pytest.fixture
def decoded_px(monkeypatch):
    """Pixels of everything that OpenCV decodes."""
    monkeypatch.setattr(hp_sdk.image, "MAX_PIXELS", LARGEST_PX)
    decode, sizes_px = cv2.imdecode, []

    def watched(content, flags):
        image = decode(content, flags)
        sizes_px.append(0 if image is None else image.shape[0] * image.shape[1])
        return image

    monkeypatch.setattr(cv2, "imdecode", watched)
    return sizes_px


def outcome(content):
    try:
        image = load_image(content)
    except InputError as refusal:
        return "one line" if "\n" not in str(refusal) else str(refusal)
    return "image" if (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3) else "?"


def outcomes(numbers):
    """How many of the mutated files are still pictures, and how many are refused in one line."""
    files, counts = whole_files(), Counter()
    for number in numbers:
        content, start = mutated(number, files), perf_counter()
        counts[outcome(content)] += 1
        assert perf_counter() - start < 10, f"mutation {number} hangs"
    return counts


def test_the_files_to_be_damaged_are_pictures():
    shapes = [load_image(content).shape for content in whole_files()]

    assert shapes == [(40, 60, 3), (40, 60, 3), (60, 40, 3), *[(40, 60, 3)] * 13, (60, 40, 3)]


def test_a_damaged_file_is_an_image_or_one_clear_error(decoded_px):
    counts = outcomes(range(200))

    assert set(counts) == {"image", "one line"}
    assert min(counts.values()) > 20
    assert max(decoded_px) <= LARGEST_PX


@pytest.mark.slow
def test_thousands_of_damaged_files_are_images_or_clear_errors(decoded_px):
    counts = outcomes(range(200, 5200))

    assert set(counts) == {"image", "one line"}
    assert min(counts.values()) > 500
    assert max(decoded_px) <= LARGEST_PX
