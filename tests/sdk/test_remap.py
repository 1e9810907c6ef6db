"""From one label domain to another."""

import itertools
from collections import Counter

import numpy as np
import pytest

from hp_sdk.domains import Domain, admissible, domain_names, load_domain
from hp_sdk.errors import ConfigError, InputError
from hp_sdk.png import read_labels
from hp_sdk.remap import crosswalk
from hp_sdk.result import Receipt, Result

ATR, CIHP, LIP, PASCAL, CCP = map(load_domain, ("atr", "cihp", "lip", "pascal", "ccp"))
PAIRS = list(itertools.permutations(domain_names(), 2))
IGNORED = 255


def mapped(source, target, **options):
    """Names -> names of everything that has a counterpart."""
    way = crosswalk(source, target, **options)
    return {
        source.names[k]: target.names[ids[0]]
        for k, ids in enumerate(way.candidates)
        if len(ids) == 1
    }


def result_of(domain, *names, **fields):
    """A photo of four rows for each part, 6 pixels wide."""
    labels = np.repeat([domain.index(name) for name in names], 4).astype(np.uint8)
    return Result(labels=np.tile(labels[:, None], (1, 6)), domain=domain, **fields)


@pytest.mark.parametrize("name", domain_names())
def test_a_domain_in_its_own_words_is_itself(name):
    domain = load_domain(name)
    way = crosswalk(domain, domain)
    assert way.lut.tolist() == [*range(domain.num_classes), *[IGNORED] * (256 - domain.num_classes)]
    assert way.never == ()
    assert way.losses(dict.fromkeys(domain.names, 1)) == ()


def test_atr_finds_its_names_in_cihp():
    lut = crosswalk(ATR, CIHP).lut
    published = [0, 1, 2, 4, 5, 12, 9, 6, 255, 18, 19, 13, 16, 17, 14, 15, 255, 11]
    assert lut[:18].tolist() == published


def test_cihp_finds_what_atr_has_and_a_coat_is_upper_clothes_there():
    lut = crosswalk(CIHP, ATR).lut
    lost = [CIHP.names[k] for k in range(20) if lut[k] == IGNORED]
    assert lost == ["glove", "socks", "torso-skin"]
    assert lut[CIHP.index("coat")] == ATR.index("upper-clothes")
    assert crosswalk(CIHP, ATR).never == ("belt", "bag")


def test_cihp_and_lip_differ_in_one_part_only():
    for a, b, part in ((CIHP, LIP, "torso-skin"), (LIP, CIHP, "jumpsuits")):
        way = crosswalk(a, b)
        assert [a.names[k] for k in range(20) if way.lut[k] != k] == [part]
        assert str(*way.losses({part: 7})) == f"{part}: 7 px ignored, {b.name} has no such part"


def test_clothes_are_no_body_parts_unless_only_one_is_meant():
    assert mapped(CIHP, PASCAL) == {
        "background": "background",
        "hat": "head",
        "hair": "head",
        "sunglasses": "head",
        "face": "head",
        "glove": "lower-arms",
        "socks": "lower-legs",
        "left-shoe": "lower-legs",
        "right-shoe": "lower-legs",
    }


def test_shoes_of_ccp_have_no_side():
    assert "boots" not in mapped(CCP, CIHP)
    assert mapped(CCP, PASCAL)["boots"] == "lower-legs"


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_counterpart_is_always_admissible(source, target):
    sets = admissible(source, target)
    way = crosswalk(load_domain(source), load_domain(target))
    for k, ids in enumerate(way.candidates):
        if sets is not None and len(ids) == 1:
            assert ids[0] in sets[k]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_background_is_the_background_and_what_was_ignored_stays_ignored(source, target):
    lut = crosswalk(load_domain(source), load_domain(target)).lut
    assert lut[0] == 0
    assert lut[IGNORED] == IGNORED


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_remapping_the_mirrored_photo_is_mirroring_the_remapped_one(source, target):
    a, b = load_domain(source), load_domain(target)
    labels = np.arange(a.num_classes, dtype=np.uint8)[None]
    lut = crosswalk(a, b).lut
    np.testing.assert_array_equal(lut[a.mirror(labels)], b.mirror(lut[labels]))


def test_the_order_of_m2fp_is_pascal_with_other_ids():
    m2fp = load_domain("pascal_m2fp")
    assert mapped(PASCAL, m2fp) == {name: name for name in PASCAL.names}
    assert crosswalk(m2fp, PASCAL).lut[:7].tolist() == [0, 4, 1, 5, 2, 6, 3]


def test_a_users_domain_is_met_by_names_and_spellings():
    own = Domain("own", ("nothing", "hair", "trousers", "wings"))
    assert mapped(own, CIHP) == {"nothing": "background", "hair": "hair", "trousers": "pants"}


def test_a_users_domain_called_cihp_is_not_taken_for_it():
    own = Domain("cihp", ("background", "hair", "glove"))
    assert mapped(own, PASCAL) == {"background": "background"}


def test_the_caller_decides_what_the_tables_leave_open():
    choose = {"Upper clothes": "torso", "legs": "lower-legs", "hair": "torso"}
    found = mapped(CIHP, PASCAL, choose=choose)
    assert found["upper-clothes"] == found["hair"] == "torso"
    assert found["left-leg"] == found["right-leg"] == "lower-legs"


def test_a_wrong_decision_is_answered_with_the_list():
    with pytest.raises(InputError, match="domain 'pascal' has no part 'trunk'"):
        crosswalk(CIHP, PASCAL, choose={"dress": "trunk"})
    with pytest.raises(InputError, match="domain 'cihp' has no part 'gown'"):
        crosswalk(CIHP, PASCAL, choose={"gown": "torso"})


def test_a_result_declares_what_was_merged_and_what_was_not_decided():
    result = result_of(CIHP, "face", "hair", "dress", "background").remap("pascal")
    assert result.domain == PASCAL
    assert result.areas() == {"head": 48}
    assert Counter(result.labels.ravel().tolist()) == {1: 48, 0: 24, IGNORED: 24}
    assert {loss.part: (loss.kind, loss.area_px) for loss in result.losses} == {
        "hair": ("merged", 24),
        "face": ("merged", 24),
        "dress": ("undecided", 24),
    }
    (dress,) = (loss for loss in result.losses if loss.part == "dress")
    assert dress.became == ("torso", "upper-arms", "lower-arms", "upper-legs", "lower-legs")


def test_a_loss_is_told_in_one_line():
    losses = crosswalk(CIHP, PASCAL).losses({"hair": 5, "socks": 4, "dress": 3, "scarf": 2})
    assert [str(loss) for loss in losses] == [
        "hair: 5 px merged into head",
        "socks: 4 px merged into lower-legs",
        "dress: 3 px ignored, could be torso, upper-arms, lower-arms, upper-legs or lower-legs; "
        "choose={'dress': ...} decides",
        "scarf: 2 px ignored, could be head, torso or upper-arms; choose={'scarf': ...} decides",
    ]
    (long,) = crosswalk(CIHP, PASCAL).losses({"coat": 1})
    assert "head, torso, upper-arms, lower-arms or 2 others" in str(long)


def test_a_part_that_becomes_background_is_declared():
    result = result_of(CCP, "bag", "hair").remap("cihp")
    assert result.parts == ["hair"]
    assert [str(loss) for loss in result.losses] == ["bag: 24 px became background"]


def test_what_is_kept_is_no_loss():
    assert result_of(CIHP, "hair", "face", "left-arm").remap("lip").losses == ()


def test_the_receipt_tells_too():
    receipt = Receipt(model="m", head="cihp", backend="b", provider="CPU", notes=("fell back",))
    result = result_of(CIHP, "torso-skin", receipt=receipt).remap("lip")
    assert result.receipt
    assert result.receipt.head == "cihp"
    assert result.receipt.notes == (
        "fell back",
        "remapped from cihp to lip",
        "torso-skin: 24 px ignored, lip has no such part",
        "cihp cannot tell lip's jumpsuits",
    )
    assert result.to_dict()["losses"][0]["part"] == "torso-skin"


def test_losses_add_up_from_domain_to_domain():
    result = result_of(CIHP, "torso-skin", "coat", "hair").remap("lip").remap("atr")
    assert [(loss.part, loss.kind) for loss in result.losses] == [
        ("torso-skin", "unmatched"),
        ("coat", "merged"),
    ]


def test_confidence_stays_and_the_old_domains_logits_go():
    confidence = np.full((4, 6), 200, np.uint8)
    logits = np.zeros((20, 1, 2), np.float32)
    result = result_of(CIHP, "hair", confidence=confidence, logits=logits).remap("pascal")
    assert result.confidence is confidence
    assert result.logits is None


def test_undecided_pixels_trouble_nothing(tmp_path):
    photo = np.full((8, 6, 3), 90, np.uint8)
    result = result_of(CIHP, "face", "dress", image=photo).remap("pascal")
    assert not result.mask("person")[4:].any()
    assert list(result.boxes()) == ["head"]
    assert [each["category_id"] for each in result.to_coco()] == [1]
    assert not result.cutout()[4:].any()
    assert result.colorize()[6, 0].tolist() == [224, 224, 192]
    assert (result.overlay(1.0, contours=False)[6, 0] == (224, 224, 192)).all()
    np.testing.assert_array_equal(read_labels(result.save(tmp_path / "a.png")), result.labels)


def test_another_ignore_id_is_respected():
    own = Domain("own", ("background", "hair"), ignore_index=9)
    result = result_of(CIHP, "hair", "face").remap(own)
    assert np.unique(result.labels).tolist() == [1, 9]
    assert result.parts == ["hair"]


def test_a_domain_file_is_a_target_too(tmp_path):
    file = tmp_path / "two.toml"
    file.write_text('names = ["background", "face"]\n', encoding="utf-8")
    assert result_of(CIHP, "face", "dress").remap(file).areas() == {"face": 24}
    with pytest.raises(ConfigError, match="no domain 'cjhp'"):
        result_of(CIHP, "face").remap("cjhp")
