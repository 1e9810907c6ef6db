"""The arithmetic of the GPU kernels, compiled for the host, against the CPU path of the SDK."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import pytest

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.gpu.layouts import PHOTO, PLACE, VIEW
from hp_sdk.planes import View
from hp_sdk.postprocess import merged_labels, merged_labels_and_confidence
from hp_sdk.preprocess import Geometry, fit, plan
from hp_sdk.tta import softmax
from tests.gpu.build import build


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
    return ctypes.CDLL(str(build("pixels_host.cpp", tmp_path_factory.mktemp("pixels"), *warnings)))


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def fit_on_host(host: ctypes.CDLL, image: np.ndarray, spec: InputSpec) -> np.ndarray:
    geometry = plan(image.shape[:2], spec)
    photo = np.zeros((), PHOTO)
    photo["data"] = image.ctypes.data
    photo["row"], photo["column"], photo["channel"] = image.strides
    photo["height"], photo["width"] = image.shape[:2]
    place = np.array((*geometry.content_hw, spec.pad_value), PLACE)
    out = np.zeros((1, *spec.size_hw, 3), np.uint8)
    host.fit(pointer(photo), pointer(place), *spec.size_hw, pointer(out))
    return out


def label_on_host(
    host: ctypes.CDLL, views: Sequence[View], orders: Sequence[np.ndarray | None], *, logits: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    grids = [np.ascontiguousarray(view.scores) for view in views]
    swaps = [None if order is None else np.asarray(order, np.int32) for order in orders]
    table = np.zeros(len(views), VIEW)
    for row, view, grid, order in zip(table, views, grids, swaps, strict=True):
        cells = grid.shape[1:]
        row["scores"], row["plane"] = grid.ctypes.data, cells[0] * cells[1]
        row["order"] = 0 if order is None else order.ctypes.data
        row["rows"], row["columns"] = cells
        row["stride"] = view.geometry.network_hw[0] // cells[0]
        row["content_h"], row["content_w"] = view.geometry.content_hw
        row["mirrored"] = view.mirrored
    size = views[0].geometry.source_hw
    labels, confidence = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    margin = np.zeros(size, np.float32)
    host.label(
        *(pointer(table), len(views), len(grids[0]), *size),
        *(grids[0].dtype == np.float16, logits),
        *(pointer(labels), pointer(confidence), pointer(margin)),
    )
    return labels, confidence, margin


def photo_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (7 + c) + c) * np.cos(y / (11 - c)) for c in range(3)]
    return np.clip(
        128 + 90 * np.stack(waves, -1) + rng.normal(0, 20, (height, width, 3)), 0, 255
    ).astype(np.uint8)


SIZES = [(96, 128), (300, 200), (1000, 1503), (64, 64), (31, 47), (1, 1), (5, 700), (128, 96)]


@pytest.mark.parametrize("policy", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", SIZES)
def test_a_fitted_pixel_is_opencvs_within_one_grey_level(host, size, policy) -> None:
    spec = InputSpec(size_hw=(96, 128), resize=policy, pad_value=7)
    image = photo_of(*size)
    expected, _ = fit(image, spec)
    found = fit_on_host(host, image, spec)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_photos_with_other_strides_give_the_same_pixels(host) -> None:
    spec = InputSpec(size_hw=(64, 64))
    image = photo_of(150, 90)
    expected = fit_on_host(host, image, spec)
    planar = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    bgr = np.ascontiguousarray(image[:, :, ::-1])[:, :, ::-1]
    padded = np.zeros((150, 128, 4), np.uint8)[:, :90, :3]
    padded[:] = image
    for same in (planar, bgr, padded):
        assert not same.flags.c_contiguous
        assert np.array_equal(fit_on_host(host, same, spec), expected)


def grid_for(source_hw: tuple[int, int], classes: int, seed: int, scale: float = 1.0):
    spec = InputSpec(size_hw=(128, 160))
    geometry = plan(source_hw, spec, content_scale=scale)
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (classes, 32, 40)).astype(np.float32), geometry


def differ(a: np.ndarray, b: np.ndarray) -> float:
    return float((a != b).mean())


@pytest.mark.parametrize("source_hw", [(480, 640), (1001, 333), (128, 160), (37, 50), (3, 900)])
@pytest.mark.parametrize("classes", [7, 20, 59])
def test_labels_are_those_of_the_cpu_but_for_ties(host, source_hw, classes) -> None:
    scores, geometry = grid_for(source_hw, classes, seed=classes)
    views = [View(scores, geometry)]
    expected, sure = merged_labels_and_confidence(views, are_logits=True)
    labels, confidence, margin = label_on_host(host, views, [None], logits=True)
    wrong = labels != expected
    assert wrong.mean() <= 1e-4
    assert not wrong.any() or margin[wrong].max() < 1e-3
    assert np.abs(confidence.astype(int) - sure).max() <= 1


def test_exact_ties_go_to_the_lower_class(host) -> None:
    scores, geometry = grid_for((200, 250), 4, seed=1)
    labels, _, margin = label_on_host(
        host, [View(np.repeat(scores[:1], 4, 0), geometry)], [None], logits=True
    )
    assert not labels.any()
    assert not margin.any()


def test_half_precision_scores_are_read_exactly(host) -> None:
    scores, geometry = grid_for((300, 400), 20, seed=2)
    half = scores.astype(np.float16)
    half[0, 0, :4] = [6e-8, -6e-8, 65504, 0]  # subnormal, largest
    views = View(half, geometry), View(half.astype(np.float32), geometry)
    for a, b in zip(*(label_on_host(host, [v], [None], logits=True) for v in views), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_mirrored_and_scaled_views_are_merged_as_on_the_cpu(host, average) -> None:
    domain = load_domain("cihp")
    views, plain, orders = [], [], []
    for i, (scale, mirrored) in enumerate([(1.0, False), (1.0, True), (0.75, False), (0.75, True)]):
        scores, geometry = grid_for((350, 410), domain.num_classes, seed=i, scale=scale)
        if average == "probs":
            own = softmax(scores[None])[0]
            host.softmax(pointer(scores), domain.num_classes, scores[0].size)
            assert np.abs(scores - own).max() < 1e-6
        orders.append(domain.flip_perm if mirrored else None)
        plain.append(View(scores, geometry, mirrored))
        swapped = scores[domain.flip_perm] if mirrored else scores
        views.append(View(swapped, geometry, mirrored))
    logits = average == "logits"
    expected, sure = merged_labels_and_confidence(views, are_logits=logits)
    labels, confidence, margin = label_on_host(host, plain, orders, logits=logits)
    wrong = labels != expected
    assert wrong.mean() <= 1e-4
    assert not wrong.any() or margin[wrong].max() < 1e-3
    assert np.abs(confidence.astype(int) - sure).max() <= 1


def test_a_wrong_swap_is_noticed(host) -> None:
    domain = load_domain("cihp")
    scores, geometry = grid_for((200, 200), domain.num_classes, seed=3)
    view = View(scores, geometry, mirrored=True)
    swapped = View(scores[domain.flip_perm], geometry, mirrored=True)
    labels, *_ = label_on_host(host, [view], [None], logits=True)
    assert differ(labels, merged_labels([swapped])) > 0.1


def test_a_photo_of_twelve_megapixels_stays_within_the_integers(host) -> None:
    geometry = Geometry((1, 120_000), (1024, 1024), (1, 1024))
    scores = np.random.default_rng(0).normal(0, 3, (5, 256, 256)).astype(np.float32)
    labels, *_ = label_on_host(host, [View(scores, geometry)], [None], logits=True)
    assert differ(labels, merged_labels([View(scores, geometry)])) <= 1e-4
