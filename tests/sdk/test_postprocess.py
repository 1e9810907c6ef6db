"""Logits become labels exactly as the definition says, whatever shortcuts are taken."""

import tracemalloc

import cv2
import numpy as np
import pytest

from hp_sdk.bundle import InputSpec
from hp_sdk.planes import Planes, View
from hp_sdk.postprocess import (
    label_map,
    labels_and_confidence,
    merged_labels,
    merged_labels_and_confidence,
)
from hp_sdk.preprocess import Geometry, plan

CLASSES = 6
SIZES = [
    # source, network, resize, content scale
    ((96, 96), (96, 96), "letterbox", 1.0),
    ((97, 61), (96, 64), "letterbox", 1.0),
    ((200, 150), (64, 96), "letterbox", 0.75),
    ((333, 77), (96, 96), "stretch", 1.0),
    ((31, 205), (64, 64), "letterbox", 1.0),
    ((360, 480), (96, 96), "letterbox", 1.0),
    ((7, 5), (96, 96), "stretch", 1.0),
    ((1, 1), (64, 64), "letterbox", 1.0),
    ((1, 400), (64, 64), "letterbox", 1.0),
    ((400, 1), (64, 64), "letterbox", 0.5),
]


def geometry_of(case):
    source_hw, network_hw, resize, scale = case
    return plan(source_hw, InputSpec(size_hw=network_hw, resize=resize), content_scale=scale)


def logits_for(geometry, *, smooth, seed=0):
    cells = [side // 4 for side in geometry.network_hw]
    logits = np.random.default_rng(seed).standard_normal((CLASSES, *cells)).astype(np.float32)
    if smooth:
        logits = np.stack([20 * cv2.GaussianBlur(plane, (0, 0), 3) for plane in logits])
    return logits


def by_definition(logits, geometry):
    """Bilinear sampling at half-pixel centres, straight from the formula, in float64."""
    rows, columns = (
        axis_weights(source, content, network / cells)
        for source, content, network, cells in zip(
            geometry.source_hw,
            geometry.content_hw,
            geometry.network_hw,
            logits.shape[1:],
            strict=True,
        )
    )
    across = pad_to(columns, logits.shape[2]).T
    return pad_to(rows, logits.shape[1]) @ logits.astype(np.float64) @ across


def axis_weights(source, content, stride):
    last = int(np.ceil(content / stride)) - 1
    at = ((np.arange(source) + 0.5) * content / source / stride - 0.5).clip(0, last)
    low = np.floor(at).astype(int)
    weights = np.zeros((source, last + 1))
    weights[np.arange(source), low] = 1 - (at - low)
    weights[np.arange(source), np.minimum(low + 1, last)] += at - low
    return weights


def pad_to(weights, cells):
    return np.pad(weights, ((0, 0), (0, cells - weights.shape[1])))


def assert_labels_are_winners(labels, scores):
    """Equal to argmax, but for pixels where two classes are as good as equal."""
    chosen = np.take_along_axis(scores, labels[None].astype(int), 0)[0]
    np.testing.assert_allclose(chosen, scores.max(0), atol=1e-4)


@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "smooth"])
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_labels_are_those_of_the_definition(case, smooth):
    geometry = geometry_of(case)
    logits = logits_for(geometry, smooth=smooth)

    labels = label_map(logits, geometry)

    assert labels.dtype == np.uint8
    assert labels.shape == geometry.source_hw
    assert_labels_are_winners(labels, by_definition(logits, geometry))


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_class_planes_are_those_of_the_definition(case):
    geometry = geometry_of(case)
    logits = logits_for(geometry, smooth=False)
    planes, expected = Planes([View(logits, geometry)]), by_definition(logits, geometry)

    for k in range(CLASSES):
        np.testing.assert_allclose(planes.read(k), expected[k], atol=1e-4)


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_windows_hold_every_pixel_their_class_wins_and_the_right_scores(case):
    geometry = geometry_of(case)
    logits = logits_for(geometry, smooth=True)
    planes, expected = Planes([View(logits, geometry)]), by_definition(logits, geometry)
    winners, seen = expected.argmax(0), np.zeros(CLASSES, int)

    for k, window in planes.contenders():
        rows, columns = (slice(*span) for span in window.pixels)
        np.testing.assert_allclose(planes.read(k, window), expected[k, rows, columns], atol=1e-4)
        seen[k] = (winners[rows, columns] == k).sum()

    np.testing.assert_array_equal(seen, np.bincount(winners.ravel(), minlength=CLASSES))


def test_a_class_that_cannot_win_is_never_resized():
    logits = np.zeros((3, 16, 16), np.float32)
    logits[1:] = -5
    logits[2, 4:6, 4:6] = 3
    geometry = Geometry((640, 640), (64, 64), (64, 64))

    windows = dict(Planes([View(logits, geometry)]).contenders())

    assert list(windows) == [0, 2]
    (top, bottom), (left, right) = windows[2].pixels
    assert bottom - top == right - left < 160


def test_a_class_far_behind_is_not_resized_for_the_confidence_either():
    logits = np.zeros((3, 16, 16), np.float32)
    logits[1] = -5
    logits[2] = -40
    geometry = Geometry((640, 640), (64, 64), (64, 64))

    assert [k for k, _ in Planes([View(logits, geometry)]).contenders(15)] == [0, 1]
    _, confidence = labels_and_confidence(logits, geometry)
    assert (confidence == round(255 / (1 + np.exp(-5)))).all()


def test_the_confidence_needs_less_than_four_planes():
    geometry = Geometry((600, 800), (64, 64), (48, 64))
    logits = np.random.default_rng(0).standard_normal((30, 16, 16)).astype(np.float32)

    tracemalloc.start()
    labels_and_confidence(logits, geometry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 3.9 * 4 * 600 * 800


def test_the_lower_id_wins_a_tie():
    logits = np.zeros((4, 16, 16), np.float32)
    logits[0] = -1

    assert (label_map(logits, Geometry((20, 30), (64, 64), (43, 64))) == 1).all()


def test_padding_beyond_the_photo_has_no_say():
    logits = np.zeros((2, 16, 16), np.float32)
    logits[1, 8:] = 100  # rows 32.. of the input are padding
    geometry = Geometry((50, 100), (64, 64), (32, 64))

    assert (label_map(logits, geometry) == 0).all()


def test_half_precision_logits_are_taken():
    geometry = geometry_of(SIZES[1])
    logits = logits_for(geometry, smooth=True).astype(np.float16)

    assert_labels_are_winners(label_map(logits, geometry), by_definition(logits, geometry))


def test_infinite_logits_do_not_spread():
    logits = np.full((3, 16, 16), -np.inf, np.float32)
    logits[2] = 0

    assert (label_map(logits, Geometry((64, 64), (64, 64), (64, 64))) == 2).all()


@pytest.mark.parametrize("case", SIZES, ids=str)
def test_confidence_is_the_winners_softmax(case):
    geometry = geometry_of(case)
    logits = logits_for(geometry, smooth=True)
    scores = by_definition(logits, geometry)

    labels, confidence = labels_and_confidence(logits, geometry)

    expected = 255 / np.exp(scores - scores.max(0)).sum(0)
    assert confidence.dtype == np.uint8
    assert np.abs(confidence - expected).max() <= 0.51
    np.testing.assert_array_equal(labels, label_map(logits, geometry))


def test_views_are_averaged_in_source_geometry():
    source = (120, 91)
    spec = InputSpec(size_hw=(64, 96))
    plain, small = plan(source, spec), plan(source, spec, content_scale=0.6)
    views = [
        View(logits_for(plain, smooth=True, seed=1), plain),
        View(logits_for(plain, smooth=True, seed=2), plain, mirrored=True),
        View(logits_for(small, smooth=True, seed=3), small),
    ]
    planes = [by_definition(view.scores, view.geometry) for view in views]
    mean = (planes[0] + planes[1][:, :, ::-1] + planes[2]) / 3

    assert_labels_are_winners(merged_labels(views), mean)
    labels, confidence = merged_labels_and_confidence(views, are_logits=True)
    assert_labels_are_winners(labels, mean)
    assert np.abs(confidence - 255 / np.exp(mean - mean.max(0)).sum(0)).max() <= 0.51


def test_mean_probabilities_are_confidence_as_they_are():
    geometry = Geometry((8, 8), (32, 32), (32, 32))
    views = [
        View(np.stack([np.full((8, 8), p), np.full((8, 8), 1 - p)]).astype(np.float32), geometry)
        for p in (0.9, 0.5)
    ]

    labels, confidence = merged_labels_and_confidence(views, are_logits=False)

    assert (labels == 0).all()
    assert (confidence == round(0.7 * 255)).all()


def test_a_mirrored_view_alone_is_turned_back():
    geometry = geometry_of(SIZES[2])
    logits = logits_for(geometry, smooth=True)

    mirrored = merged_labels([View(logits, geometry, mirrored=True)])

    np.testing.assert_array_equal(mirrored[:, ::-1], label_map(logits, geometry))


def test_memory_does_not_grow_with_the_number_of_classes():
    geometry = Geometry((600, 800), (64, 64), (48, 64))
    plane_bytes = 4 * 600 * 800
    logits = np.random.default_rng(0).standard_normal((59, 16, 16)).astype(np.float32)

    tracemalloc.start()
    label_map(logits, geometry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # Two planes, the labels (a quarter of one) and small change.
    assert peak < 2.8 * plane_bytes
