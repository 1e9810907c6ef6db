"""People of one set pasted onto the photographs of another: what each label map may say then."""

import json
from pathlib import Path

import numpy as np
import pytest

from hp_sdk.domains import load_domain
from hp_sdk.errors import ConfigError
from hp_trainer import collage
from hp_trainer.augment import AugmentConfig, Sample
from hp_trainer.collage import CollageSet, body
from hp_trainer.config import load_config
from hp_trainer.data import AugmentedSamples, open_sets
from hp_trainer.paperdolls import write_dataset

GREEN, RED = (0, 200, 0), (200, 0, 0)
ATR, PASCAL = load_domain("atr"), load_domain("pascal")


class Fixed:
    """One sample again and again."""

    def __init__(self, image: np.ndarray, **labels: np.ndarray) -> None:
        self.sample: Sample = (image, labels)
        self.domains = tuple(labels)

    def __len__(self) -> int:
        return 5

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        del index, rng
        return self.sample


def painted(colour, h, w):
    return np.full((h, w, 3), colour, np.uint8)


def person():
    """A green figure whose left half is the left arm, whose right half is the right one."""
    label = np.zeros((40, 20), np.uint8)
    label[4:36, 4:10], label[4:36, 10:16] = ATR.indices("left-arm", "right-arm")
    image = np.where(label[..., None] > 0, GREEN, (90, 90, 90)).astype(np.uint8)
    return Fixed(image, atr=label)


def place():
    """A red scene; a person of its own fills the left quarter."""
    label = np.zeros((60, 80), np.uint8)
    label[:, :20] = PASCAL.index("torso")
    return Fixed(painted(RED, 60, 80), pascal=label)


def views(count=40):
    drawn = CollageSet(person(), place(), {"atr": ATR})
    return [drawn.load(0, np.random.default_rng(seed)) for seed in range(count)]


def test_labels_change_exactly_where_a_person_was_pasted():
    for image, labels in views():
        pasted = labels["pascal"] == 255
        assert pasted.any()
        assert set(np.unique(labels["atr"][pasted])) <= {*ATR.indices("left-arm", "right-arm"), 0}
        assert (labels["atr"][~pasted] != 0).any() == (~pasted[:, :20]).any()
        own = ~pasted & (place().sample[1]["pascal"] > 0)
        assert (labels["atr"][own] == 255).all()
        assert (labels["atr"][~pasted & ~own] == 0).all()
        far = np.array(image[~pasted], int) - RED
        assert (np.abs(far).max(1) == 0).mean() > 0.7  # but for soft outlines


def test_pixels_of_the_person_are_where_its_labels_are():
    for image, labels in views():
        parts = np.isin(labels["atr"], ATR.indices("left-arm", "right-arm"))
        greener = image[..., 1].astype(int) > image[..., 0]
        assert (greener == parts).mean() > 0.97


def test_a_mirrored_person_keeps_its_left_arm_on_the_same_side(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collage, "MOST", 1)  # nobody in front
    left_id, right_id = ATR.indices("left-arm", "right-arm")
    for _, labels in views():
        left, right = (np.nonzero(labels["atr"] == i)[1] for i in (left_id, right_id))
        if len(left) and len(right):
            assert left.mean() < right.mean()  # mirrored pixels swap their ids


def test_neither_source_is_written_to():
    people, places = person(), place()
    before = [a.copy() for s in (people, places) for a in (s.sample[0], *s.sample[1].values())]
    for seed in range(10):
        CollageSet(people, places, {"atr": ATR}).load(0, np.random.default_rng(seed))
    after = [a for s in (people, places) for a in (s.sample[0], *s.sample[1].values())]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_same_numbers_draw_the_same_picture():
    first, second = views(3), views(3)
    for (a, la), (b, lb) in zip(first, second, strict=True):
        assert np.array_equal(a, b)
        assert all(np.array_equal(la[k], lb[k]) for k in la)


def test_body_is_what_any_domain_calls_person():
    a = np.array([[0, 1, 255, 0]], np.uint8)
    b = np.array([[0, 0, 0, 7]], np.uint8)
    assert body([a, b]).tolist() == [[False, True, False, True]]


def test_in_a_domain_of_both_everything_is_known():
    label = np.zeros((40, 20), np.uint8)
    label[4:36, 4:16] = PASCAL.index("head")
    people = Fixed(
        np.where(label[..., None] > 0, GREEN, (90, 90, 90)).astype(np.uint8), pascal=label
    )
    drawn = CollageSet(people, place(), {"pascal": PASCAL})
    assert drawn.domains == ("pascal",)
    before = place().sample[1]["pascal"]
    for seed in range(20):
        image, labels = drawn.load(0, np.random.default_rng(seed))
        pasted = labels["pascal"] == PASCAL.index("head")
        assert pasted.any()
        assert (labels["pascal"][~pasted] == before[~pasted]).all()
        assert ((image[..., 1] > image[..., 0]) == pasted).mean() > 0.97


def test_a_photograph_without_people_gives_the_place_as_it_is():
    empty = Fixed(painted(GREEN, 40, 20), atr=np.zeros((40, 20), np.uint8))
    image, labels = CollageSet(empty, place(), {"atr": ATR}).load(0, np.random.default_rng(0))
    assert (image == place().sample[0]).all()
    assert (labels["pascal"] == place().sample[1]["pascal"]).all()
    assert (labels["atr"] == np.where(labels["pascal"] > 0, 255, 0)).all()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    root = tmp_path / "dolls"
    write_dataset(root, count=3, seed=0, size_hw=(64, 48), split="train")
    path = tmp_path / "c.toml"
    path.write_text(
        'domains = ["atr", "pascal"]\npreset = "sst-tiny"\n[[data.sets]]\n'
        f'root = {json.dumps(str(root))}\nlabels = {{ atr = "labels_atr" }}\ncache_px = 64\n'
        f'onto = {{ root = {json.dumps(str(root))}, labels = {{ pascal = "labels_pascal" }} }}\n',
        "utf-8",
    )
    return path


def test_a_configuration_asks_for_it_with_onto(config_file: Path):
    config = load_config(config_file)
    domains = [ATR, PASCAL]
    sets = open_sets(config.data, ["atr", "pascal"], known=domains)
    assert isinstance(sets[0], CollageSet)
    samples = AugmentedSamples(sets, domains, AugmentConfig(crop_hw=(32, 32)), seed=0)
    image, labels = samples[(0, 1, 5)]
    assert image.shape == (32, 32, 3)
    assert set(labels) == {"atr", "pascal"}


def test_labels_of_the_place_need_a_head_too(config_file: Path):
    config = load_config(config_file)
    with pytest.raises(ConfigError, match="pascal"):
        open_sets(config.data, ["atr"], known=[ATR])
