"""The whole way of a photo, with a network that reads colours."""

import threading

import cv2
import numpy as np
import pytest

from hp_sdk import Parser, Result
from hp_sdk.backends import BACKENDS
from hp_sdk.domains import load_domain
from hp_sdk.errors import (
    BackendError,
    ChecksumMismatch,
    ConfigError,
    InputError,
    ModelNotFound,
    SchemaMismatch,
    UnknownHead,
)
from hp_sdk.models import add_model
from hp_sdk.testing import FAKE, FakeBackend, make_bundle, palette_oracle
from hp_sdk.tta import TTA

CIHP = load_domain("cihp")
HAIR, DRESS = CIHP.index("hair"), CIHP.index("dress")


def picture_of(labels, domain=CIHP):
    return np.array(domain.palette, np.uint8)[labels]


def person(height=64, width=64):
    """Hair above, a dress below, as ids."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 8 : height // 4, width // 4 : 3 * width // 4] = HAIR
    labels[height // 2 : 7 * height // 8, width // 4 : 3 * width // 4] = DRESS
    return labels


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))


@pytest.fixture
def backend(bundle):
    return FakeBackend(bundle, batch_max=4)


@pytest.fixture
def parser(bundle, backend):
    return Parser(bundle, backend)


@pytest.fixture
def loadable(bundle, monkeypatch):
    """A folder that `Parser.load` opens with the fake."""
    monkeypatch.setitem(BACKENDS, "fake", FAKE)
    return bundle.root


def test_a_painted_person_is_read_back(parser):
    result = parser.predict(picture_of(person()))

    assert isinstance(result, Result)
    assert (result.labels == person()).mean() > 0.95
    assert result.parts == ["dress", "hair"]
    assert result.mask("hair")[12, 32]


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (33, 97), (300, 301), (1, 1), (5, 400)])
def test_labels_have_the_size_of_the_photo(parser, size):
    result = parser.predict(picture_of(person(*size)))

    assert result.labels.shape == size
    assert result.image is not None
    assert result.image.shape == (*size, 3)


def test_a_large_photo_is_answered_in_its_own_pixels(parser):
    labels = person(640, 480)

    assert (parser.predict(picture_of(labels)).labels == labels).mean() > 0.9


def test_path_bytes_rgb_and_bgr_arrays_agree(parser, tmp_path):
    rgb = picture_of(person())
    path = tmp_path / "person.png"
    cv2.imwrite(str(path), rgb[..., ::-1])

    answers = [
        parser.predict(path),
        parser.predict(str(path)),
        parser.predict(path.read_bytes()),
        parser.predict(rgb),
        parser.predict(np.ascontiguousarray(rgb[..., ::-1]), color="bgr"),
    ]

    for answer in answers:
        np.testing.assert_array_equal(answer.labels, answers[0].labels)
        np.testing.assert_array_equal(answer.image, rgb)


def test_one_photo_gives_one_result_and_a_list_gives_a_list(parser):
    photo = picture_of(person())

    assert isinstance(parser.predict(photo), Result)
    assert isinstance(parser.predict([photo]), list)
    assert isinstance(parser.predict((photo, photo)), list)
    assert parser.predict([]) == []


def test_a_list_is_run_in_batches_with_a_tail(parser, backend):
    photos = [picture_of(person(40 + 7 * i, 90 - 5 * i)) for i in range(11)]

    together = parser.predict(photos)

    assert backend.batches == [4, 4, 3]
    for photo, result in zip(photos, together, strict=True):
        np.testing.assert_array_equal(result.labels, parser.predict(photo).labels)


def test_batch_size_is_the_parsers_unless_given(bundle, backend):
    parser = Parser(bundle, backend, batch_size=2)
    photos = [picture_of(person())] * 3

    parser.predict(photos)
    parser.predict(photos, batch_size=1)
    parser.predict(photos, batch_size=3)

    assert backend.batches == [2, 1, 1, 1, 1, 3]


def test_views_share_the_batch(bundle, backend):
    parser = Parser(bundle, backend, tta="flip")

    parser.predict([picture_of(person())] * 3)

    assert backend.batches == [4, 2]


def test_flipping_changes_no_clear_answer(parser):
    photo = picture_of(person(80, 61))

    plain, flipped = parser.predict(photo), parser.predict(photo, tta="flip")

    assert (plain.labels == flipped.labels).mean() > 0.95
    assert flipped.receipt.tta == "scales 1 + flip, mean logits"


def test_tta_can_be_switched_off_for_one_photo(bundle, backend):
    parser = Parser(bundle, backend, tta=TTA(flip=True))

    plain, flipped = (
        parser.predict(picture_of(person()), tta=None),
        parser.predict(picture_of(person())),
    )

    assert plain.receipt
    assert plain.receipt.tta == "none"
    assert flipped.receipt
    assert flipped.receipt.tta != "none"


def test_several_domains_come_from_one_pass(parser, backend):
    answers = parser.predict(picture_of(person()), domains=["cihp", "atr"])

    assert list(answers) == ["cihp", "atr"]
    assert answers["atr"].domain.names == load_domain("atr").names
    assert answers["atr"].receipt.head == "atr"
    assert backend.batches == [1]


def test_several_photos_and_domains_give_a_list_of_dicts(parser):
    answers = parser.predict([picture_of(person())] * 2, domains=["atr"])

    assert [list(answer) for answer in answers] == [["atr"], ["atr"]]


def test_confidence_is_there_only_if_asked_for(parser):
    photo = picture_of(person())

    assert parser.predict(photo).confidence is None
    confidence = parser.predict(photo, confidence=True).confidence
    assert confidence.shape == (64, 64)
    assert confidence[32 + 8, 32] > 250


def test_confidence_survives_views_of_either_average(parser):
    for average in ("logits", "probs"):
        tta = TTA(flip=True, average=average)
        confidence = parser.predict(picture_of(person()), tta=tta, confidence=True).confidence
        assert confidence[40, 32] > 250


def test_logits_are_there_only_if_asked_for(parser):
    photo = picture_of(person())

    assert parser.predict(photo).logits is None
    assert parser.predict(photo, logits=True, tta="flip").logits.shape == (20, 16, 16)


def test_the_receipt_says_what_ran(parser):
    receipt = parser.predict(picture_of(person())).receipt

    assert (receipt.model, receipt.head) == ("fake 1", "cihp")
    assert (receipt.backend, receipt.provider) == ("fake 0", "FakeProvider")
    assert receipt.network_hw == (64, 64)
    assert (receipt.precision, receipt.tta) == ("fp32", "none")


def test_every_step_is_timed(parser):
    timing = parser.predict(picture_of(person())).timing

    assert list(timing) == ["load", "fit", "network", "labels", "total"]
    assert timing["total"] == pytest.approx(sum(list(timing.values())[:-1]))
    assert min(timing.values()) >= 0


WAYS = {
    "predict": lambda parser, photos: [parser.predict(photo) for photo in photos],
    "predict a list": lambda parser, photos: parser.predict(photos),
    "stream": lambda parser, photos: list(parser.stream(photos)),
    "submit": lambda parser, photos: [f.result(60) for f in map(parser.submit, photos)],
}


@pytest.mark.parametrize("ways", [["predict"], list(WAYS)])
def test_eight_threads_may_share_a_parser_in_any_way(parser, ways):
    photos = [picture_of(person(40 + i, 50 + 9 * i)) for i in range(8)]
    expected = [parser.predict(photo).labels for photo in photos]
    together, got = threading.Barrier(8, timeout=60), {}

    def work(i):
        mine = photos[i:] + photos[:i]
        together.wait()
        got[i] = WAYS[ways[i % len(ways)]](parser, mine)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parser.close()

    for i, results in got.items():
        for result, labels in zip(results, expected[i:] + expected[:i], strict=True):
            np.testing.assert_array_equal(result.labels, labels)
    assert len(got) == 8


def test_a_bad_photo_in_a_list_is_named_by_its_place(parser):
    with pytest.raises(InputError, match=r"photo 2 of 3: array has shape"):
        parser.predict([picture_of(person()), np.zeros((3, 8, 8), np.uint8), b""])


def test_a_bad_photo_alone_is_named_by_itself(parser, tmp_path):
    with pytest.raises(InputError, match=r"^'.*nowhere\.jpg' does not exist"):
        parser.predict(tmp_path / "nowhere.jpg")


def test_an_unknown_head_lists_what_there_is(bundle, backend, parser):
    with pytest.raises(UnknownHead, match=r"'ccp'.*cihp, atr"):
        parser.predict(picture_of(person()), domains=["ccp"])
    with pytest.raises(UnknownHead, match="'legs'"):
        Parser(bundle, backend, head="legs")


@pytest.mark.parametrize("domains", [[], "cihp"])
def test_domains_must_be_a_list_of_some(parser, domains):
    with pytest.raises(ConfigError, match="give a list"):
        parser.predict(picture_of(person()), domains=domains)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "many"])
def test_a_batch_size_is_auto_or_a_count(bundle, backend, batch_size):
    with pytest.raises(ConfigError, match="batch_size"):
        Parser(bundle, backend, batch_size=batch_size)
    with pytest.raises(ConfigError, match="batch_size"):
        Parser(bundle, backend).predict(picture_of(person()), batch_size=batch_size)


def test_a_network_with_too_few_channels_is_refused(bundle):
    def narrow(batch, head):
        return palette_oracle(batch, head)[:, :18]

    with pytest.raises(SchemaMismatch, match=r"\(1, 18, 16, 16\).*20 classes"):
        Parser(bundle, FakeBackend(bundle, narrow)).predict(picture_of(person()))


def test_a_closed_parser_says_so(bundle, backend):
    with Parser(bundle, backend) as parser:
        parser.predict(picture_of(person()))

    with pytest.raises(BackendError, match="closed"):
        parser.predict(picture_of(person()))


def test_the_default_head_is_cihp_or_the_first(tmp_path):
    without = make_bundle(tmp_path / "b", domains=("pascal", "atr"))
    with_it = make_bundle(tmp_path / "c", domains=("pascal", "cihp"))

    assert Parser(without, FakeBackend(without)).head == "pascal"
    assert Parser(with_it, FakeBackend(with_it)).head == "cihp"


def test_heads_domains_and_repr_describe_the_model(parser):
    assert parser.heads == ("cihp", "atr")
    assert parser.domain.names == CIHP.names
    assert parser.domains["atr"].num_classes == 18
    assert "fake 1" in repr(parser)
    assert "FakeProvider" in repr(parser)


def test_a_bundle_is_loaded_from_its_folder(loadable):
    with Parser.load(loadable, backend="fake", tta="flip", batch_size=3) as parser:
        assert parser.batch_size == 3
        assert parser.predict(picture_of(person())).parts == ["dress", "hair"]


def test_a_missing_model_lists_what_there_is(tmp_path):
    with pytest.raises(ModelNotFound):
        Parser.load("no-such-model")
    with pytest.raises(ModelNotFound, match="does not exist"):
        Parser.load(tmp_path / "nowhere")


def test_a_misspelt_option_is_refused_while_loading(loadable):
    with pytest.raises(ConfigError, match="tta"):
        Parser.load(loadable, backend="fake", tta="flop")
    with pytest.raises(ConfigError, match="batch_size"):
        Parser.load(loadable, backend="fake", batch_size=0)
    with pytest.raises(ConfigError, match="backend"):
        Parser.load(loadable, backend="fakes")


def test_a_backend_is_closed_if_the_parser_cannot_be_made(loadable, monkeypatch):
    opened = []

    def open_and_remember(*args, **options):
        opened.append(FakeBackend(*args[:1]))
        return opened[0]

    monkeypatch.setattr("hp_sdk.parser.open_backend", open_and_remember)
    monkeypatch.setattr("hp_sdk.parser.find_bundle", lambda model, root: (loadable, "legs"))

    with pytest.raises(UnknownHead):
        Parser.load(loadable)
    with pytest.raises(BackendError, match="closed"):
        opened[0].run(np.zeros((1, 64, 64, 3), np.uint8))


def test_cache_dir_is_the_root_instead_of_hp_home(loadable, tmp_path, monkeypatch):
    monkeypatch.setenv("HP_HOME", str(tmp_path / "other"))
    add_model("mine", loadable)
    monkeypatch.setenv("HP_HOME", str(tmp_path / "home"))

    with Parser.load("mine", backend="fake", cache_dir=str(tmp_path / "other")) as parser:
        assert parser.predict(picture_of(person())).parts == ["dress", "hair"]
    with pytest.raises(ModelNotFound, match="mine"):
        Parser.load("mine", backend="fake")
    assert not (tmp_path / "home").exists()


def test_a_real_network_runs_behind_the_parser(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx to make a network")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto
    palette = np.array(CIHP.palette, np.float32)
    # argmax of 2 c.p - p.p is the colour nearest to c; the convolution means over 4 x 4 pixels.
    weights = np.repeat(np.repeat((2 * palette / 16)[:, :, None, None], 4, 2), 4, 3)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=types.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "w", "b"], ["logits.cihp"], strides=[4, 4]),
        ],
        "palette",
        [helper.make_tensor_value_info("image", types.UINT8, ["n", 64, 64, 3])],
        [helper.make_tensor_value_info("logits.cihp", types.FLOAT, ["n", 20, 16, 16])],
        [
            helper.make_tensor("w", types.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("b", types.FLOAT, [20], -np.square(palette).sum(1)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    bundle = make_bundle(tmp_path / "b", runtime="onnx", content=model.SerializeToString())

    with Parser.load(bundle.root, device="cpu", num_threads=1) as parser:
        results = parser.predict([picture_of(person())] * 5, tta="flip")

    assert [(r.labels == person()).mean() > 0.95 for r in results] == [True] * 5
    receipt = results[0].receipt
    assert receipt
    assert receipt.provider == "CPUExecutionProvider"

    (bundle.root / "model.onnx").write_bytes(b"half")
    with pytest.raises(ChecksumMismatch):
        Parser.load(bundle.root)
