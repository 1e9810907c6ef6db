"""The accelerator gives what NumPy and OpenCV give, and nobody misses it where it is not built."""

import logging
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from hp_sdk import Parser, native
from hp_sdk.bench.setting import read_machine_facts
from hp_sdk.bundle import InputSpec
from hp_sdk.doctor import examine
from hp_sdk.native import STAMP, Accelerator, find_accelerator
from hp_sdk.planes import Planes, View
from hp_sdk.postprocess import label_map, merged_labels, merged_labels_and_confidence
from hp_sdk.preprocess import Geometry, fit, plan
from hp_sdk.probe import Outcome
from hp_sdk.testing import FakeBackend, make_bundle

NUMPY = Accelerator(None, "left out by a test")
NEAR = 1e-3
SIZES = [(96, 96), (97, 61), (211, 150), (333, 77), (31, 205), (7, 5), (1, 1), (1, 400), (400, 1)]


@pytest.fixture
def built():
    """The accelerator of this checkout, whatever HP_NATIVE says."""
    found = find_accelerator({})
    if found.module is None:
        pytest.skip(f"hp_sdk._native is {found.state}")
    return found


@pytest.fixture
def use(monkeypatch):
    return lambda accelerator: monkeypatch.setattr(native, "_accelerator", accelerator)


@pytest.fixture
def both(built, use):
    """What a call gives with the accelerator, and without it."""

    def ask(call):
        found = (use(built), call())[1]
        return found, (use(NUMPY), call())[1]

    return ask


@pytest.fixture
def asked(built, use):
    """The accelerator, which notes what each call of it answered."""
    answers = []

    def noting(function):
        return lambda *given: answers.append(function(*given)) or answers[-1]

    module = SimpleNamespace(
        STAMP=STAMP, label=noting(built.module.label), shrink=noting(built.module.shrink)
    )
    use(Accelerator(module, "in use"))  # pyright: ignore[reportArgumentType]
    return answers


def scores_of(geometry, *, classes=20, stride=4, smooth=True, seed=0):
    """Logits (K, h, w) on the grid of a network, smooth as a network's or mere noise."""
    rng = np.random.default_rng(seed)
    cells_hw = [side // stride for side in geometry.network_hw]
    noise = rng.standard_normal((classes, *cells_hw)).astype(np.float32)
    if not smooth:
        return noise
    return np.stack([20 * cv2.GaussianBlur(plane, (0, 0), 2) for plane in noise])


def assert_same_labels(found, expected, views):
    """Equal but for one pixel in ten thousand, where two classes are as good as equal."""
    assert found.dtype == expected.dtype == np.uint8
    assert found.shape == expected.shape
    differ = found != expected
    assert differ.mean() <= 1e-4
    if differ.any():
        planes = Planes(views)
        scores = np.stack([planes.read(k).copy() for k in range(planes.num_classes)])[:, differ]
        chosen = [np.take_along_axis(scores, ids[differ][None], 0) for ids in (found, expected)]
        assert np.abs(chosen[0] - chosen[1]).max() < NEAR


def assert_same(ask, views, *, are_logits=True):
    """Labels alone, and labels with confidence."""
    found, expected = ask(lambda: merged_labels(views))
    assert_same_labels(found, expected, views)
    (found, sure), (expected, confidence) = ask(
        lambda: merged_labels_and_confidence(views, are_logits=are_logits)
    )
    assert_same_labels(found, expected, views)
    assert sure.dtype == np.uint8
    agree = found == expected
    assert np.abs(sure.astype(int) - confidence)[agree].max() <= 1


@pytest.mark.cpp
@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "smooth"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "shortest-side"])
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_labels_and_confidence_are_those_of_numpy(both, resize, stride, smooth):
    for size_hw in SIZES:
        geometry = plan(size_hw, InputSpec(size_hw=(64, 96), resize=resize))
        scores = scores_of(geometry, stride=stride, smooth=smooth)
        assert_same(both, [View(scores, geometry)])


@pytest.mark.cpp
@pytest.mark.parametrize("hair", [0, 1e-6, -1e-6], ids=["level", "ahead", "behind"])
def test_classes_a_hair_apart_are_told_apart_as_in_numpy(both, hair):
    geometry = plan((150, 97), InputSpec(size_hw=(64, 96)))
    scores = scores_of(geometry, classes=6)
    twice = np.concatenate([scores, scores + np.float32(hair) * np.abs(scores)])
    assert_same(both, [View(twice, geometry)])
    if hair == 0:
        for labels in both(lambda: merged_labels([View(twice, geometry)])):
            assert labels.max() < len(scores)  # a tie goes to the lower id


@pytest.mark.cpp
def test_mirrored_and_several_views_are_averaged_as_in_numpy(both):
    spec = InputSpec(size_hw=(64, 96))
    for size_hw in SIZES:
        geometries = [plan(size_hw, spec, content_scale=scale) for scale in (1.0, 0.75, 1.5)]
        views = [
            View(scores_of(geometry, seed=10 * i + mirrored), geometry, mirrored)
            for i, geometry in enumerate(geometries)
            for mirrored in (False, True)
        ]
        assert_same(both, views[1:2])
        assert_same(both, views[:2])
        assert_same(both, views)


@pytest.mark.cpp
def test_probabilities_are_their_own_confidence(both):
    geometry = plan((97, 140), InputSpec(size_hw=(64, 96)))
    scores = np.exp(scores_of(geometry) - scores_of(geometry).max(0))
    views = [View(scores / scores.sum(0), geometry, mirrored) for mirrored in (False, True)]

    assert_same(both, views, are_logits=False)
    assert_same(both, views[:1], are_logits=False)


@pytest.mark.cpp
@pytest.mark.parametrize(
    "given",
    [
        lambda scores: scores.astype(np.float16),
        lambda scores: scores.astype(np.float64),
        lambda scores: np.asfortranarray(scores),
        lambda scores: np.repeat(scores, 2, axis=2)[:, :, ::2],
        lambda scores: scores[::-1],
        lambda scores: scores[:1],
        lambda scores: np.concatenate([scores] * 13)[:256] + np.arange(256)[:, None, None] % 7,
    ],
    ids=["float16", "float64", "columns first", "every second", "backwards", "K=1", "K=256"],
)
def test_scores_of_any_type_layout_and_number_are_read(both, asked, given):
    geometry = plan((150, 211), InputSpec(size_hw=(64, 96)))
    view = View(given(scores_of(geometry)), geometry)
    read_only = np.array(view.scores)
    read_only.flags.writeable = False

    merged_labels([view])
    merged_labels([View(read_only, geometry)])
    assert asked == [True, True]
    assert_same(both, [view])


@pytest.mark.cpp
def test_more_classes_than_an_id_can_name_are_refused_as_in_numpy(built, use):
    geometry = Geometry((8, 8), (8, 8), (8, 8))
    scores = np.arange(257, dtype=np.float32)[:, None, None] + np.zeros((257, 2, 2), np.float32)
    for accelerator in (built, NUMPY):
        use(accelerator)
        with pytest.raises(OverflowError):
            label_map(scores, geometry)


@pytest.mark.cpp
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_left_to_numpy(both, asked, value):
    geometry = plan((60, 90), InputSpec(size_hw=(64, 96)))
    scores = scores_of(geometry)
    scores[3, 5, 7] = value

    merged_labels([View(scores, geometry)])
    assert asked == [False]
    found, expected = both(lambda: label_map(scores, geometry))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.cpp
def test_large_photos_have_the_same_labels_whatever_the_threads(built, use):
    use(built)
    geometry = plan((1100, 1000), InputSpec(size_hw=(64, 96)))
    view, before = View(scores_of(geometry), geometry), cv2.getNumThreads()
    photo = np.random.default_rng(0).integers(0, 256, (1100, 1000, 3), dtype=np.uint8)
    answers = []
    try:
        for threads in (1, 2, 7):
            cv2.setNumThreads(threads)
            answers.append((merged_labels([view]), fit(photo, InputSpec(size_hw=(64, 96)))[0]))
    finally:
        cv2.setNumThreads(before)

    for labels, pixels in answers[1:]:
        np.testing.assert_array_equal(labels, answers[0][0])
        np.testing.assert_array_equal(pixels, answers[0][1])


@pytest.mark.cpp
def test_several_threads_may_ask_at_once(built, use):
    use(built)
    spec = InputSpec(size_hw=(64, 96))
    rng = np.random.default_rng(1)
    photos = [rng.integers(0, 256, (100 + i, 333, 3), dtype=np.uint8) for i in range(16)]

    def parse(i):
        pixels, geometry = fit(photos[i], spec)
        view = View(scores_of(geometry, seed=i), geometry)
        return pixels, *merged_labels_and_confidence([view], are_logits=True)

    alone = [parse(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(parse, range(16)))

    for one, other in zip(alone, together, strict=True):
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.cpp
@pytest.mark.parametrize("resize", ["letterbox", "stretch", "shortest-side"])
@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_the_fitted_photo_is_equal_byte_for_byte(both, resize, scale):
    rng = np.random.default_rng(2)
    spec = InputSpec(size_hw=(64, 96), resize=resize)
    sizes = [tuple(int(side) for side in rng.integers(1, 700, 2)) for _ in range(40)]
    for size_hw in (*sizes, *SIZES, (128, 192), (65, 97), (512, 512), (1280, 1024)):
        photo = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        (found, geometry), (expected, same) = both(
            lambda p=photo: fit(p, spec, content_scale=scale)
        )
        assert geometry == same
        np.testing.assert_array_equal(found, expected, err_msg=str(size_hw))


@pytest.mark.cpp
def test_only_what_opencv_does_slowly_is_taken_from_it(asked):
    spec = InputSpec(size_hw=(64, 96))
    for size_hw in ((130, 195), (128, 192), (32, 48)):
        fit(np.full((*size_hw, 3), 9, np.uint8), spec)
    fit(np.full((130, 390, 3), 9, np.uint8)[:, ::2], spec)

    assert asked == [True, False]  # area, whole factors; enlarging and gaps are not asked


@pytest.mark.cpp
def test_the_receipt_names_what_ran(built, use, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    named = []
    for accelerator in (built, NUMPY):
        use(accelerator)
        receipt = Parser(bundle, FakeBackend(bundle)).predict(np.zeros((9, 9, 3), np.uint8)).receipt
        assert receipt is not None
        named.append(receipt.steps)

    assert named == [f"native {STAMP}", "numpy"]


def test_doctor_and_benchmark_name_what_this_process_uses(use):
    use(Accelerator(SimpleNamespace(STAMP=STAMP), "in use"))  # pyright: ignore[reportArgumentType]

    assert examine(lambda *_: Outcome([])).native == "in use"
    assert read_machine_facts(1).versions["steps"] == f"native {STAMP}"


def test_a_build_from_other_sources_is_left_out_with_a_warning(caplog, use):
    with caplog.at_level(logging.WARNING):
        found = find_accelerator({}, lambda _: SimpleNamespace(STAMP=STAMP - 1))

    assert found.module is None
    assert found.name == "numpy"
    assert "make native" in caplog.text
    use(found)
    problems = {each.what: each.remedy for each in examine(lambda *_: Outcome([])).problems}
    assert problems[f"hp_sdk._native is {found.state}"] == "make native"


def test_a_build_that_cannot_be_loaded_is_left_out_with_a_warning(caplog):
    def load(_):
        raise ImportError("undefined symbol")

    found = find_accelerator({}, load)

    assert found.is_stale
    assert "undefined symbol" in caplog.text


def test_without_a_build_there_is_no_warning_and_a_word_on_how_to_get_one(caplog):
    def load(name):
        raise ModuleNotFoundError(name)

    found = find_accelerator({}, load)

    assert found.module is None
    assert not found.is_stale
    assert "make native" in found.state
    assert caplog.text == ""


def test_hp_native_0_leaves_it_out():
    asks = "from hp_sdk.native import accelerator as a; print(a().name, a().state, sep=': ')"
    done = subprocess.run(
        [sys.executable, "-c", asks],
        env=os.environ | {"HP_NATIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert done.stdout.strip() == "numpy: left out, as HP_NATIVE=0 says"
    assert done.stderr == ""


@pytest.mark.parametrize("missing", ["cmake", "c++"])
def test_the_build_says_what_is_missing(tmp_path, missing):
    script = Path(__file__).parents[2] / "cpp_bindings" / "python" / "build.sh"
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    programs = {"bash", "dirname", "basename", "python3", "cmake", "c++"} - {missing}
    for name in programs:
        program = tmp_path / name
        program.write_text(f'#!{bash}\nPATH=/usr/bin:/bin exec {name} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        [bash, str(script)], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 5
    assert done.stderr.startswith("hp_sdk._native needs ")
    assert "apt install" in done.stderr
