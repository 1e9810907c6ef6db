"""A photo larger than the network's input is read through windows, and a small one as ever."""

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.bundle import InputSpec, read_bundle, write_manifest
from hp_sdk.domains import load_domain
from hp_sdk.errors import SchemaMismatch
from hp_sdk.preprocess import fit, plan
from hp_sdk.recipe import preprocess_hash
from hp_sdk.testing import FakeBackend, make_bundle, palette_oracle
from hp_sdk.tta import TTA
from hp_sdk.windows import Mosaic, canvas_hw, corners, window_of

CIHP = load_domain("cihp")
PAPER = InputSpec(size_hw=(480, 480), resize="shortest-side", stride_hw=(320, 320))
SMALL = InputSpec(size_hw=(64, 64), resize="shortest-side")


def picture(height, width, seed=0):
    """Blocks of 16 pixels in the colours of parts, and their ids."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, CIHP.num_classes, (-(-height // 16), -(-width // 16)))
    labels = blocks.repeat(16, 0).repeat(16, 1)[:height, :width].astype(np.uint8)
    return np.array(CIHP.palette, np.uint8)[labels], labels


def blind_to_its_place(batch, head):
    """What a cell says depends on the window it is in: its logits are scaled by the mean colour."""
    brightness = batch.mean((1, 2, 3), dtype=np.float32)[:, None, None, None]
    return palette_oracle(batch, head) * (1 + brightness / 255)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", resize="shortest-side")


@pytest.mark.parametrize(
    ("source", "content", "windows"),
    [
        ((480, 480), (480, 480), [(0, 0)]),
        ((960, 960), (480, 480), [(0, 0)]),
        ((480, 800), (480, 800), [(0, 0), (0, 320)]),
        ((800, 480), (800, 480), [(0, 0), (320, 0)]),
        ((480, 700), (480, 700), [(0, 0), (0, 224)]),
        ((480, 1441), (480, 1441), [(0, 0), (0, 320), (0, 640), (0, 960), (0, 992)]),
    ],
)
def test_windows_lie_a_stride_apart_and_the_last_ends_with_the_photo(source, content, windows):
    geometry = plan(source, PAPER)

    assert geometry.content_hw == content
    assert corners(geometry.network_hw, PAPER) == windows


@pytest.mark.parametrize("spec", [PAPER, SMALL, InputSpec(size_hw=(36, 100))], ids=str)
@pytest.mark.parametrize("content", [(1, 1), (64, 65), (500, 333), (97, 2000)])
def test_windows_cover_the_whole_canvas_and_nothing_else(spec, content):
    canvas = canvas_hw(content, spec)
    seen = np.zeros(canvas, int)

    for top, left in corners(canvas, spec):
        part = seen[top : top + spec.size_hw[0], left : left + spec.size_hw[1]]
        assert part.shape == spec.size_hw
        assert (top % 4, left % 4) == (0, 0)
        part += 1

    assert seen.min() >= 1
    needed = np.maximum(content, spec.size_hw)
    assert (np.array(canvas) < needed + 32).all()


def test_a_narrow_photo_is_not_blown_up_without_end():
    assert plan((12_000, 100), PAPER).content_hw == (1920, 16)
    longer = InputSpec(size_hw=(480, 480), resize="shortest-side", longest_px=2048)
    assert plan((100, 12_000), longer).content_hw == (17, 2048)


def test_the_canvas_holds_the_photo_and_padding():
    image, _ = picture(64, 150)

    pixels, geometry = fit(image, SMALL)

    assert pixels.shape == (1, 64, 160, 3)
    assert (geometry.content_hw, geometry.network_hw) == ((64, 150), (64, 160))
    np.testing.assert_array_equal(pixels[0, :, :150], image)
    assert (pixels[0, :, 150:] == SMALL.pad_value).all()


def test_a_mosaic_is_the_mean_where_windows_overlap():
    canvas = (64, 96)
    rng = np.random.default_rng(0)
    answers = {at: rng.standard_normal((3, 16, 16)) for at in corners(canvas, SMALL)}
    total, count = np.zeros((3, 16, 24)), np.zeros((16, 24))
    mosaic = Mosaic(canvas, SMALL)
    for (top, left), logits in answers.items():
        mosaic.add((top, left), logits)
        total[:, top // 4 : top // 4 + 16, left // 4 : left // 4 + 16] += logits
        count[top // 4 : top // 4 + 16, left // 4 : left // 4 + 16] += 1

    assert list(answers) == [(0, 0), (0, 32)]
    assert set(count.ravel()) == {1, 2}
    np.testing.assert_allclose(mosaic.mean(), total / count, atol=1e-6)


def test_the_answer_to_an_only_window_is_passed_on_as_it_is():
    mosaic = Mosaic((64, 64), SMALL)
    logits = np.zeros((3, 16, 16), np.float16)
    mosaic.add((0, 0), logits)

    assert mosaic.mean() is logits


@pytest.mark.parametrize("tta", [None, "flip", TTA(scales=(1.0, 0.5))], ids=str)
@pytest.mark.parametrize("size", [(64, 64), (200, 200)])
def test_a_photo_that_fits_one_window_is_answered_as_without_windows(tmp_path, size, tta):
    image, _ = picture(*size)
    plain, windowed = (
        make_bundle(tmp_path / resize, resize=resize) for resize in ("letterbox", "shortest-side")
    )

    results = [
        Parser(each, FakeBackend(each, blind_to_its_place)).predict(
            image, tta=tta, confidence=True, logits=True
        )
        for each in (plain, windowed)
    ]

    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    np.testing.assert_array_equal(results[0].confidence, results[1].confidence)
    np.testing.assert_array_equal(results[0].logits, results[1].logits)


@pytest.mark.parametrize("size", [(64, 300), (300, 64), (64, 129), (200, 999)])
def test_a_large_photo_is_answered_everywhere(bundle, size):
    image, labels = picture(*size)

    answer = Parser(bundle, FakeBackend(bundle, batch_max=3)).predict(image).labels

    content = plan(size, bundle.input).content_hw
    alike = (answer == labels).mean()
    assert alike > (0.85 if content == size else 0.4)  # cells of 4 pixels blur borders of blocks


def test_the_mean_of_windows_decides_where_they_disagree(bundle):
    """The oracle sees the whole window, so overlapping windows answer the same cell otherwise."""
    image, _ = picture(64, 96, seed=3)
    pixels, geometry = fit(image, bundle.input)
    backend = FakeBackend(bundle, blind_to_its_place)
    left, right = (
        backend.run(np.ascontiguousarray(window_of(pixels, at, bundle.input)))["logits.cihp"][0]
        for at in corners(geometry.network_hw, bundle.input)
    )

    logits = Parser(bundle, backend).predict(image, logits=True).logits

    assert logits is not None
    assert logits.shape == (20, 16, 24)
    np.testing.assert_array_equal(logits[..., :8], left[..., :8])
    np.testing.assert_allclose(logits[..., 8:16], (left[..., 8:] + right[..., :8]) / 2, rtol=1e-6)
    assert not np.allclose(left[..., 8:], right[..., :8])


def test_windows_are_run_a_few_at_a_time(bundle):
    backend = FakeBackend(bundle, batch_max=4)

    Parser(bundle, backend).predict(picture(64, 640)[0])

    assert sum(backend.batches) == len(corners((64, 256), bundle.input))
    assert max(backend.batches) <= 4


def test_photos_with_and_without_windows_share_a_batch(bundle):
    photos = [picture(*size, seed)[0] for seed, size in enumerate([(64, 64), (64, 200), (90, 64)])]
    parser = Parser(bundle, FakeBackend(bundle, blind_to_its_place))

    together = parser.predict(photos, tta="flip", confidence=True)

    for photo, result in zip(photos, together, strict=True):
        alone = parser.predict(photo, tta="flip", confidence=True)
        np.testing.assert_array_equal(result.labels, alone.labels)
        np.testing.assert_array_equal(result.confidence, alone.confidence)


@pytest.mark.parametrize("name", ["graphonomy+flip", "schnet", TTA(scales=(1.0, 2.0))])
def test_larger_scales_read_a_letterboxed_photo_through_windows(tmp_path, name):
    bundle = make_bundle(tmp_path / "bundle")
    image, labels = picture(64, 64)
    backend = FakeBackend(bundle)

    result = Parser(bundle, backend).predict(image, tta=name)

    assert (result.labels == labels).mean() > 0.85
    assert sum(backend.batches) > TTA_VIEWS.get(str(name), 2)


TTA_VIEWS = {"graphonomy+flip": 12, "schnet": 4}


def test_at_twice_the_size_finer_parts_are_found(tmp_path):
    """Stripes of two pixels are half a cell: only at a larger scale does a cell see one colour."""
    bundle = make_bundle(tmp_path / "bundle")
    labels = np.zeros((64, 64), np.uint8)
    labels[2::4] = labels[3::4] = CIHP.index("dress")
    image = np.array(CIHP.palette, np.uint8)[labels]
    parser = Parser(bundle, FakeBackend(bundle))

    plain = (parser.predict(image).labels == labels).mean()
    larger = (parser.predict(image, tta=TTA(scales=(2.0,))).labels == labels).mean()

    assert plain < 0.6
    assert larger > 0.9


def test_a_bundle_states_its_windows_and_reads_them_back(bundle, tmp_path):
    assert bundle.input.window_stride_hw == (32, 32)
    text = (bundle.root / "bundle.json").read_text()
    stated = text.replace('"layout"', '"stride_hw": [64, 32], "longest_px": 300, "layout"')
    (bundle.root / "bundle.json").write_text(stated)

    read = read_bundle(bundle.root)

    assert (read.input.window_stride_hw, read.input.longest_px) == ((64, 32), 300)
    (tmp_path / "again").mkdir()
    write_manifest(read, tmp_path / "again")
    assert read_bundle(tmp_path / "again").input == read.input


@pytest.mark.parametrize("stride", ["[33, 32]", "[96, 32]", "[0, 32]", "32"])
def test_strides_that_leave_gaps_or_split_cells_are_refused(bundle, stride):
    text = (bundle.root / "bundle.json").read_text()
    wrong = text.replace('"layout"', f'"stride_hw": {stride}, "layout"')
    (bundle.root / "bundle.json").write_text(wrong)

    with pytest.raises(SchemaMismatch, match="stride_hw"):
        read_bundle(bundle.root)


def test_a_bundle_without_windows_is_written_as_before(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")

    assert not {"stride_hw", "longest_px"} & bundle.input.to_dict().keys()
    assert preprocess_hash(bundle.input) != preprocess_hash(
        InputSpec(size_hw=(64, 64), stride_hw=(32, 32))
    )
