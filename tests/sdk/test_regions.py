"""Boxes, centroids, outlines, run lengths and soft edges of masks."""

import cv2
import numpy as np
import pytest

from hp_sdk.errors import ConfigError
from hp_sdk.regions import Rle, box_of, centroid_of, grown, ring_area, rings_of, rle_of, soft_alpha

EMPTY = np.zeros((5, 7), bool)


def mask_of(*rows: str):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def speckles(seed, shape=(23, 31)):
    return np.random.default_rng(seed).random(shape) < 0.5


def blobs(seed, shape=(60, 80)):
    noise = np.random.default_rng(seed).random(shape, np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 4) > 0.5


def disc(radius=30, size=80):
    y, x = np.ogrid[:size, :size]
    return (x + 0.5 - size / 2) ** 2 + (y + 0.5 - size / 2) ** 2 < radius**2


def winding_numbers(rings, shape):
    """How often the rings, taken along their vertical edges, go around each pixel."""
    steps = np.zeros((shape[0], shape[1] + 1), int)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert x0 == x1 or y0 == y1
            low, high = int(min(y0, y1)), int(max(y0, y1))
            steps[low:high, int(x0)] += 1 if y1 < y0 else -1
    return np.cumsum(steps, axis=1)[:, :-1]


def drawn(rings, shape):
    """Pixels whose centre lies within an odd number of the rings, (H, W) bool."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y0 != y1:
                crosses = (y0 > y) != (y1 > y)
                inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def decompressed(text):
    """The counts behind COCO's text, read by the format's definition."""
    counts, bits, position = [], 0, 0
    for code in (ord(character) - 48 for character in text):
        bits |= (code & 31) << position
        position += 5
        if not code & 32:
            value = bits - (1 << position) if code & 16 else bits
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            bits, position = 0, 0
    return counts


def decoded(counts, shape):
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(shape[::-1]).T.astype(bool)


def test_a_box_is_half_open():
    mask = mask_of(".....", "..#..", ".....", "...#.")
    box = box_of(mask)
    assert box
    assert box == (2, 1, 4, 4)
    x0, y0, x1, y1 = box
    assert np.count_nonzero(mask[y0:y1, x0:x1]) == np.count_nonzero(mask)


def test_the_box_of_everything_is_the_picture():
    assert box_of(np.ones((5, 7), bool)) == (0, 0, 7, 5)
    assert box_of(np.asfortranarray(np.ones((5, 7), bool))) == (0, 0, 7, 5)


def test_nothing_has_no_box_no_centroid_and_no_outline():
    assert box_of(EMPTY) is None
    assert centroid_of(EMPTY) is None
    assert rings_of(EMPTY) == []


def test_a_box_grows_up_to_the_border():
    assert grown((2, 1, 4, 4), (1, 2), (10, 10)) == (1, 0, 5, 6)
    assert grown((2, 1, 9, 9), (3, 3), (10, 10)) == (0, 0, 10, 10)


def test_the_centroid_of_one_pixel_is_its_middle():
    mask = EMPTY.copy()
    mask[3, 5] = True
    assert centroid_of(mask) == (5.5, 3.5)


def test_the_centroid_is_the_mean_of_the_pixel_centres():
    for seed in range(3):
        mask = speckles(seed)
        y, x = np.nonzero(mask)
        assert centroid_of(mask) == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))


def test_run_lengths_go_down_the_columns_and_start_with_zeros():
    assert rle_of(mask_of(".#", "##")) == Rle((2, 2), (1, 3))
    assert rle_of(mask_of("#.", "..", "..")) == Rle((3, 2), (0, 1, 5))
    assert rle_of(EMPTY) == Rle((5, 7), (35,))
    assert rle_of(~EMPTY) == Rle((5, 7), (0, 35))


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((1, 3), "13"),
        ((0, 16), "0`0"),  # bit 4 alone would be a sign
        ((15, 1), "?1"),
        ((32,), "P1"),
        ((1024,), "PP1"),
        # Steps 6 1 40, then 4-1 5-40 4-4 5-5 4-4 21-5.
        ((6, 1, 40, 4, 5, 4, 5, 4, 21), "61X13mN000`0"),
    ],
)
def test_compressed_counts_are_the_known_text(counts, text):
    assert Rle((1, sum(counts)), counts).compressed == text


@pytest.mark.parametrize("mask", [speckles(1), blobs(2), disc(), EMPTY, ~EMPTY, ~disc(4, 200)])
def test_masks_survive_run_lengths_and_their_text(mask):
    rle = rle_of(mask)
    assert tuple(decompressed(rle.compressed)) == rle.counts
    np.testing.assert_array_equal(decoded(rle.counts, rle.size_hw), mask)


def test_run_lengths_do_not_depend_on_the_order_in_memory():
    assert rle_of(np.asfortranarray(blobs(3))) == rle_of(blobs(3))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("mask", [speckles(4), blobs(5), disc(), EMPTY, ~EMPTY, ~disc(4, 200)])
def test_pycocotools_writes_and_reads_the_same(mask):
    coco = pytest.importorskip(
        "pycocotools.mask", reason="pycocotools is missing: pip install pycocotools"
    )
    ours = rle_of(mask).to_coco()
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(coco.decode(ours), mask)


@pytest.mark.parametrize("seed", range(6))
def test_exact_outlines_go_once_around_each_pixel_of_the_mask_and_no_other(seed):
    for mask in (speckles(seed), blobs(seed), ~blobs(seed)):
        rings = rings_of(mask)
        np.testing.assert_array_equal(winding_numbers(rings, mask.shape), mask)
        assert sum(ring_area(ring) for ring in rings) == mask.sum()


def test_an_outline_follows_the_edges_of_the_pixels_clockwise():
    (ring,) = rings_of(mask_of("....", ".##.", "...."))
    assert ring.dtype == np.float32
    assert ring.tolist() == [[1, 1], [3, 1], [3, 2], [1, 2]]
    assert ring_area(ring) == 2


def test_a_hole_follows_its_outer_ring_and_runs_the_other_way():
    mask = mask_of("#####....", "#...#.###", "#.#.#.#.#", "#...#.###", "#####....")
    areas = [ring_area(ring) for ring in rings_of(mask)]
    assert areas == [25, -9, 9, -1, 1]


def test_pixels_that_meet_at_a_corner_have_outlines_of_their_own():
    for mask in (mask_of("#.", ".#"), mask_of(".#", "#.")):
        assert [ring_area(ring) for ring in rings_of(mask)] == [1, 1]
    holes = [ring_area(ring) for ring in rings_of(mask_of("####", "#.##", "##.#", "####"))]
    assert holes == [16, -2]


def test_outlines_have_corners_only_where_they_turn():
    for ring in rings_of(speckles(8)):
        ahead, behind = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
        assert not (ahead * behind).any()


def test_a_simplified_outline_has_few_points_and_stays_near():
    mask = disc()
    (exact,), (few,) = rings_of(mask), rings_of(mask, epsilon_px=1.0)
    assert len(few) < len(exact) / 4
    assert ring_area(few) == pytest.approx(mask.sum(), rel=0.03)
    radius = np.hypot(*(few - 40).T)
    assert np.abs(radius - 30).max() < 1.5


@pytest.mark.parametrize("seed", range(4))
def test_simplified_outlines_lose_neither_parts_nor_holes(seed):
    for mask in (speckles(seed), blobs(seed)):
        exact, few = rings_of(mask), rings_of(mask, epsilon_px=1.5)
        assert np.sign([ring_area(r) for r in few]).tolist() == [
            np.sign(ring_area(r)) for r in exact
        ]
        assert all(len(ring) >= 3 for ring in few)
    found = drawn(few, mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.9


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ConfigError, match="epsilon_px is -1"):
        rings_of(disc(), epsilon_px=-1)
    with pytest.raises(ConfigError, match="epsilon_px is nan"):
        rings_of(disc(), epsilon_px=float("nan"))


def test_a_hard_edge_is_all_or_nothing():
    mask = blobs(9)
    np.testing.assert_array_equal(soft_alpha(mask, 0), np.where(mask, 255, 0))


def test_a_soft_edge_is_a_ramp_with_its_middle_on_the_outline():
    mask = np.zeros((9, 40), bool)
    mask[:, 20:] = True
    alpha = soft_alpha(mask, 8)
    # Pixel centres lie half a pixel from the edge: 255 * (0.5 + 0.5 / 8), then 1 / 8 more each.
    expected = [0, 0, 16, 48, 80, 112, 143, 175, 207, 239, 255, 255]
    np.testing.assert_allclose(alpha[4, 14:26], expected, atol=1)
    assert (alpha == alpha[:1]).all()


def test_a_thin_part_stays_visible_however_wide_the_feather():
    mask = np.zeros((20, 60), bool)
    mask[9:11] = True
    assert soft_alpha(mask, 12)[9:11].min() > 127


def test_what_reaches_the_border_stays_opaque_there():
    assert (soft_alpha(~EMPTY, 6) == 255).all()
    assert not soft_alpha(EMPTY, 6).any()


def test_a_negative_feather_is_refused():
    with pytest.raises(ConfigError, match="feather_px is -2"):
        soft_alpha(EMPTY, -2)
