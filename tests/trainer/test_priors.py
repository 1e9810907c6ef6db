"""T-02 and T-05: the two priors, against the published graphs and tables."""

import itertools
import logging

import numpy as np
import pytest

from hp_sdk.domains import Domain, domain_names, load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.priors import intra_matrix, static_cross

DOMAINS = ("pascal", "atr", "cihp", "lip", "ccp")
PAIRS = tuple(itertools.permutations(DOMAINS, 2))
GLOVE_PAIRS = [("pascal", "cihp"), ("pascal", "atr"), ("cihp", "atr")]


def cross(b, a, **options):
    return static_cross(load_domain(b), load_domain(a), **options)


def entry(matrix, b, a, row, column):
    return matrix[load_domain(b).index(row), load_domain(a).index(column)]


def without_edges(name):
    domain = load_domain(name)
    return Domain(name=domain.name, names=domain.names)


def edges_of(matrix):
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(matrix, 1)), strict=True)}


def ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


# ---- M_intra ---------------------------------------------------------------------------------


def test_all_built_in_domains_are_covered_here():
    assert set(domain_names()) == set(DOMAINS)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_intra_matrix_is_a_symmetric_binary_relation_with_self_loops(name):
    matrix = intra_matrix(load_domain(name))
    assert matrix.shape == (load_domain(name).num_classes,) * 2
    assert matrix.dtype == np.float32
    assert set(np.unique(matrix)) == {0.0, 1.0}
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(np.diag(matrix), 1.0)


@pytest.mark.parametrize("name", DOMAINS)
def test_background_is_the_neighbour_of_no_part(name):
    matrix = intra_matrix(load_domain(name))
    assert matrix[0].sum() == matrix[:, 0].sum() == matrix[0, 0] == 1.0
    assert intra_matrix(load_domain(name), self_loops=False)[0].sum() == 0.0


@pytest.mark.parametrize("name", DOMAINS)
def test_turning_self_loops_off_clears_the_diagonal_and_nothing_else(name):
    domain = load_domain(name)
    eye = np.eye(domain.num_classes, dtype=np.float32)
    np.testing.assert_array_equal(
        intra_matrix(domain, self_loops=False), intra_matrix(domain) - eye
    )


@pytest.mark.parametrize(("name", "count"), [("pascal", 5), ("atr", 34), ("cihp", 48), ("lip", 48)])
def test_the_published_graphs_have_their_number_of_edges(name, count):
    assert len(edges_of(intra_matrix(load_domain(name)))) == count


def test_an_edge_that_one_part_alone_names_counts_in_both_directions():
    # Graphonomy's ATR table lists 5 -> 7 and 6 -> 7 but not their reverse.
    matrix = intra_matrix(load_domain("atr"))
    dress = load_domain("atr").index("dress")
    for name in ("upper-clothes", "pants"):
        part = load_domain("atr").index(name)
        assert matrix[part, dress] == matrix[dress, part] == 1.0
    one_sided = Domain(name="mine", names=("background", "a", "b"), edges=((2, 1),))
    assert intra_matrix(one_sided)[1, 2] == intra_matrix(one_sided)[2, 1] == 1.0


def test_torso_skin_touches_the_face_and_all_limbs():
    cihp = load_domain("cihp")
    row = intra_matrix(cihp)[cihp.index("torso-skin")]
    assert [
        row[cihp.index(name)]
        for name in ("face", "left-arm", "right-arm", "left-leg", "right-leg", "left-shoe")
    ] == [1, 1, 1, 1, 1, 0]


def test_jumpsuits_replace_the_torso_skin_node_of_the_lip_graph():
    lip, cihp = load_domain("lip"), load_domain("cihp")
    node = lip.index("jumpsuits")
    assert node == cihp.index("torso-skin") == 10
    neighbours = {j for j in range(lip.num_classes) if intra_matrix(lip, self_loops=False)[node, j]}
    assert neighbours == {5, 7, 8, 11, 13, 14, 15, 16, 17, 18, 19}
    shared = [i for i in range(20) if i != node]
    np.testing.assert_array_equal(
        intra_matrix(lip)[np.ix_(shared, shared)], intra_matrix(cihp)[np.ix_(shared, shared)]
    )


@pytest.mark.parametrize(
    ("name", "found", "proposed"), [("pascal", 5, 5), ("cihp", 46, 63), ("atr", 30, 43)]
)
def test_the_atom_rule_finds_nearly_all_published_edges_and_over_connects(name, found, proposed):
    published = edges_of(intra_matrix(load_domain(name)))
    ruled = edges_of(intra_matrix(without_edges(name)))
    assert (len(ruled & published), len(ruled)) == (found, proposed)


def test_ccp_gets_its_graph_from_the_atoms():
    ccp = load_domain("ccp")
    assert ccp.edges is None
    matrix = intra_matrix(ccp)

    def touch(u, v):
        return bool(matrix[ccp.index(u), ccp.index(v)])

    assert touch("jeans", "boots")
    assert touch("hat", "hair")
    assert touch("shirt", "tie")
    assert not touch("hat", "sneakers")
    assert not touch("shoes", "sunglasses")
    assert all(matrix[i].sum() > 1 for i in range(1, ccp.num_classes))


def test_a_part_without_atoms_neighbours_every_part_and_says_so(caplog):
    mine = Domain(name="mine", names=("background", "hat", "left-shoe", "jetpack"))
    with caplog.at_level(logging.WARNING):
        matrix = intra_matrix(mine)
    np.testing.assert_array_equal(matrix, [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]])
    assert "jetpack" in caplog.text
    assert "hat" not in caplog.text


# ---- M_cross^static --------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "onehot", "atoms"])
@pytest.mark.parametrize(("b", "a"), PAIRS)
def test_the_static_matrix_is_a_similarity_whose_reverse_is_its_transpose(b, a, source):
    matrix = cross(b, a, source=source)
    assert matrix.shape == (load_domain(b).num_classes, load_domain(a).num_classes)
    assert matrix.dtype == np.float32
    assert matrix.min() >= 0.0
    assert matrix.max() == 1.0
    np.testing.assert_array_equal(matrix, cross(a, b, source=source).T)


@pytest.mark.parametrize("source", ["auto", "onehot", "atoms"])
@pytest.mark.parametrize(("b", "a"), PAIRS)
def test_equal_names_have_similarity_one(b, a, source):
    matrix = cross(b, a, source=source)
    shared = set(load_domain(b).names) & set(load_domain(a).names)
    assert "background" in shared
    odd = (
        {"dress"}
        if source == "auto" and {b, a} <= {"cihp", "lip", "atr"} and "atr" in (b, a)
        else set()
    )
    assert {name for name in shared if entry(matrix, b, a, name, name) != 1.0} == odd


def test_dress_is_the_one_name_the_published_table_spells_differently():
    matrix = cross("cihp", "atr")
    assert entry(matrix, "cihp", "atr", "dress", "dress") == pytest.approx(0.85939662)
    assert (matrix == 1.0).sum() == 15


@pytest.mark.parametrize(("b", "a"), GLOVE_PAIRS)
def test_auto_takes_the_published_cosines_as_they_are(b, a):
    matrix = cross(b, a)
    np.testing.assert_array_equal(matrix, cross(b, a, source="glove"))
    assert matrix.min() == pytest.approx({"cihp": 0.17418084}.get(b, 0.1372435))
    assert not np.allclose(matrix.sum(1), 1.0)


@pytest.mark.parametrize(
    ("b", "a", "row", "column", "value"),
    [
        ("pascal", "cihp", "torso", "torso-skin", 0.75778818),
        ("cihp", "atr", "left-arm", "right-arm", 0.92279623),
        ("cihp", "atr", "left-arm", "left-leg", 0.8856886),
        ("pascal", "cihp", "upper-legs", "upper-clothes", 0.78566833),
        ("pascal", "cihp", "head", "right-arm", 0.69368576),
        ("pascal", "cihp", "head", "face", 0.63882953),
        ("atr", "pascal", "right-leg", "lower-legs", 0.84942166),
    ],
)
def test_published_cosines_stand_at_their_names(b, a, row, column, value):
    assert entry(cross(b, a), b, a, row, column) == pytest.approx(value, abs=1e-7)


def test_torso_skin_is_what_the_pascal_torso_resembles_most():
    row = cross("pascal", "cihp")[load_domain("pascal").index("torso")]
    assert load_domain("cihp").names[int(row.argmax())] == "torso-skin"


@pytest.mark.parametrize("a", ["pascal", "atr"])
def test_lip_reuses_the_rows_of_cihp_but_for_jumpsuits(a):
    lip, cihp, atoms = cross("lip", a), cross("cihp", a), cross("lip", a, source="atoms")
    shared = [i for i in range(20) if i != 10]
    np.testing.assert_array_equal(lip[shared], cihp[shared])
    np.testing.assert_array_equal(lip[10], atoms[10])
    assert not np.allclose(lip[10], cihp[10])


@pytest.mark.parametrize(("b", "a"), [("lip", "cihp"), ("ccp", "cihp"), ("pascal", "ccp")])
def test_pairs_without_a_published_table_use_the_atoms(b, a):
    np.testing.assert_array_equal(cross(b, a), cross(b, a, source="atoms"))
    with pytest.raises(ConfigError, match="pascal-cihp"):
        cross(b, a, source="glove")


@pytest.mark.parametrize(("b", "a"), PAIRS)
def test_by_atoms_background_resembles_only_background(b, a):
    matrix = cross(b, a, source="atoms")
    assert matrix[0].sum() == matrix[:, 0].sum() == matrix[0, 0] == 1.0


def test_by_atoms_a_part_of_another_layer_is_scored_by_hand():
    # hat (scalp, acc) and face (face, skin): adjacent atoms, so cos = 0.35; no layer in common.
    matrix = cross("cihp", "atr", source="atoms")
    assert entry(matrix, "cihp", "atr", "hat", "face") == pytest.approx(0.7 * 0.35)
    # hat and hair: the same atom under two layers.
    assert entry(matrix, "cihp", "atr", "hat", "hair") == pytest.approx(0.7)
    # socks (legs, feet) and left shoe (foot): (1 + 0.35) / sqrt((4 + 4 * 0.35) * 1).
    assert entry(matrix, "cihp", "atr", "socks", "left-shoe") == pytest.approx(
        0.7 * 1.35 / np.sqrt(5.4)
    )
    # PASCAL's head (scalp, face, neck; any) and the face: (1 + 2 * 0.35) / sqrt(3 + 4 * 0.35).
    pascal = cross("pascal", "cihp", source="atoms")
    assert entry(pascal, "pascal", "cihp", "head", "face") == pytest.approx(
        0.7 * 1.7 / np.sqrt(4.4) + 0.3 * 0.75
    )


@pytest.mark.parametrize(
    ("row", "best"),
    [
        ("head", {"sunglasses", "face", "hair", "hat", "scarf", "torso-skin"}),
        ("upper-legs", {"skirt", "pants", "dress", "left-leg", "right-leg"}),
    ],
)
def test_by_atoms_the_nearest_labels_are_anatomical_neighbours(row, best):
    cihp = load_domain("cihp")
    values = cross("pascal", "cihp", source="atoms")[load_domain("pascal").index(row)]
    assert {cihp.names[i] for i in np.argsort(-values)[: len(best)]} == best


@pytest.mark.parametrize(
    ("b", "a", "spearman"),
    [("pascal", "cihp", 0.35), ("pascal", "atr", 0.34), ("cihp", "atr", 0.43)],
)
def test_atoms_and_word_vectors_are_different_priors(b, a, spearman):
    atoms, glove = cross(b, a, source="atoms"), cross(b, a, source="glove")
    correlation = np.corrcoef(ranks(atoms.ravel()), ranks(glove.ravel()))[0, 1]
    assert correlation == pytest.approx(spearman, abs=0.005)


@pytest.mark.parametrize(("b", "a"), PAIRS)
def test_onehot_marks_equal_names_only(b, a):
    rows, columns = load_domain(b).names, load_domain(a).names
    np.testing.assert_array_equal(
        cross(b, a, source="onehot"), [[float(u == v) for v in columns] for u in rows]
    )


def test_class_zero_is_the_background_whatever_it_is_called():
    mine = Domain(name="mine", names=("nothing", "hat"))
    matrix = static_cross(mine, load_domain("cihp"), source="onehot")
    assert matrix[0, 0] == 1.0
    assert matrix.sum() == 2.0


def test_a_label_without_atoms_matches_by_name_and_says_so(caplog):
    mine = Domain(name="mine", names=("background", "hat", "jetpack"))
    other = Domain(name="other", names=("background", "jetpack", "hair", "propeller"))
    with caplog.at_level(logging.WARNING):
        matrix = static_cross(mine, other)
    np.testing.assert_allclose(matrix, [[1, 0, 0, 0], [0, 0, 0.7, 0], [0, 1, 0, 0]], rtol=1e-6)
    assert "jetpack, propeller" in caplog.text
    with pytest.raises(ConfigError, match="jetpack, propeller"):
        static_cross(mine, other, source="atoms")


def test_a_domain_that_only_borrows_a_published_name_gets_no_row_by_position():
    impostor = Domain(name="cihp", names=("background", "face", "hat"))
    matrix = static_cross(impostor, load_domain("atr"))
    full = cross("cihp", "atr")
    np.testing.assert_array_equal(matrix, full[[0, 13, 1]])


def test_an_unknown_source_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="auto, glove, atoms, onehot"):
        cross("cihp", "atr", source="clip")
