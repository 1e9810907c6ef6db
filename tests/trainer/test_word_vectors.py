"""The static prior from a user's own GloVe or word2vec file."""

import logging

import numpy as np
import pytest

from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ConfigError
from hp_trainer.priors import static_cross

VECTORS = """\
background 0 0 1
left 1 0 0
arm 0 1 0
shoe 3 4 0
hat -1 0 0
"""


@pytest.fixture
def glove_file(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text(VECTORS, "utf-8")
    return path


def test_word_vectors_are_averaged_over_a_name_and_compared_by_cosine(glove_file):
    rows = Domain(name="rows", names=("background", "left-arm", "hat"))
    columns = Domain(name="columns", names=("background", "arm", "shoes", "left_shoe"))
    matrix = static_cross(rows, columns, embeddings=glove_file)
    np.testing.assert_allclose(
        matrix,
        [
            [1, 0, 0, 0],
            [0, np.sqrt(0.5), 7 / 5 / np.sqrt(2), 8 / np.sqrt(32) / np.sqrt(2)],
            [0, 0, 0, 0],  # hat points away from all of these: clamped
        ],
        atol=1e-6,
    )


def test_a_word_out_of_vocabulary_is_dropped_from_its_name(glove_file):
    rows = Domain(name="rows", names=("background", "furry-shoe"))
    columns = Domain(name="columns", names=("background", "arm"))
    matrix = static_cross(rows, columns, embeddings=glove_file)
    assert matrix[1, 1] == pytest.approx(0.8)


def test_a_name_without_any_vector_matches_by_name_and_says_so(glove_file, caplog):
    rows = Domain(name="rows", names=("background", "jetpack", "arm"))
    with caplog.at_level(logging.WARNING):
        matrix = static_cross(rows, rows, embeddings=glove_file)
    np.testing.assert_array_equal(matrix, np.eye(3))
    assert "jetpack" in caplog.text


def test_the_header_of_a_word2vec_file_is_no_vector(glove_file):
    rows = Domain(name="rows", names=("background", "arm"))
    plain = static_cross(rows, rows, embeddings=glove_file)
    glove_file.write_text("5 3\n" + VECTORS + "\n", "utf-8")
    np.testing.assert_array_equal(static_cross(rows, rows, embeddings=glove_file), plain)


@pytest.mark.parametrize("text", ["", "arm 1 2\nshoe 1 2 3\n", "arm one two\nshoe 1 2\n"])
def test_a_file_that_is_no_table_of_vectors_is_refused_by_name(tmp_path, text):
    path = tmp_path / "broken.txt"
    path.write_text(text, "utf-8")
    rows = Domain(name="rows", names=("background", "arm", "shoe"))
    with pytest.raises(ConfigError, match=r"broken\.txt"):
        static_cross(rows, rows, embeddings=path)


def test_a_missing_file_and_a_second_source_are_refused(tmp_path, glove_file):
    cihp, atr = load_domain("cihp"), load_domain("atr")
    with pytest.raises(ConfigError, match=r"absent\.txt"):
        static_cross(cihp, atr, embeddings=tmp_path / "absent.txt")
    with pytest.raises(ConfigError, match="atoms"):
        static_cross(cihp, atr, source="atoms", embeddings=glove_file)
