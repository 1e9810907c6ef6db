"""Runtimes open what was asked for, say what really runs, and fail in one sentence."""

import logging
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from hp_sdk import backends
from hp_sdk.backends import BACKENDS, BackendEntry, open_backend
from hp_sdk.backends.base import BackendOptions, Facts, check_batch, run_in_chunks
from hp_sdk.backends.ort import OrtBackend
from hp_sdk.bundle import read_bundle, write_manifest
from hp_sdk.errors import (
    BackendError,
    BackendUnavailable,
    ChecksumMismatch,
    ConfigError,
    CorruptArtifact,
    InputError,
    SchemaMismatch,
)
from hp_sdk.testing import FAKE, FakeBackend, make_bundle

SIZE = 32
CPU = "CPUExecutionProvider"


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


@pytest.fixture
def real_runtime():
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture
def onnx_bundle(tmp_path, real_runtime):
    return make_bundle(
        tmp_path / "bundle", size_hw=(SIZE, SIZE), runtime="onnx", content=tiny_onnx()
    )


def batch_of(count, value=100):
    return np.full((count, SIZE, SIZE, 3), value, np.uint8)


def test_onnx_runtime_gives_the_networks_logits(onnx_bundle):
    backend = open_backend(onnx_bundle, device="cpu")

    logits = backend.run(batch_of(1))["logits.cihp"]

    assert logits.shape == (1, 20, SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(logits[0, :, 3, 3], np.arange(20) * 10, rtol=1e-5)


def test_what_runs_is_said(onnx_bundle, real_runtime):
    backend = open_backend(onnx_bundle, device="cpu")

    assert (backend.name, backend.provider) == ("onnxruntime", CPU)
    assert backend.input_hw == (SIZE, SIZE)
    assert backend.facts.version == real_runtime.__version__
    assert backend.facts.artifact.startswith("model.onnx sha256:")
    assert (backend.facts.batch_opt, backend.facts.batch_max) == (2, 4)


def test_a_batch_above_the_maximum_is_split(onnx_bundle):
    backend = open_backend(onnx_bundle)
    batch = np.random.default_rng(0).integers(0, 256, (11, SIZE, SIZE, 3)).astype(np.uint8)

    at_once = backend.run(batch)["logits.cihp"]

    one_by_one = [backend.run(photo[None])["logits.cihp"] for photo in batch]
    np.testing.assert_allclose(at_once, np.concatenate(one_by_one), rtol=1e-5)


def test_a_fixed_batch_is_filled_up_and_cut_back(tmp_path, real_runtime):
    path = tmp_path / "fixed.onnx"
    path.write_bytes(tiny_onnx(batch=4))
    backend = OrtBackend(path)

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


def test_one_session_serves_several_threads(onnx_bundle):
    backend = open_backend(onnx_bundle, num_threads=1)
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


def test_a_closed_backend_says_so(onnx_bundle):
    backend = open_backend(onnx_bundle)
    backend.close()
    backend.close()

    with pytest.raises(BackendError, match="closed"):
        backend.run(batch_of(1))


@pytest.mark.parametrize("content", [b"", b"not a network", None], ids=["empty", "text", "half"])
def test_a_file_that_is_no_network_is_corrupt(tmp_path, real_runtime, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_onnx()[:300] if content is None else content)

    with pytest.raises(CorruptArtifact, match=r"model\.onnx") as refusal:
        OrtBackend(path, BackendOptions(device="cpu"))
    assert "\n" not in str(refusal.value)


def test_a_corrupt_network_is_corrupt_on_whatever_device(tmp_path, real_runtime):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")

    with pytest.raises(CorruptArtifact):
        OrtBackend(path, BackendOptions(providers=[CPU]))


def test_a_truncated_artifact_is_found_before_the_runtime_sees_it(onnx_bundle):
    path = onnx_bundle.root / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(ChecksumMismatch, match="truncated"):
        open_backend(onnx_bundle)


@pytest.mark.parametrize("settings", [{"dtype": "FLOAT"}, {"height": None}])
def test_a_network_with_another_input_is_refused(tmp_path, real_runtime, settings):
    path = tmp_path / "other.onnx"
    path.write_bytes(tiny_onnx(**settings))

    with pytest.raises(SchemaMismatch, match="uint8 input"):
        OrtBackend(path)


def test_a_network_without_the_promised_output_is_refused(tmp_path, real_runtime):
    bundle = make_bundle(
        tmp_path / "b", size_hw=(SIZE, SIZE), runtime="onnx", content=tiny_onnx(output="something")
    )

    with pytest.raises(SchemaMismatch, match=r"something.*logits\.cihp"):
        open_backend(bundle)


def test_a_missing_runtime_names_the_extra(tmp_path):
    bundle = make_bundle(tmp_path / "b", runtime="onnx")
    program = f"""
import sys
sys.modules["onnxruntime"] = None
from hp_sdk.backends import open_backend
from hp_sdk.bundle import read_bundle
try:
    open_backend(read_bundle({str(bundle.root)!r}))
except Exception as exc:
    print(type(exc).__name__, exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("BackendUnavailable")
    assert 'pip install "hp-sdk[cpu]"' in done.stdout


def test_auto_takes_the_first_that_works_and_says_why(tmp_path, monkeypatch, caplog):
    bundle = make_bundle(tmp_path / "b")
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    with caplog.at_level(logging.INFO):
        backend = open_backend(bundle)

    assert backend.name == "fake"
    assert "chose fake" in caplog.text
    assert "'onnxruntime' needs an artifact of kind 'onnx'" in caplog.text


def test_auto_with_nothing_that_works_lists_every_reason(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "b")
    monkeypatch.setitem(BACKENDS, "other", BackendEntry("hp_sdk.none", "none", "other"))

    with pytest.raises(BackendUnavailable, match=r"'onnxruntime'.*'other'"):
        open_backend(bundle)


def test_an_unknown_backend_or_precision_is_refused(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "b")
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    with pytest.raises(ConfigError, match=r"'tensorflow'.*onnxruntime"):
        open_backend(bundle, backend="tensorflow")
    with pytest.raises(ConfigError, match=r"no int8.*fp32"):
        open_backend(bundle, backend="fake", precision="int8")


def test_precision_chooses_among_artifacts(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "b")
    full = bundle.artifacts[0]
    half = replace(full, precision_found="fp16", batch_max=3)
    write_manifest(replace(bundle, artifacts=(full, half)), bundle.root)
    monkeypatch.setitem(BACKENDS, "fake", FAKE)

    opened = backends.open_backend(read_bundle(bundle.root), backend="fake", precision="fp16")

    assert opened.facts.batch_max == 3
