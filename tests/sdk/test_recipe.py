"""What a receipt proves, and what a photo may be called."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hp_sdk import Parser
from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.recipe import NamedSource, named, preprocess_hash
from hp_sdk.sources import photo
from hp_sdk.testing import FakeBackend, make_bundle

SPEC = InputSpec(size_hw=(64, 48))
HAIR = load_domain("cihp").index("hair")


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle")


def hair():
    return np.full((9, 9, 3), load_domain("cihp").palette[HAIR], np.uint8)


@pytest.mark.parametrize(
    ("artifact", "digits"),
    [("model.fake sha256:{:.12}", 64), ("model.fake", 0), ("other.fake sha256:{:.12}", 0), ("", 0)],
)
def test_the_receipt_has_the_checksum_of_the_file_that_runs(bundle, artifact, digits):
    (described,) = bundle.artifacts
    backend = FakeBackend(bundle)
    backend.facts = replace(backend.facts, artifact=artifact.format(described.sha256))

    receipt = Parser(bundle, backend).predict(hair()).receipt

    assert receipt is not None
    assert receipt.model_sha256 == described.sha256[:digits]


def test_a_checksum_that_is_not_the_bundles_is_no_proof(bundle):
    backend = FakeBackend(bundle)
    backend.facts = replace(backend.facts, artifact="model.fake sha256:000000000000")

    receipt = Parser(bundle, backend).predict(hair()).receipt

    assert receipt is not None
    assert receipt.model_sha256 == ""


def test_the_receipt_has_the_hash_of_the_preprocessing(bundle):
    receipt = Parser(bundle, FakeBackend(bundle)).predict(hair()).receipt

    assert receipt is not None
    assert receipt.preprocess_hash == preprocess_hash(bundle.input)
    assert re.fullmatch("[0-9a-f]{16}", receipt.preprocess_hash)


def test_the_hash_of_the_preprocessing_is_the_same_on_every_machine():
    assert preprocess_hash(SPEC) == "7c7abfd66169ee06"


@pytest.mark.parametrize(
    "change", [{"size_hw": (48, 64)}, {"resize": "stretch"}, {"pad_value": 0}, {"color": "BGR"}]
)
def test_whatever_changes_the_networks_input_changes_the_hash(change):
    assert preprocess_hash(replace(SPEC, **change)) != preprocess_hash(SPEC)


def test_documentation_of_the_graph_does_not_change_the_hash():
    documented = replace(SPEC, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))

    assert preprocess_hash(documented) == preprocess_hash(SPEC)


def test_photos_are_named_by_their_place_and_items_by_themselves():
    item = photo(hair(), name="frame 7")

    assert list(named(["a", item])) == [NamedSource("a", "photo 1 of 2: "), NamedSource(item)]
    assert list(named(iter(["a"]))) == [NamedSource("a", "photo 1: ")]


def test_an_item_is_parsed_like_the_photo_it_stands_for(bundle):
    parser = Parser(bundle, FakeBackend(bundle))

    alone, listed = parser.predict(photo(hair())), parser.predict([photo(hair())])

    assert alone.parts == listed[0].parts == ["hair"]


def test_asked_for_logits_do_not_keep_those_of_the_whole_batch(bundle):
    results = Parser(bundle, FakeBackend(bundle)).predict([hair()] * 4, logits=True)

    assert [result.logits is not None and result.logits.base is None for result in results] == (
        [True] * 4
    )
