"""CLIP's tokens, computed by hand from a few merges.

Ids: a printable character is its code less 33, as the end of a word 256 more; merges follow at 512.
"""

import gzip
from pathlib import Path

import pytest

from hp_sdk.errors import ConfigError, CorruptArtifact, ModelError, ModelNotFound
from hp_trainer.clip_tokenizer import CLIPTokenizer, clean, read_tokenizer

MERGES = ["l e", "f t</w>", "le ft</w>", "a r", "ar m</w>"]
LE, LEFT, ARM = 512, 514, 516
VOCABULARY = 512 + len(MERGES) + 2
HEADER = '"merges.txt#version: 0.2'


def pairs(*lines: str) -> list[tuple[str, str]]:
    return [(line.split()[0], line.split()[1]) for line in lines]


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer(pairs(*MERGES))


@pytest.fixture
def merges(tmp_path: Path) -> Path:
    path = tmp_path / "merges.txt"
    path.write_text("\n".join([HEADER, *MERGES]) + "\n")
    return path


def code(character: str, *, last: bool = False) -> int:
    return ord(character) - ord("!") + 256 * last


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("left arm", [LEFT, ARM]),
        ("a", [320]),  # the id that every prompt of CLIP begins with
        ("lefts", [LE, code("f"), code("t"), code("s", last=True)]),  # ft only ends a word
        ("leleft", [LE, LEFT]),
        ("lele", [LE, code("l"), code("e", last=True)]),
        (
            "Left-arm's",
            [LEFT, code("-", last=True), ARM, code("'"), code("s", last=True)],
        ),
        ("12", [code("1", last=True), code("2", last=True)]),  # digits one by one
        ("arm?!", [ARM, code("?"), code("!", last=True)]),
        ("arm_left", [ARM, code("_", last=True), LEFT]),
        ("", []),
    ],
)
def test_text_becomes_the_ids_of_its_pieces(tokenizer: CLIPTokenizer, text: str, ids: list[int]):
    assert tokenizer.encode(text) == ids


def test_the_earlier_merge_goes_first():
    assert CLIPTokenizer(pairs("b c</w>", "a b")).encode("abc") == [code("a"), 512]
    assert CLIPTokenizer(pairs("a b", "b c</w>")).encode("abc") == [512, code("c", last=True)]


def test_a_pair_is_joined_wherever_it_occurs():
    assert CLIPTokenizer(pairs("a b")).encode("ababa") == [512, 512, code("a", last=True)]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Upper \t\n CLOTHES ", "upper clothes"),
        ("t&amp;t", "t&t"),
        ("t&amp;amp;t", "t&t"),  # resolved twice, as CLIP does
    ],
)
def test_text_is_cleaned_as_clip_does(text: str, cleaned: str):
    assert clean(text) == cleaned


@pytest.mark.parametrize("text", ["Ärmel", "上衣", "caf&eacute;", "left\x07arm"])
def test_what_is_not_english_is_refused(tokenizer: CLIPTokenizer, text: str):
    with pytest.raises(ConfigError, match="not plain English"):
        tokenizer.encode(text)


def test_texts_lie_between_start_and_end_and_zeros_follow(tokenizer: CLIPTokenizer):
    rows = tokenizer.tokens(["left arm", "", "a a a a a a"], context=8)
    assert rows.tolist() == [
        [517, LEFT, ARM, 518, 0, 0, 0, 0],
        [517, 518, 0, 0, 0, 0, 0, 0],
        [517, *6 * [320], 518],
    ]
    assert tokenizer.tokens(["left"]).shape == (1, 77)


def test_a_text_that_is_too_long_is_refused(tokenizer: CLIPTokenizer):
    with pytest.raises(ConfigError, match=r"has 76 tokens; .* at most 75"):
        tokenizer.tokens(["a " * 76])


def test_merges_are_read_plain_and_gzipped(merges: Path, tmp_path: Path):
    packed = tmp_path / "vocabulary.txt.gz"
    packed.write_bytes(gzip.compress(merges.read_bytes()))
    for path in (merges, packed):
        tokenizer = read_tokenizer(path, VOCABULARY)
        assert tokenizer.vocabulary == VOCABULARY
        assert tokenizer.tokens(["left arm"], 4).tolist() == [[517, LEFT, ARM, 518]]


def test_of_more_merges_than_the_encoder_has_tokens_for_the_first_count(merges: Path):
    tokenizer = read_tokenizer(merges, VOCABULARY - 2)
    assert tokenizer.vocabulary == VOCABULARY - 2
    assert tokenizer.encode("left arm") == [LEFT, code("a"), code("r"), code("m", last=True)]


def test_too_few_merges_are_an_error_with_both_counts(merges: Path):
    with pytest.raises(ModelError, match=r"holds 5 merges, .* 49408 tokens .* needs 48894"):
        read_tokenizer(merges, 49408)
    with pytest.raises(ModelError, match=r"0 merges, .* 100 tokens"):
        read_tokenizer(merges, 100)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"l e\nf t</w>\n" * 99)[:-12],  # cut off
        b"\x93NUMPY\x01\x00\xff\xfe",
        b"to be\nor not\n",  # two words a line, but no merges
        b"l e f\n",
        b"<!doctype html>\n<html></html>\n",
    ],
)
def test_what_is_no_file_of_merges_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "merges.txt"
    path.write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"merges\.txt cannot be read.*bpe_simple_vocab_16e6"):
        read_tokenizer(path, VOCABULARY)


def test_a_missing_file_of_merges_is_named(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"nowhere\.txt"):
        read_tokenizer(tmp_path / "nowhere.txt", VOCABULARY)
