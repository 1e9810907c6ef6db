"""Label maps and photographs as the datasets store them, and the checks before training."""

import io
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import BackendUnavailable, ConfigError, DataError
from hp_sdk.png import write_labels
from hp_trainer.data import PhotoSet
from hp_trainer.layouts import PhotoOptions

SIZE_HW = (6, 8)
RNG = np.random.default_rng(0)
ON_ALL = PhotoOptions(full_check=True)


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_neutral(root: Path, count: int = 1) -> None:
    """Photographs and label maps, all of id 1, named 000, 001, ..."""
    names = [f"{k:03d}" for k in range(count)]
    for name in names:
        write(root / "images" / f"{name}.jpg", encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8)))
        write(root / "labels" / f"{name}.png", encoded(".png", np.ones(SIZE_HW, np.uint8)))
    write(root / "train.txt", "\n".join(names).encode())


def write_pascal(root: Path, label: bytes) -> None:
    """One photograph of PASCAL-Person-Part with this label file."""
    photo = encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8))
    write(root / "JPEGImages" / "2008_000008.jpg", photo)
    write(root / "SegmentationPart" / "2008_000008.png", label)
    write(root / "list" / "train_id.txt", b"2008_000008\n")


def painted(ids: np.ndarray, colours: np.ndarray) -> bytes:
    """RGBA picture of a label map."""
    rgba = np.dstack([colours[ids], np.full(ids.shape, 255)]).astype(np.uint8)
    return encoded(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))


def test_coloured_labels_are_refused_by_file_name(tmp_path: Path):
    """T-73: some published maps of PASCAL-Person-Part are pictures."""
    palette = np.array(load_domain("pascal").palette)
    write_pascal(tmp_path, painted(np.zeros(SIZE_HW, int), palette))
    with pytest.raises(DataError, match=r"2008_000008\.png is a coloured picture.*decode_colors"):
        PhotoSet(tmp_path, {"pascal": "labels"}, "train")


def test_coloured_labels_are_decoded_when_asked_even_if_slightly_off(tmp_path: Path):
    """T-73: (126, 0, 0) and (126, 126, 1) stand for the palette's (128, 0, 0) and (128, 128, 0)."""
    ids = np.arange(48).reshape(SIZE_HW) % 8
    palette = np.array([*load_domain("pascal").palette, (224, 224, 192)])
    off = np.where(palette == 128, 126, palette)
    off[3] = (126, 126, 1)
    write_pascal(tmp_path, painted(ids, off))
    photos = PhotoSet(tmp_path, {"pascal": "labels"}, "train", 0, PhotoOptions(decode_colors=True))
    label = photos.load(0, RNG)[1]["pascal"]
    np.testing.assert_array_equal(label, np.where(ids == 7, 255, ids))


def test_labels_painted_in_foreign_colours_are_not_decoded(tmp_path: Path):
    ids = np.arange(48).reshape(SIZE_HW) % 4
    write_pascal(tmp_path, painted(ids, np.array(load_domain("cihp").palette)))
    options = PhotoOptions(decode_colors=True)
    with pytest.raises(DataError, match=r"in other colours than the palette, such as \("):
        PhotoSet(tmp_path, {"pascal": "labels"}, "train", 0, options)


def test_decoding_colours_leaves_stored_ids_alone(tmp_path: Path):
    ids = (np.arange(48).reshape(SIZE_HW) % 7).astype(np.uint8)
    write_neutral(tmp_path)
    write_labels(tmp_path / "labels" / "000.png", ids, load_domain("cihp").palette)
    photos = PhotoSet(tmp_path, {"pascal": "labels"}, "train", 0, PhotoOptions(decode_colors=True))
    np.testing.assert_array_equal(photos.load(0, RNG)[1]["pascal"], ids)


def test_colours_of_an_unknown_domain_cannot_be_decoded(tmp_path: Path):
    write_neutral(tmp_path)
    with pytest.raises(ConfigError, match="no domain 'mine'"):
        PhotoSet(tmp_path, {"mine": "labels"}, "train", 0, PhotoOptions(decode_colors=True))


def test_a_grey_photograph_is_read_as_rgb(tmp_path: Path):
    """T-72: a few of ATR's are grey."""
    write_neutral(tmp_path)
    write(tmp_path / "images" / "000.jpg", encoded(".jpg", np.full(SIZE_HW, 90, np.uint8)))
    image = PhotoSet(tmp_path, {"cihp": "labels"}, "train").load(0, RNG)[0]
    assert image.shape == (*SIZE_HW, 3)
    assert np.abs(image.astype(int) - 90).max() <= 2


def test_exif_orientation_is_ignored_as_the_labels_ignore_it(tmp_path: Path):
    write_neutral(tmp_path)
    jpeg = encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8))
    tiff = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    block = b"\xff\xe1" + struct.pack(">H", len(tiff) + 2) + tiff
    write(tmp_path / "images" / "000.jpg", jpeg[:2] + block + jpeg[2:])
    turned = cv2.imread(str(tmp_path / "images" / "000.jpg"))
    assert turned is not None
    assert turned.shape[:2] == SIZE_HW[::-1]  # a viewer would turn it
    assert PhotoSet(tmp_path, {"cihp": "labels"}, "train").load(0, RNG)[0].shape[:2] == SIZE_HW


def test_photographs_without_their_last_bytes_are_used_in_atr_only(tmp_path: Path):
    """T-72: ATR was published with some; in a user's own set they are damage."""
    whole = encoded(".jpg", np.full((64, 48, 3), 120, np.uint8))
    label = encoded(".png", np.ones((64, 48), np.uint8))
    write(tmp_path / "atr" / "JPEGImages" / "dataset10k_1.jpg", whole[:-4])
    write(tmp_path / "atr" / "SegmentationClassAug" / "dataset10k_1.png", label)
    image = PhotoSet(tmp_path / "atr", {"atr": "labels"}, "all").load(0, RNG)[0]
    assert np.abs(image[:32].astype(int) - 120).max() <= 2
    write_neutral(tmp_path / "own")
    write(tmp_path / "own" / "images" / "000.jpg", whole[:-4])
    with pytest.raises(DataError, match=r"000\.jpg cannot be decoded"):
        PhotoSet(tmp_path / "own", {"atr": "labels"}, "train")


def test_every_missing_file_is_counted_and_ten_are_named(tmp_path: Path):
    write_neutral(tmp_path, 14)
    for k in range(12):
        (tmp_path / "labels" / f"{k:03d}.png").unlink()
    with pytest.raises(DataError, match=r"lacks 12 listed files") as caught:
        PhotoSet(tmp_path, {"cihp": "labels"}, "train")
    assert str(caught.value).count(".png") == 10
    assert "labels/009.png" in str(caught.value)


def test_a_sample_is_read_at_once_and_the_rest_when_asked(tmp_path: Path):
    write_neutral(tmp_path, 40)
    write(tmp_path / "labels" / "001.png", encoded(".png", np.full(SIZE_HW, 20, np.uint8)))
    photos = PhotoSet(tmp_path, {"cihp": "labels"}, "train")  # 001 is not in the sample
    with pytest.raises(DataError, match=r"001\.png holds id 20; domain cihp has 0\.\.19 and 255"):
        photos.load(1, RNG)
    with pytest.raises(DataError, match=r"1 of 40 photographs checked .*001\.png holds id 20"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train", 0, ON_ALL)
    write(tmp_path / "labels" / "000.png", encoded(".png", np.full(SIZE_HW, 20, np.uint8)))
    with pytest.raises(DataError, match=r"1 of 16 photographs checked .*000\.png holds id 20"):
        PhotoSet(tmp_path, {"cihp": "labels"}, "train")


def test_ignored_pixels_are_no_wrong_ids(tmp_path: Path):
    write_neutral(tmp_path)
    write(tmp_path / "labels" / "000.png", encoded(".png", np.full(SIZE_HW, 255, np.uint8)))
    assert PhotoSet(tmp_path, {"pascal": "labels"}, "train").load(0, RNG)[1]["pascal"].min() == 255


def test_sizes_are_compared_in_published_layouts_too(tmp_path: Path):
    write_pascal(tmp_path, encoded(".png", np.zeros((6, 9), np.uint8)))
    with pytest.raises(DataError, match=r"2008_000008\.png is 9x6, its image 8x6"):
        PhotoSet(tmp_path, {"pascal": "labels"}, "train")


MHP = {"names": ["background", *(f"part-{k}" for k in range(1, 59))]}


def write_mhp(root: Path) -> None:
    """T-76: photograph 25 with two persons, ids in the red channel, other channels noise."""
    write(root / "train" / "images" / "25.jpg", encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8)))
    for person, (left, right, part) in enumerate([(0, 5, 3), (4, 8, 58)], start=1):
        bgr = np.full((*SIZE_HW, 3), 77, np.uint8)
        bgr[..., 2] = 0
        bgr[:, left:right, 2] = part
        path = root / "train" / "parsing_annos" / f"25_02_{person:02d}.png"
        write(path, encoded(".png", bgr))
    write(root / "list" / "train.txt", b"25\n")


def open_mhp(root: Path, count: int = 59) -> PhotoSet:
    domain = Domain.from_dict({"names": MHP["names"][:count]}, name="mhp2")
    return PhotoSet(root, {"mhp2": "labels"}, "train", 0, PhotoOptions(domains=(domain,)))


@pytest.mark.parametrize("folder", ["", "LV-MHP-v2"])
def test_persons_are_painted_into_one_label_map(tmp_path: Path, folder: str):
    """T-76: where two overlap, the later one shows."""
    write_mhp(tmp_path / folder)
    photos = open_mhp(tmp_path)
    assert (photos.layout, photos.ids) == ("mhp-v2", ["25"])
    assert photos.load(0, RNG)[1]["mhp2"][0].tolist() == [3, 3, 3, 3, 58, 58, 58, 58]


def test_ids_of_persons_are_checked_against_the_users_domain(tmp_path: Path):
    """T-76."""
    write_mhp(tmp_path)
    with pytest.raises(DataError, match=r"holds id 58; domain mhp2 has 0\.\.57"):
        open_mhp(tmp_path, 58)


def test_a_person_whose_file_is_missing_is_noticed(tmp_path: Path):
    """T-76: the names say how many there are."""
    write_mhp(tmp_path)
    (tmp_path / "train" / "parsing_annos" / "25_02_02.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 listed files.*25_nn_mm\.png"):
        open_mhp(tmp_path)


def test_mhp_is_not_taken_for_a_built_in_domain_of_as_many_classes(tmp_path: Path):
    """T-76: CCP has 59 classes, too."""
    write_mhp(tmp_path)
    with pytest.raises(DataError, match=r"looks like layout mhp-v2.*not ccp"):
        PhotoSet(tmp_path, {"ccp": "labels"}, "train")


@pytest.fixture(scope="module")
def ccp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T-75: all 1,004 label files of CCP, tiny, each the same."""
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, which reads .mat files")
    root = tmp_path_factory.mktemp("ccp")
    stream = io.BytesIO()
    scipy_io.savemat(stream, {"groundtruth": np.full(SIZE_HW, 58, np.uint8)})
    photo = encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8))
    for number in range(1, 1005):
        write(root / "photos" / f"{number:04d}.jpg", photo)
        write(root / "annotations" / "pixel-level" / f"{number:04d}.mat", stream.getvalue())
    return root


def test_ccp_is_split_the_same_way_everywhere(ccp: Path):
    """T-75: nobody publishes a split, so the first ids of ours are pinned."""
    train, val = (PhotoSet(ccp, {"ccp": "labels"}, split) for split in ("train", "val"))
    assert (train.layout, len(train), len(val)) == ("ccp", 904, 100)
    assert len({*train.ids, *val.ids}) == 1004
    assert val.ids[:4] == ["0003", "0005", "0008", "0023"]
    assert PhotoSet(ccp, {"ccp": "labels"}, "all").load(0, RNG)[1]["ccp"].tolist() == [[58] * 8] * 6


def test_matlab_files_need_scipy(ccp: Path, monkeypatch: pytest.MonkeyPatch):
    """T-75: it is an optional dependency."""
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(BackendUnavailable, match="pip install scipy"):
        PhotoSet(ccp, {"ccp": "labels"}, "val")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no matlab file at all, but long enough to look at" * 9, "cannot be read as a MATLAB"),
        (b"", "cannot be read as a MATLAB"),
        ({"tags": np.array([[1, 2]], np.uint8)}, "has no variable groundtruth; it has tags"),
        ({"groundtruth": np.full(SIZE_HW, 300, np.uint16)}, "is uint16"),
        ({"groundtruth": np.full(SIZE_HW, 0.5)}, "is float64"),
    ],
)
def test_a_damaged_matlab_file_is_named(tmp_path: Path, content: object, said: str):
    """T-75."""
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, which reads .mat files")
    photo = encoded(".jpg", np.zeros((*SIZE_HW, 3), np.uint8))
    write(tmp_path / "photos" / "0001.jpg", photo)
    stream = io.BytesIO(content if isinstance(content, bytes) else b"")
    if isinstance(content, dict):
        scipy_io.savemat(stream, content)
    write(tmp_path / "annotations" / "pixel-level" / "0001.mat", stream.getvalue())
    with pytest.raises(DataError, match=rf"0001\.mat {said}"):
        PhotoSet(tmp_path, {"ccp": "labels"}, "all", 1)
