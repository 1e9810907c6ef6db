"""Runtimes that read ONNX give the same answers, say what really runs, and fail in one sentence."""

import importlib.util
import sys
import threading

import numpy as np
import pytest

from hp_sdk.backends import BACKENDS, describe_backend, open_backend
from hp_sdk.backends.base import (
    Absent,
    BackendOptions,
    Facts,
    check_batch,
    importing,
    run_in_chunks,
)
from hp_sdk.backends.openvino import OpenVinoBackend
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ChecksumMismatch,
    CorruptArtifact,
    InputError,
    SchemaMismatch,
)
from hp_sdk.testing import FakeBackend, make_bundle

SIZE = 32
OPENS = {"onnxruntime": OrtBackend, "openvino": OpenVinoBackend}
PROVIDERS = {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}
TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def tiny_onnx(*, batch: int | str = "n", dtype="UINT8", output="logits.cihp", height=SIZE):
    """A network whose class k at a cell is k/10 times the mean of its pixels, as ONNX bytes."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to make a network")
    helper, types, channels = onnx.helper, onnx.TensorProto, 20
    weights = np.repeat(np.arange(channels, dtype=np.float32)[:, None] / 480, 48, 1)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=types.FLOAT),
            helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["planes", "w"], [output], strides=[4, 4]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", getattr(types, dtype), [batch, height, SIZE, 3])],
        [helper.make_tensor_value_info(output, types.FLOAT, [batch, channels, None, None])],
        [helper.make_tensor("w", types.FLOAT, [channels, 3, 4, 4], weights.ravel())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


@pytest.fixture(params=OPENS)
def runtime(request):
    """Name of an installed runtime that reads ONNX; found without importing it."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(
            f"{TITLES[request.param]} is missing: install it with pip install {request.param}"
        )
    return request.param


@pytest.fixture
def onnx_bundle(tmp_path):
    return make_bundle(
        tmp_path / "bundle", size_hw=(SIZE, SIZE), runtime="onnx", content=tiny_onnx()
    )


@pytest.fixture
def open_cpu(runtime, onnx_bundle):
    def open_cpu(bundle=onnx_bundle, **options):
        return open_backend(bundle, backend=runtime, device="cpu", **options)

    return open_cpu


@pytest.fixture
def open_file(runtime):
    return OPENS[runtime]


def batch_of(count, value=100):
    return np.full((count, SIZE, SIZE, 3), value, np.uint8)


def test_the_answer_is_the_networks_logits(open_cpu):
    logits = open_cpu().run(batch_of(1))["logits.cihp"]

    assert logits.shape == (1, 20, SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(logits[0, :, 3, 3], np.arange(20) * 10, rtol=1e-5)


def test_what_runs_is_said(open_cpu, runtime):
    backend = open_cpu()

    assert (backend.name, backend.provider) == (runtime, PROVIDERS[runtime])
    assert backend.input_hw == (SIZE, SIZE)
    assert backend.facts.version == describe_backend(runtime).version
    assert backend.facts.artifact.startswith("model.onnx sha256:")
    assert (backend.facts.precision, backend.facts.notes) == ("fp32", ())
    assert (backend.facts.batch_opt, backend.facts.batch_max) == (2, 4)


def test_a_runtime_tells_its_version_and_devices_before_anything_is_opened(runtime):
    installed = describe_backend(runtime)

    assert installed.version[0].isdigit()
    assert installed.devices[0] == "cpu"
    assert PROVIDERS[runtime] in installed.listed


def test_a_batch_above_the_maximum_is_split(open_cpu):
    backend = open_cpu()
    batch = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3)).astype(np.uint8)

    at_once = backend.run(batch)["logits.cihp"]

    one_by_one = [backend.run(photo[None])["logits.cihp"] for photo in batch]
    np.testing.assert_allclose(at_once, np.concatenate(one_by_one), rtol=1e-5)


def test_a_fixed_batch_is_filled_up_and_cut_back(tmp_path, open_file):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(tiny_onnx(batch=4))
    backend = open_file(path)

    logits = backend.run(batch_of(5))["logits.cihp"]

    assert len(logits) == 5
    np.testing.assert_allclose(logits[4, 1], 10, rtol=1e-5)


def test_chunks_keep_order_and_sizes():
    sizes = []

    def run(chunk):
        sizes.append(len(chunk))
        return {"sum": chunk.sum((1, 2, 3))}

    batch = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    answer = run_in_chunks(run, batch, Facts(batch_min=2, batch_max=3))

    assert sizes == [3, 3, 2]
    assert answer["sum"].tolist() == [0, 3, 6, 9, 12, 15, 18]


def test_only_the_outputs_asked_for_come_back(tmp_path):
    bundle = make_bundle(tmp_path / "bundle", domains=("cihp", "atr"))

    outputs = FakeBackend(bundle).run(np.zeros((1, 64, 64, 3), np.uint8), outputs=["logits.atr"])

    assert {name: logits.shape for name, logits in outputs.items()} == {
        "logits.atr": (1, 18, 16, 16)
    }


def test_batches_of_any_size_follow_one_another(open_cpu):
    backend = open_cpu()

    for count in (1, 4, 2, 9, 3):
        logits = backend.run(batch_of(count, 10 * count))["logits.cihp"]
        np.testing.assert_allclose(
            logits[:, 10], np.full_like(logits[:, 10], 10 * count), rtol=1e-5
        )


def test_an_answer_survives_the_next_run(open_cpu):
    backend = open_cpu()

    first = backend.run(batch_of(1, 20))["logits.cihp"]
    backend.run(batch_of(1, 200))

    np.testing.assert_allclose(first[0, 10], np.full_like(first[0, 10], 20), rtol=1e-5)


def test_one_model_serves_several_threads(open_cpu):
    backend = open_cpu(num_threads=1)
    answers = {}

    def ask(value):
        answers[value] = backend.run(batch_of(3, value))["logits.cihp"][2, 10, 0, 0]

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(0, 250, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    np.testing.assert_allclose([answers[v] for v in answers], list(answers), atol=1e-3)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
        np.zeros((0, SIZE, SIZE, 3), np.uint8),
    ],
)
def test_a_batch_of_another_shape_is_refused(batch):
    with pytest.raises(InputError, match="uint8"):
        check_batch(batch, (SIZE, SIZE))


def test_a_closed_backend_says_so(open_cpu):
    backend = open_cpu()
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        backend.run(batch_of(1))


@pytest.mark.parametrize("content", [b"", b"not a network", None], ids=["empty", "text", "half"])
def test_a_file_that_is_no_network_is_corrupt(tmp_path, open_file, content, capfd):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx()[:300] if content is None else content)

    with pytest.raises(CorruptArtifact, match=r"model\.onnx") as refusal:
        open_file(path, BackendOptions(device="cpu"))
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_artifact_is_found_before_the_runtime_sees_it(onnx_bundle, open_cpu):
    path = onnx_bundle.root / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(ChecksumMismatch, match="truncated"):
        open_cpu()


@pytest.mark.parametrize("settings", [{"dtype": "FLOAT"}, {"height": None}])
def test_a_network_with_another_input_is_refused(tmp_path, open_file, settings):
    path = tmp_path / "other.onnx"
    path.write_bytes(tiny_onnx(**settings))

    with pytest.raises(SchemaMismatch, match="uint8 input"):
        open_file(path)


def test_a_network_without_the_promised_output_is_refused(tmp_path, open_cpu):
    bundle = make_bundle(
        tmp_path / "b", size_hw=(SIZE, SIZE), runtime="onnx", content=tiny_onnx(output="something")
    )

    with pytest.raises(SchemaMismatch, match=r"something.*logits\.cihp"):
        open_cpu(bundle)


def test_an_output_that_is_not_there_fails_in_one_sentence(open_cpu, runtime):
    with pytest.raises(BackendError, match=TITLES[runtime]) as failure:
        open_cpu().run(batch_of(1), outputs=["logits.mars"])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    bundle = make_bundle(tmp_path / "b", runtime=BACKENDS[name].reads)

    with pytest.raises(Absent, match=rf'pip install "hp-sdk\[{BACKENDS[name].extra}\]"'):
        open_backend(bundle, backend=name)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ImportError("libnumbers.so.1: cannot open shared object file"), r"libnumbers\.so\.1"),
        (AttributeError("_ARRAY_API not found\nmore"), "_ARRAY_API not found"),
        (ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"), "flatbuffers"),
    ],
)
def test_a_broken_runtime_is_told_from_a_missing_one(raised, said):
    with (
        pytest.raises(BackendUnavailable, match=f"{said}.*pip install it") as refusal,
        importing("runtime", "Runtime", "pip install it"),
    ):
        raise raised
    assert not isinstance(refusal.value, Absent)
    assert "\n" not in str(refusal.value)
