"""Label maps as PNG files."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import InputError
from hp_sdk.png import read_labels, write_labels

PALETTE = load_domain("cihp").palette


def _labels(height=13, width=9, classes=20):
    return np.random.default_rng(1).integers(0, classes, (height, width)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(13, 9), (1, 1), (64, 64), (3, 500)])
def test_ids_survive_the_file(tmp_path, height, width):
    labels = _labels(height, width)
    np.testing.assert_array_equal(
        read_labels(write_labels(tmp_path / "a.png", labels, PALETTE)), labels
    )


def test_a_viewer_sees_the_palette(tmp_path):
    labels = _labels()
    path = write_labels(tmp_path / "a.png", labels, PALETTE)
    seen = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert seen is not None
    np.testing.assert_array_equal(seen[..., ::-1], np.array(PALETTE, np.uint8)[labels])


def test_another_decoder_agrees_about_ids_and_palette(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    labels = _labels()
    with image_module.open(write_labels(tmp_path / "a.png", labels, PALETTE)) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        assert tuple(image.getpalette()[3 * 5 : 3 * 5 + 3]) == PALETTE[5]


def test_ignored_pixels_are_kept_beyond_the_palette(tmp_path):
    labels = _labels()
    labels[0, 0] = 255
    path = write_labels(tmp_path / "a.png", labels, PALETTE)
    np.testing.assert_array_equal(read_labels(path), labels)
    seen = cv2.imread(str(path))
    assert seen is not None
    assert seen[0, 0].tolist() == [192, 224, 224]


def test_grey_files_of_other_programs_are_read(tmp_path):
    labels = _labels(classes=256)
    cv2.imwrite(str(tmp_path / "a.png"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_packed_ids_are_read_unscaled(tmp_path, depth, colour):
    labels = _labels(6, 8, 2**depth)
    per_byte = 8 // depth
    shifts = np.arange(per_byte)[::-1] * depth
    packed = (labels.reshape(6, -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    rows = np.pad(packed, ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", 8, 6, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"PLTE", bytes(3 * 2**depth))][: 1 + (colour == 3)]
    chunks += [(b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


def test_colours_are_refused_because_they_are_not_ids(tmp_path):
    cv2.imwrite(str(tmp_path / "rgb.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"rgb\.png.*8-bit RGB"):
        read_labels(tmp_path / "rgb.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match=r"deep\.png.*16-bit grey"):
        read_labels(tmp_path / "deep.png")


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = write_labels(tmp_path / "a.png", _labels(), PALETTE).read_bytes()
    cases = {
        "empty": b"",
        "text": b"hello",
        "short": whole[:20],
        "cut": whole[: len(whole) // 2],
        "flipped": whole.replace(b"IDAT", b"IDAX"),
        "noend": whole[:-12],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_labels(tmp_path / name)
    with pytest.raises(InputError, match="missing"):
        read_labels(tmp_path / "missing.png")
