"""Label domains; T-01 to T-04 of the test catalogue."""

import json

import numpy as np
import pytest

from hp_sdk.domains import (
    Domain,
    admissible,
    alias_lut,
    coarse_to_fine,
    domain_names,
    load_domain,
)
from hp_sdk.errors import ConfigError, InputError

BUNDLED = ["pascal", "atr", "cihp", "lip", "ccp"]
SIZES = {"pascal": 7, "atr": 18, "cihp": 20, "lip": 20, "ccp": 59}
EDGES = {"pascal": 5, "atr": 34, "cihp": 48, "lip": 48}


@pytest.mark.parametrize("name", BUNDLED)
def test_the_flip_permutation_is_its_own_inverse(name):
    perm = load_domain(name).flip_perm
    assert perm.dtype == np.int64
    np.testing.assert_array_equal(perm[perm], np.arange(SIZES[name]))


@pytest.mark.parametrize("name", BUNDLED)
def test_flipping_twice_gives_the_same_label_map(name):
    domain = load_domain(name)
    labels = np.random.default_rng(0).integers(0, domain.num_classes, (2, 9, 7)).astype(np.uint8)
    labels[0, 0, 0] = 255
    once = domain.mirror(labels)
    assert once.dtype == np.uint8
    assert once[0, 0, -1] == 255
    assert not np.array_equal(once, labels)
    np.testing.assert_array_equal(domain.mirror(once), labels)


@pytest.mark.parametrize("name", ["atr", "cihp", "lip"])
def test_mirroring_turns_exactly_the_left_parts_into_right_ones(name):
    domain = load_domain(name)
    for k, part in enumerate(domain.names):
        swapped = {"left": "right", "right": "left"}
        side, _, rest = part.partition("-")
        expected = f"{swapped[side]}-{rest}" if side in swapped else part
        assert domain.names[domain.flip_perm[k]] == expected


def test_mirroring_moves_pixels_as_well_as_ids():
    domain = load_domain("cihp")
    left, right = domain.index("left-arm"), domain.index("right-arm")
    labels = np.array([[left, 0, 2]], np.int64)
    np.testing.assert_array_equal(domain.mirror(labels), [[2, 0, right]])


@pytest.mark.parametrize("name", EDGES)
def test_published_graphs_are_undirected_and_leave_the_background_alone(name):
    edges = load_domain(name).edges
    assert edges is not None
    assert len(edges) == len(set(edges)) == EDGES[name]
    assert all(0 < a < b < SIZES[name] for a, b in edges)


def test_no_graph_is_published_for_ccp():
    assert load_domain("ccp").edges is None


def test_the_order_of_m2fp_is_a_bijection_with_agreeing_names():
    base, lut = alias_lut("ppp_m2fp")
    theirs, ours = load_domain("pascal_m2fp"), load_domain(base)
    assert (base, sorted(lut)) == ("pascal", list(range(7)))
    published = ["background", "lower-arm", "head", "upper-leg", "torso", "lower-leg", "upper-arm"]
    for k, name in enumerate(published):
        assert ours.index(name) == lut[k]
        assert theirs.index(name) == k
        assert theirs.palette[k] == ours.palette[lut[k]]
    torso, arms = theirs.index("torso"), theirs.index("upper-arms")
    assert tuple(sorted((torso, arms))) in (theirs.edges or ())
    assert theirs.indices("arms") == tuple(sorted((arms, theirs.index("lower-arms"))))


def test_cihp_and_lip_differ_in_id_10_only():
    cihp, lip = load_domain("cihp"), load_domain("lip")
    assert (cihp.names[10], lip.names[10]) == ("torso-skin", "jumpsuits")
    assert [k for k in range(20) if cihp.names[k] != lip.names[k]] == [10]


@pytest.mark.parametrize("name", BUNDLED)
def test_every_domain_starts_with_the_background_and_has_one_colour_per_part(name):
    domain = load_domain(name)
    assert domain.num_classes == len(domain.palette) == SIZES[name]
    assert domain.names[0] == "background"
    assert domain.palette[0] == (0, 0, 0)
    assert len(set(domain.palette)) == domain.num_classes
    assert domain.indices("person") == tuple(range(1, domain.num_classes))


def test_domains_run_from_coarse_to_fine():
    own = Domain("own", ("background", "a"))
    twenty = Domain("alpha", tuple(f"p{k}" for k in range(20)))
    given = [load_domain(name) for name in ("ccp", "lip", "cihp", "atr", "pascal")]
    ordered = coarse_to_fine([*given, twenty, own])
    assert domain_names() == tuple(BUNDLED)
    assert [d.name for d in ordered] == ["own", "pascal", "atr", "cihp", "lip", "alpha", "ccp"]


def test_ppp_is_another_name_of_pascal():
    assert load_domain("ppp") == load_domain("pascal")


@pytest.mark.parametrize(
    ("domain", "spelling", "name"),
    [
        ("cihp", "Upper-clothes", "upper-clothes"),
        ("cihp", "UpperClothes", "upper-clothes"),
        ("cihp", "u-cloth", "upper-clothes"),
        ("cihp", "tosor-skin", "torso-skin"),
        ("cihp", "Torso Skin", "torso-skin"),
        ("lip", "j-suits", "jumpsuits"),
        ("atr", "leftHand", "left-arm"),
        ("atr", "bags", "bag"),
        ("atr", "RIGHT_SHOE", "right-shoe"),
        ("pascal", "u-arms", "upper-arms"),
        ("ccp", "null", "background"),
        ("ccp", "T-Shirt", "t-shirt"),
    ],
)
def test_spellings_in_the_wild_are_understood(domain, spelling, name):
    found = load_domain(domain)
    assert found.names[found.index(spelling)] == name


@pytest.mark.parametrize("name", BUNDLED)
def test_no_two_words_of_a_domain_mean_different_parts(name):
    domain = load_domain(name)
    words = [*domain.names, *domain.aliases, *domain.groups]
    assert len({word.replace("-", "") for word in words}) == len(words)


def test_parts_and_groups_can_be_mixed_and_come_sorted_once():
    cihp = load_domain("cihp")
    assert cihp.indices("right-arm", "Arms", "face") == (13, 14, 15)


def test_an_unknown_part_is_answered_with_the_list_and_the_nearest():
    with pytest.raises(InputError, match=r"'hairs'.*did you mean 'hair'.*left-shoe"):
        load_domain("cihp").index("hairs")
    with pytest.raises(InputError, match="group of several"):
        load_domain("cihp").index("arms")
    with pytest.raises(InputError, match="wings"):
        load_domain("cihp").indices("face", "wings")


@pytest.mark.parametrize("name", [*BUNDLED, "pascal_m2fp"])
def test_a_domain_survives_plain_data_and_json(name):
    domain = load_domain(name)
    data = json.loads(json.dumps(domain.to_dict()))
    assert Domain.from_dict(data) == domain
    assert hash(Domain.from_dict(data)) == hash(domain)


def test_a_users_domain_is_read_from_toml(tmp_path):
    path = tmp_path / "fashn.toml"
    path.write_text(
        'names = ["background", "Top", "Left Arm", "right_arm"]\n'
        'flip_pairs = [["left-arm", 3]]\n'
        'edges = [["right-arm", "top"], [1, 2], ["left-arm", "top"]]\n'
        "[groups]\n"
        'arms = ["left-arm", "right-arm"]\n'
        "[aliases]\n"
        'shirt = "top"\n'
    )
    domain = load_domain(path)
    assert domain.name == "fashn"
    assert domain.names == ("background", "top", "left-arm", "right-arm")
    assert domain.flip_pairs == ((2, 3),)
    assert domain.edges == ((1, 2), (1, 3))
    assert domain.indices("arms", "shirt") == (1, 2, 3)
    assert domain.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert domain.ignore_index == 255


def test_a_users_domain_is_read_from_json(tmp_path):
    path = tmp_path / "two.json"
    path.write_text('{"name": "duo", "names": ["background", "a"], "palette": [[1,2,3],[4,5,6]]}')
    domain = load_domain(str(path))
    assert (domain.name, domain.palette, domain.edges) == ("duo", ((1, 2, 3), (4, 5, 6)), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "hair"}, "names must be a list"),
        ({"names": ["background", ""]}, "names must be a list"),
        ({"names": ["hair", "face"]}, r"names\[0\] is 'hair'"),
        ({"names": ["background", "Left Arm", "left_arm"]}, r"names\[2\] repeats"),
        ({"names": ["background"]}, "allowed are 2 to 255"),
        ({"names": ["background", *map(str, range(255))]}, "allowed are 2 to 255"),
        ({"palete": []}, "unknown key 'palete'"),
        ({"flip_pairs": [["a", "zz"]]}, r"flip_pairs\[0\]: no part 'zz'"),
        ({"flip_pairs": [[1, 7]]}, r"flip_pairs\[0\]: no id 7"),
        ({"flip_pairs": [[1, 1]]}, "paired with itself"),
        ({"flip_pairs": [[1, 2], [2, 3]]}, "swaps with one other part"),
        ({"flip_pairs": [[0, 2]]}, "background with none"),
        ({"flip_pairs": [1, 2]}, "list of pairs"),
        ({"flip_pairs": 3}, "list of pairs"),
        ({"palette": [[0, 0, 0]]}, "palette must hold 4 colours"),
        ({"palette": [[0, 0, 0], [1, 2], [3, 4, 5], [6, 7, 8]]}, "palette must hold 4 colours"),
        ({"palette": [[0, 0, 0], [1, 2, 300], [3, 4, 5], [6, 7, 8]]}, "of 0..255"),
        ({"groups": {"b": [1]}}, "is a part already"),
        ({"groups": {"g": ["zz"]}}, r"groups.g: no part 'zz'"),
        ({"groups": {"g": 1}}, "groups.g must be a list"),
        ({"groups": [1]}, "groups must be a table"),
        ({"aliases": {"x": "zz"}}, r"aliases.x: no part 'zz'"),
        ({"aliases": {"x": ["a"]}}, "aliases.x must be a part"),
        ({"edges": [["background", "a"]]}, "background has no neighbours"),
        ({"ignore_index": 2}, "allowed are 4 to 255"),
    ],
)
def test_a_wrong_domain_is_refused_by_key(change, message):
    with pytest.raises(ConfigError, match=message):
        Domain.from_dict({"names": ["background", "a", "b", "c"]} | change, name="mine")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.toml", "names = [", "cannot read the domain file"),
        ("a.json", "[1]", "holds no table"),
        ("a.json", "", "cannot read the domain file"),
    ],
)
def test_a_broken_domain_file_is_refused_by_name(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=message) as refusal:
        load_domain(tmp_path / file)
    assert file in str(refusal.value)


def test_an_unknown_domain_is_answered_with_the_list(tmp_path):
    with pytest.raises(ConfigError, match=r"'mhp'; there are pascal, atr, cihp, lip, ccp"):
        load_domain("mhp")
    with pytest.raises(ConfigError, match=r"cannot read.*none\.toml"):
        load_domain(tmp_path / "none.toml")


@pytest.mark.parametrize("target", ["atr", "cihp", "lip", "pascal"])
@pytest.mark.parametrize("source", ["pascal", "ccp"])
def test_admissible_sets_cover_both_domains(source, target):
    sets = admissible(source, target)
    assert sets is not None
    assert len(sets) == SIZES[source]
    assert all(sets)
    assert {k for ids in sets for k in ids} == set(range(SIZES[target]))


def test_admissible_sets_hold_what_a_part_can_be_covered_with():
    pascal, cihp, atr = (load_domain(name) for name in ("pascal", "cihp", "atr"))
    to_cihp, to_atr = admissible("pascal", "cihp"), admissible("pascal", "atr")
    assert to_cihp is not None
    assert to_atr is not None
    lower_arms = set(to_cihp[pascal.index("lower-arms")])
    allowed = ("glove", "upper-clothes", "dress", "coat", "left-arm", "right-arm")
    assert lower_arms == set(cihp.indices(*allowed))
    assert cihp.index("torso-skin") in to_cihp[pascal.index("head")]
    assert to_cihp[0] == (0,)
    assert to_atr[0] == (0, atr.index("bag"))


def test_admissible_sets_can_be_read_backwards():
    forth, back = admissible("pascal", "cihp"), admissible("cihp", "ppp")
    assert forth is not None
    assert back is not None
    assert all((j in forth[i]) == (i in back[j]) for i in range(7) for j in range(20))


def test_a_flip_partner_is_admissible_where_its_partner_is():
    for source in ("pascal", "ccp"):
        for target in ("cihp", "lip", "atr"):
            perm = load_domain(target).flip_perm
            for ids in admissible(source, target) or ():
                assert {int(perm[k]) for k in ids} == set(ids)


def test_nothing_is_admissible_between_strangers():
    assert admissible("own", "cihp") is None
    assert admissible("cihp", "cihp") == tuple((k,) for k in range(20))
