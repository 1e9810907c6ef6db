"""Label maps made visible: palettes, legend, cut-outs and windows."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk.domains import Domain, domain_names, load_domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.overlay import (
    VOID,
    blend_labels,
    colorblind_palette,
    cut_out,
    draw_legend,
    paint_labels,
    palette_of,
    show_picture,
)

CIHP = load_domain("cihp")
# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
SIGHTS = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
SRGB_TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def lab_as_seen(palette, sight):
    """CIELAB coordinates (K, 3) of RGB colours in somebody's eyes."""
    colours = np.array(palette) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(SIGHTS[sight]).T, 0, 1)
    xyz = seen @ np.array(SRGB_TO_XYZ).T / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def distances(palette, sight):
    lab = lab_as_seen(palette, sight)
    return np.linalg.norm(lab[:, None] - lab, axis=2)


def touching(domain):
    """Pairs of parts that may lie side by side; all of them where no graph is published."""
    everybody = [(a, b) for a in range(domain.num_classes) for b in range(a)]
    beside_nothing = [(0, k) for k in range(1, domain.num_classes)]
    return everybody if domain.edges is None else [*domain.edges, *beside_nothing]


def entries_of(*names):
    return [(name, CIHP.palette[CIHP.index(name)]) for name in names]


def legend_on(size_hw, entries, avoid=None, shade=128):
    height, width = size_hw
    picture = np.full((height, width, 3), shade, np.uint8)
    avoid = np.zeros((height, width), bool) if avoid is None else avoid
    return draw_legend(picture, entries, avoid=avoid)


def holds(picture, colour):
    return bool((picture == colour).all(axis=2).any())


def covered(picture, shade=128):
    return (picture != shade).any(axis=2)


@pytest.mark.parametrize("sight", ["normal", "protan", "deutan"])
@pytest.mark.parametrize(("domain", "least"), [("pascal", 16), ("atr", 14), ("cihp", 14),
                                               ("lip", 13), ("ccp", 5)])  # fmt: skip
def test_colour_blind_people_tell_touching_parts_apart(domain, least, sight):
    domain = load_domain(domain)
    apart = distances(palette_of(domain, "colorblind"), sight)
    assert min(apart[a, b] for a, b in touching(domain)) > least


def test_tritan_sight_keeps_touching_parts_apart_too():
    for name, least in (("pascal", 14), ("atr", 7), ("cihp", 6), ("ccp", 3)):
        domain = load_domain(name)
        apart = distances(palette_of(domain, "colorblind"), "tritan")
        assert min(apart[a, b] for a, b in touching(domain)) > least


def test_the_domains_own_colours_would_not_pass_that():
    apart = distances(palette_of(CIHP), "protan")
    assert min(apart[a, b] for a, b in touching(CIHP)) < 5


def test_the_colorblind_palette_begins_with_okabe_and_ito_and_repeats_nothing():
    palette = colorblind_palette(60)
    okabe_ito = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
                 (213, 94, 0), (204, 121, 167)]  # fmt: skip
    assert palette[0] == (0, 0, 0)
    assert set(palette[1:8]) == set(okabe_ito)
    assert len({*palette, VOID}) == 61
    assert colorblind_palette(7) == palette[:7]


def test_more_colours_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="has 60 colours and 61 are needed"):
        colorblind_palette(61)


@pytest.mark.parametrize("name", domain_names())
def test_named_palettes_have_a_colour_for_every_part(name):
    domain = load_domain(name)
    for palette in (None, "domain", "colorblind", "voc"):
        assert len(palette_of(domain, palette)) == domain.num_classes
    assert palette_of(domain) == palette_of(domain, "domain") == domain.palette


def test_a_palette_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"no palette 'rainbow'; there are .*colorblind"):
        palette_of(CIHP, "rainbow")
    with pytest.raises(ConfigError, match="has 3 entries; domain 'cihp' needs 20"):
        palette_of(CIHP, [(0, 0, 0)] * 3)
    with pytest.raises(ConfigError, match=r"of 0\.\.255"):
        palette_of(CIHP, [(0, 0, 256)] * 20)


def test_ids_beyond_the_palette_are_beige():
    painted = paint_labels(np.array([[0, 1, 2, 255]], np.uint8), [(1, 2, 3), (4, 5, 6)])
    assert painted.tolist() == [[[1, 2, 3], [4, 5, 6], [*VOID], [*VOID]]]


def test_without_contours_every_pixel_of_a_part_is_tinted_alike():
    labels = np.zeros((20, 20), np.uint8)
    labels[5:15, 5:15] = 2
    photo = np.full((20, 20, 3), 100, np.uint8)
    flat = blend_labels(photo, labels, CIHP.palette, 0.5, contours=False)
    assert (flat[5:15, 5:15] == flat[10, 10]).all()
    np.testing.assert_array_equal(flat[labels == 0], photo[labels == 0])
    assert not (blend_labels(photo, labels, CIHP.palette, 0.5)[5] == flat[5]).all()


def test_the_legend_shows_the_colours_it_is_given():
    picture = legend_on((300, 300), entries_of("hair", "coat"))
    assert holds(picture, CIHP.palette[CIHP.index("hair")])
    assert holds(picture, CIHP.palette[CIHP.index("coat")])
    assert not holds(picture, CIHP.palette[CIHP.index("face")])


def test_a_black_swatch_stays_black_on_any_photo():
    picture = legend_on((300, 300), [("ink", (0, 0, 0))], shade=255)
    assert (picture == 0).all(axis=2).sum() >= 25


@pytest.mark.parametrize("size", [(96, 96), (64, 200), (200, 64), (480, 640), (2000, 1500)])
@pytest.mark.parametrize("count", [1, 3, 19])
def test_the_legend_never_covers_more_than_a_third(size, count):
    names = CIHP.names[1 : count + 1]
    picture = legend_on(size, entries_of(*names))
    share = covered(picture).mean()
    assert share < 0.34
    assert share > 0 or min(size) < 100


def test_a_thumbnail_names_the_largest_parts_and_counts_the_rest():
    picture = legend_on((96, 96), entries_of("coat", "hair", "face", "pants", "dress", "scarf"))
    assert holds(picture, CIHP.palette[CIHP.index("coat")])
    assert not holds(picture, CIHP.palette[CIHP.index("scarf")])


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (40, 12), (12, 400)])
def test_a_picture_too_small_for_a_legend_stays_as_it_is(size):
    assert not covered(legend_on(size, entries_of("upper-clothes", "hair"))).any()


def test_nothing_found_needs_no_legend():
    assert not covered(legend_on((300, 300), [])).any()


def test_the_legend_grows_with_the_picture():
    def swatch(size):
        colour = CIHP.palette[CIHP.index("coat")]
        return (legend_on((size, size), entries_of("coat")) == colour).all(axis=2).sum() ** 0.5

    assert swatch(400) * 3 < swatch(1600)
    assert swatch(400) >= 6


@pytest.mark.parametrize(("top", "left"), [(True, True), (True, False), (False, True),
                                           (False, False)])  # fmt: skip
def test_the_legend_goes_to_the_corner_that_is_free(top, left):
    avoid = np.ones((300, 300), bool)
    rows = slice(0, 150) if top else slice(150, 300)
    columns = slice(0, 150) if left else slice(150, 300)
    avoid[rows, columns] = False
    picture = legend_on((300, 300), entries_of("hair"), avoid=avoid)
    assert covered(picture)[rows, columns].any()
    assert not (covered(picture) & avoid).any()


def test_drawing_a_legend_leaves_the_picture_given():
    picture = np.full((300, 300, 3), 128, np.uint8)
    draw_legend(picture, entries_of("hair"), avoid=np.zeros((300, 300), bool))
    assert (picture == 128).all()


def test_a_cut_out_keeps_nothing_of_the_photo_outside():
    photo = np.full((2, 3, 3), 77, np.uint8)
    alpha = np.array([[255, 128, 0], [0, 0, 0]], np.uint8)
    cut = cut_out(photo, alpha)
    assert cut[0].tolist() == [[77, 77, 77, 255], [77, 77, 77, 128], [0, 0, 0, 0]]
    assert not cut[1].any()


def test_a_cut_out_lies_over_a_colour_or_a_picture():
    photo = np.full((1, 3, 3), 100, np.uint8)
    alpha = np.array([[255, 51, 0]], np.uint8)
    over = cut_out(photo, alpha, (0, 200, 50))
    assert over.tolist() == [[[100, 100, 100, 255], [20, 180, 60, 255], [0, 200, 50, 255]]]
    behind = np.full((1, 3, 3), (0, 200, 50), np.uint8)
    np.testing.assert_array_equal(cut_out(photo, alpha, behind), over)


@pytest.mark.parametrize("background", [(1, 2), (0, 0, 256), np.zeros((3, 1, 3), np.uint8)])
def test_a_background_that_does_not_fit_is_refused(background):
    photo = np.zeros((1, 3, 3), np.uint8)
    with pytest.raises(InputError, match="the background has shape"):
        cut_out(photo, photo[..., 0], background)


PICTURE = np.full((8, 8, 3), (10, 20, 30), np.uint8)


def written_by(capsys, why):
    printed = capsys.readouterr().out
    found = re.fullmatch(rf".*{why}.*; the picture is in (.*\.png)\n", printed)
    assert found, printed
    return Path(found[1])


def test_without_a_display_the_picture_is_written_and_its_place_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = show_picture(PICTURE, title="cihp overlay")
    assert path
    assert path == written_by(capsys, "no display")
    assert path.is_relative_to(tmp_path)
    seen = cv2.imread(str(path))
    assert seen is not None
    np.testing.assert_array_equal(seen[..., ::-1], PICTURE)


def test_an_opencv_without_windows_is_told_from_a_missing_display(monkeypatch, capsys, tmp_path):
    def refuse(*_):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(cv2, "namedWindow", refuse)
    path = show_picture(PICTURE, title="cihp overlay")
    assert path == written_by(capsys, "opencv-python-headless has not")


@pytest.mark.parametrize(("keys", "visible"), [([-1, -1, 27], 1.0), ([-1], 0.0)])
def test_a_window_stays_until_a_key_or_its_closing(monkeypatch, capsys, keys, visible):
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, picture: shown.append((title, picture)))
    monkeypatch.setattr(cv2, "waitKey", lambda _: keys.pop(0))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: visible)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    assert show_picture(PICTURE, title="cihp overlay") is None
    (title, picture), closed = shown
    assert (title, closed, keys) == ("cihp overlay", "closed", [])
    assert picture[0, 0].tolist() == [30, 20, 10]  # OpenCV's order
    assert capsys.readouterr().out == ""


def test_a_users_domain_gets_colours_too():
    domain = Domain("own", ("background", "a", "b"))
    assert palette_of(domain, "colorblind") == colorblind_palette(3)
