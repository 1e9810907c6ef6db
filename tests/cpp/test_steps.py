"""Each step of the C++ library gives what the step of the same name gives in Python."""

import ctypes
import hashlib
import zlib

import numpy as np
import pytest

from hp_sdk.bundle import InputSpec
from hp_sdk.planes import View
from hp_sdk.postprocess import merged_labels, merged_labels_and_confidence
from hp_sdk.preprocess import fit, plan
from hp_sdk.windows import corners

pytestmark = [pytest.mark.cpp, pytest.mark.timeout(1500)]


def address(array):
    return ctypes.c_void_p(array.ctypes.data)


def pair(*numbers):
    return (ctypes.c_int * len(numbers))(*numbers)


def windows(spec):
    return pair(*(spec.stride_hw or (0, 0)), spec.longest_px or 0)


def fitted(probe, photo, spec, scale, canvas_hw=None):
    """Canvas, and the sizes of the canvas and of what it holds; None for `canvas_hw` only plans."""
    target = None if canvas_hw is None else np.empty((1, *canvas_hw, 3), np.uint8)
    sizes = pair(0, 0, 0, 0)
    probe.probe_fit(
        address(photo),
        pair(*photo.shape[:2]),
        pair(*spec.size_hw),
        spec.resize.encode(),
        spec.pad_value,
        windows(spec),
        ctypes.c_double(scale),
        None if target is None else address(target),
        sizes,
    )
    return target, (tuple(sizes[:2]), tuple(sizes[2:]))


def sizes(rng, count):
    for _ in range(count):
        yield tuple(int(side) for side in rng.integers(1, 700, 2))
    yield from ((1, 1), (1, 900), (900, 1), (128, 192), (256, 384), (64, 96), (512, 768), (65, 96))


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "shortest-side"])
@pytest.mark.parametrize("scale", [1.0, 0.75, 1.5])
def test_a_fitted_photo_is_the_same_byte_for_byte(probe, resize, scale):
    rng = np.random.default_rng(3)
    spec = InputSpec(size_hw=(64, 96), resize=resize, pad_value=114)
    for size_hw in sizes(rng, 40):
        photo = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        expected, geometry = fit(photo, spec, content_scale=scale)
        found, places = fitted(probe, photo, spec, scale, geometry.network_hw)
        assert places == (geometry.network_hw, geometry.content_hw), size_hw
        np.testing.assert_array_equal(found, expected, err_msg=str(size_hw))


SPECS = [
    InputSpec(size_hw=(480, 480), resize="shortest-side", stride_hw=(320, 320)),
    InputSpec(size_hw=(36, 100), resize="shortest-side", longest_px=777),
    InputSpec(size_hw=(64, 96)),
    InputSpec(size_hw=(33, 7), resize="stretch"),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.25, 1.75])
def test_windows_lie_where_they_lie_in_python(probe, spec, scale):
    many = 2000
    for size_hw in sizes(np.random.default_rng(4), 40):
        geometry = plan(size_hw, spec, content_scale=scale)
        _, places = fitted(probe, np.broadcast_to(np.uint8(0), (*size_hw, 3)), spec, scale)
        assert places == (geometry.network_hw, geometry.content_hw), size_hw
        expected = corners(geometry.network_hw, spec)
        room = pair(*[0] * (2 * many))
        count = probe.probe_corners(
            pair(*geometry.network_hw), pair(*spec.size_hw), windows(spec), many, room
        )
        assert list(zip(room[0 : 2 * count : 2], room[1 : 2 * count : 2], strict=True)) == expected


def answers(probe, views, *, confidence, are_logits=True):
    scores = np.ascontiguousarray([view.scores for view in views], np.float32)
    geometry = views[0].geometry
    labels = np.full(geometry.source_hw, 99, np.uint8)
    sure = np.full(geometry.source_hw, 99, np.uint8)
    probe.probe_labels(
        address(scores),
        len(views),
        scores.shape[1],
        pair(*scores.shape[2:]),
        pair(*geometry.source_hw),
        pair(*geometry.network_hw),
        pair(*(side for view in views for side in view.geometry.content_hw)),
        int(are_logits),
        address(labels),
        address(sure) if confidence else None,
    )
    return labels, sure


def smooth_scores(rng, classes, cells_hw):
    coarse = rng.normal(size=(classes, *cells_hw)).astype(np.float32)
    return 4 * coarse + np.roll(coarse, 1, axis=1) + np.roll(coarse, 1, axis=2)


SOURCES = [(480, 640), (97, 33), (16, 16), (1, 50), (301, 9), (64, 96), (33, 700), (3, 3)]


@pytest.mark.parametrize("source_hw", SOURCES)
def test_labels_are_the_same_up_to_ties(probe, source_hw):
    rng = np.random.default_rng(5)
    spec = InputSpec(size_hw=(64, 96))
    view = View(smooth_scores(rng, 20, (16, 24)), plan(source_hw, spec))
    labels, _ = answers(probe, [view], confidence=False)
    assert (labels == merged_labels([view])).mean() >= 0.9999
    again, sure = answers(probe, [view], confidence=True)
    assert (again == labels).mean() >= 0.9999
    _, expected = merged_labels_and_confidence([view], are_logits=True)
    assert np.abs(sure.astype(int) - expected).max() <= 1


def test_views_are_averaged_as_in_python(probe):
    rng = np.random.default_rng(6)
    spec = InputSpec(size_hw=(64, 96))
    geometries = [plan((210, 333), spec, content_scale=scale) for scale in (1, 1, 0.75, 0.75)]
    views = [
        View(smooth_scores(rng, 7, (16, 24)), geometry, mirrored)
        for geometry, mirrored in zip(geometries, (False, True, False, True), strict=True)
    ]
    labels, _ = answers(probe, views, confidence=False)
    assert (labels == merged_labels(views)).mean() >= 0.9999
    probs = [
        View(np.exp(v.scores) / np.exp(v.scores).sum(0), v.geometry, v.mirrored) for v in views
    ]
    labels, sure = answers(probe, probs, confidence=True, are_logits=False)
    expected, confidence = merged_labels_and_confidence(probs, are_logits=False)
    assert (labels == expected).mean() >= 0.9999
    assert np.abs(sure.astype(int) - confidence).max() <= 1


def test_equal_scores_go_to_the_lower_id(probe):
    view = View(np.ones((5, 16, 24), np.float32), plan((50, 70), InputSpec(size_hw=(64, 96))))
    assert not answers(probe, [view], confidence=False)[0].any()
    assert not answers(probe, [view], confidence=True)[0].any()


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000])
def test_sha256_is_sha256(probe, size):
    content = bytes(range(256)) * 4
    hexadecimal = ctypes.create_string_buffer(65)
    probe.probe_sha256(content, ctypes.c_size_t(size), hexadecimal)
    assert hexadecimal.value.decode() == hashlib.sha256(content[:size]).hexdigest()


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
def test_compressed_data_is_unpacked(probe, level, strategy):
    rng = np.random.default_rng(level)
    content = rng.integers(0, 4, 200_000, dtype=np.uint8).tobytes() + b"hp" * 40_000
    press = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    packed = press.compress(content) + press.flush()
    out = ctypes.create_string_buffer(len(content))

    def unpack(data, size):
        return probe.probe_inflate(data, ctypes.c_size_t(len(data)), out, ctypes.c_size_t(size))

    assert unpack(packed, len(content)) == 0
    assert out.raw == content
    assert unpack(packed, len(content) - 1) == 1
    assert unpack(packed, len(content) + 1) == 1
    assert unpack(packed[: len(packed) // 2], len(content)) == 1
