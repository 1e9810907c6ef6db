"""Several views of a photo give one answer, and left stays left."""

import numpy as np
import pytest

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_sdk.postprocess import merged_labels
from hp_sdk.testing import FakeBackend, make_bundle
from hp_sdk.tta import TTA, choose_tta, fit_views, merge_views, softmax

CIHP = load_domain("cihp")
SPEC = InputSpec(size_hw=(64, 64))
LIMBS = Domain("limbs", ("background", "left-arm", "right-arm"), flip_pairs=((1, 2),))


def photo(height=50, width=37, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def network_of_random_weights(batch, head):
    """No property at all, least of all flip equivariance: every cell sees its neighbours."""
    count, height, width, _ = batch.shape
    weights = np.random.default_rng(7).standard_normal((head.domain.num_classes, 96))
    cells = batch.reshape(count, height // 4, 4, width // 4, 4, 3).astype(np.float64) / 255 - 0.5
    patches = cells.transpose(0, 1, 3, 2, 4, 5).reshape(count, height // 4, width // 4, 48)
    wide = np.concatenate([patches, np.roll(patches, 1, axis=2)], -1)
    return np.einsum("nyxf,kf->nkyx", wide, weights).astype(np.float32)


def limb_network(batch, head):
    """An ideal network for someone who faces the camera: an arm on the picture's left is right."""
    width = batch.shape[2]
    arm = batch[:, 2::4, 2::4].mean(-1) > 128
    on_the_left = np.arange(width // 4) < width // 8
    labels = np.where(arm, np.where(on_the_left, 2, 1), 0)
    return (labels[:, None] == np.arange(3)[:, None, None]).astype(np.float32)


def parse(image, oracle, head, tta):
    backend = FakeBackend({head.domain.name: head}, oracle, input_hw=SPEC.size_hw)
    fitted = fit_views(image, SPEC, tta)
    logits = backend.run(np.concatenate([view.pixels for view in fitted]))[head.output]
    return merged_labels(merge_views(fitted, logits, head.domain, tta))


@pytest.mark.parametrize("average", ["logits", "probs"])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.6)])
def test_the_answer_to_a_mirrored_photo_is_the_mirrored_answer(scales, average):
    head, tta = HeadSpec(CIHP, "logits"), TTA(scales=scales, flip=True, average=average)
    image = photo()

    straight = parse(image, network_of_random_weights, head, tta)
    mirrored = parse(np.ascontiguousarray(image[:, ::-1]), network_of_random_weights, head, tta)

    # Views are added in another order, so ties may fall either way.
    assert (mirrored == CIHP.mirror(straight)).mean() > 0.999
    assert len(np.unique(straight)) > 5


def test_left_and_right_survive_the_flip():
    head = HeadSpec(LIMBS, "logits")
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:40, 4:20] = image[20:40, 44:60] = 255

    alone = parse(image, limb_network, head, TTA())
    flipped = parse(image, limb_network, head, TTA(flip=True))

    assert (alone[30, 10], alone[30, 50]) == (2, 1)
    np.testing.assert_array_equal(flipped, alone)


def test_without_the_swap_the_flip_would_erase_the_arms():
    numb = Domain("numb", LIMBS.names)  # the same parts, but nobody said that they mirror
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:40, 4:20] = 255

    swapped = parse(image, limb_network, HeadSpec(LIMBS, "logits"), TTA(flip=True))
    unswapped = parse(image, limb_network, HeadSpec(numb, "logits"), TTA(flip=True))

    assert (swapped == 2).sum() > 0.95 * 20 * 16
    assert (unswapped == 2).sum() < (swapped == 2).sum() / 2


def test_averaging_logits_and_probabilities_can_disagree():
    # Class 1 is overwhelming in one view and just behind in the two others.
    logits = np.zeros((3, 2, 16, 16), np.float32)
    logits[0, 1] = 9
    logits[1:, 0] = 3
    fitted = fit_views(photo(64, 64), SPEC, TTA(scales=(1.0, 1.0, 1.0)))
    domain = Domain("two", ("background", "person"))

    winners = {
        average: set(
            merged_labels(
                merge_views(fitted, logits, domain, TTA(scales=(1.0,) * 3, average=average))
            ).ravel()
        )
        for average in ("logits", "probs")
    }

    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert winners == {
        "logits": {int(logits.mean(0)[:, 0, 0].argmax())},
        "probs": {int(probabilities.mean(0)[:, 0, 0].argmax())},
    }
    assert winners["logits"] != winners["probs"]


def test_softmax_sums_to_one_and_stands_large_logits():
    logits = np.array([1000.0, 999.0, -1000.0], np.float16).reshape(1, 3, 1, 1)

    probabilities = softmax(logits).ravel()

    np.testing.assert_allclose(probabilities, [0.7310586, 0.2689414, 0], atol=1e-6)


def test_merging_leaves_the_networks_answer_untouched():
    tta = TTA(flip=True)
    fitted = fit_views(photo(), SPEC, tta)
    logits = np.random.default_rng(0).standard_normal((2, 20, 16, 16)).astype(np.float32)
    before = logits.copy()

    merged_labels(merge_views(fitted, logits, CIHP, tta))

    np.testing.assert_array_equal(logits, before)


def test_views_are_the_plain_photo_first_then_its_mirror_at_each_scale():
    views = fit_views(photo(64, 64), SPEC, TTA(scales=(1.0, 0.5), flip=True))

    assert [view.mirrored for view in views] == [False, True, False, True]
    assert [view.geometry.content_hw for view in views] == [(64, 64)] * 2 + [(32, 32)] * 2
    np.testing.assert_array_equal(views[1].pixels, views[0].pixels[:, :, ::-1])


@pytest.mark.parametrize(("name", "views"), [("none", 1), ("flip", 2), ("ms", 2), ("ms+flip", 4)])
def test_names_stand_for_views(name, views):
    assert choose_tta(name, family="sst").num_views == views


@pytest.mark.parametrize("family", ["sst", "schnet"])
def test_the_papers_sets_are_what_their_authors_did_whatever_the_family(family):
    graphonomy = choose_tta("graphonomy+flip", family=family)
    schnet = choose_tta("schnet", family=family)

    assert sorted(graphonomy.scales) == [0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert (graphonomy.flip, graphonomy.average) == (True, "logits")
    assert sorted(schnet.scales) == [0.75, 1, 1.25, 1.5]
    assert (schnet.flip, schnet.average) == (False, "probs")
    assert graphonomy.scales[0] == schnet.scales[0] == 1  # the plain view comes first


def test_none_is_the_plain_view():
    assert choose_tta(None, family="sst") == TTA()
    assert str(TTA()) == "none"
    assert str(TTA(flip=True)) == "scales 1 + flip, mean logits"


def test_families_average_what_their_authors_do():
    assert choose_tta("flip", family="sst").average == "logits"
    assert choose_tta("flip", family="schnet").average == "probs"
    assert choose_tta(TTA(average="logits"), family="schnet").average == "logits"


def test_unknown_names_scales_and_averages_are_refused():
    with pytest.raises(ConfigError, match=r"'twice'.*ms"):
        choose_tta("twice", family="sst")
    with pytest.raises(ConfigError, match="scales"):
        TTA(scales=(4.5,))
    with pytest.raises(ConfigError, match="scales"):
        TTA(scales=())
    with pytest.raises(ConfigError, match="'max'"):
        TTA(average="max")  # pyright: ignore[reportArgumentType]


def test_the_fake_reads_what_a_palette_painted(tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    head = bundle.heads["cihp"]
    labels = np.random.default_rng(0).integers(0, 20, (16, 16)).astype(np.uint8)
    painted = np.array(head.domain.palette, np.uint8)[labels].repeat(4, 0).repeat(4, 1)

    logits = FakeBackend(bundle).run(painted[None])[head.output]

    np.testing.assert_array_equal(logits[0].argmax(0), labels)
