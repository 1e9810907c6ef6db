"""OpenVINO: the same labels, in the precision the receipt names, on the device asked for."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import hp_sdk
from hp_sdk import Parser
from hp_sdk.backends import open_backend, openvino
from hp_sdk.backends.base import Absent, BackendOptions
from hp_sdk.backends.openvino import OpenVinoBackend
from hp_sdk.bundle import read_bundle
from hp_sdk.errors import BackendUnavailable, ConfigError, DeviceOutOfMemory, ProviderFallback

UNIVERSAL = Path(hp_sdk.__file__).parent / "bundles" / "universal"
PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"
SIZE = 32

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is missing: pip install openvino"
)
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None,
    reason="ONNX Runtime is missing: pip install onnxruntime",
)


def arithmetic_of(backend):
    """Precisions in which the compiled graph computes, as the graph itself says."""
    operations = backend._graph.get_runtime_model().get_ops()
    return {op.get_rt_info()["runtimePrecision"].astype(str) for op in operations}


@needs_openvino
@needs_onnxruntime
def test_both_runtimes_give_the_same_labels_of_a_photo():
    labels = []
    for backend in ("onnxruntime", "openvino"):
        with Parser.load(UNIVERSAL, backend=backend, device="cpu", num_threads=1) as parser:
            answer = parser.predict(PHOTO, domains=parser.heads)
        assert all(r.receipt and r.receipt.precision == "fp32" for r in answer.values())
        labels.append({head: result.labels for head, result in answer.items()})

    agreement = {head: (labels[0][head] == labels[1][head]).mean() for head in labels[0]}
    assert len(agreement) == 5
    assert min(agreement.values()) >= 0.999, agreement


@needs_openvino
def test_nothing_is_computed_in_bfloat16_unless_asked():
    bundle = read_bundle(UNIVERSAL)
    with_bf16 = "BF16" in openvino._runtime().Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    )

    backend = open_backend(bundle, backend="openvino", num_threads=1)
    assert backend.facts.precision == "fp32"
    assert not arithmetic_of(backend) & {"bf16", "f16"}

    if not with_bf16:
        with pytest.raises(BackendUnavailable, match="bf16"):
            open_backend(bundle, backend="openvino", precision="bf16")
        return
    backend = open_backend(bundle, backend="openvino", precision="bf16", num_threads=1)
    assert backend.facts.precision == "bf16"
    assert "bf16" in arithmetic_of(backend)


@needs_openvino
def test_importing_openvino_writes_nothing_and_loads_no_telemetry(tmp_path):
    program = """
import sys
from hp_sdk.backends import describe_backend
describe_backend("openvino")
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HOME": str(tmp_path), "CI": "", "TF_BUILD": "", "JENKINS_URL": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


@needs_openvino
def test_openvinos_own_properties_go_before_ours():
    backend = open_backend(
        read_bundle(UNIVERSAL), backend="openvino", session_options={"INFERENCE_NUM_THREADS": 1}
    )
    assert isinstance(backend, OpenVinoBackend)
    assert backend._graph.get_property("INFERENCE_NUM_THREADS") == 1

    with pytest.raises(BackendUnavailable, match="NO_SUCH_THING"):
        open_backend(
            read_bundle(UNIVERSAL), backend="openvino", session_options={"NO_SUCH_THING": 1}
        )


@needs_openvino
def test_what_is_compiled_is_kept_where_one_says_and_answers_alike(tmp_path):
    answers = []
    for folder in (None, tmp_path / "cache", tmp_path / "cache"):
        with Parser.load(
            UNIVERSAL, backend="openvino", device="cpu", num_threads=1, cache_dir=folder
        ) as parser:
            answers.append(parser.predict(PHOTO).labels)
        if folder is None:
            assert list(tmp_path.iterdir()) == []

    kept = list((tmp_path / "cache" / "openvino").iterdir())
    assert kept
    assert sum(path.stat().st_size for path in kept) > 2**16
    for answer in answers[1:]:
        np.testing.assert_array_equal(answer, answers[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"providers": ["CPUExecutionProvider"]}, "providers is ONNX Runtime's"),
        ({"session_options": object()}, "mapping of its properties"),
        ({"device": "cuda"}, "allowed are auto, cpu, GPU"),
    ],
)
def test_options_of_other_runtimes_are_refused(fake_openvino, options, said):
    fake_openvino(listed=["CPU"])

    with pytest.raises(ConfigError, match=said):
        OpenVinoBackend("m.onnx", BackendOptions(**options))


class FakeOpenVino:
    """Pretends to be the openvino module: devices as listed, as compiled for, as computed in."""

    __version__ = "2099.1.0-1-commit"

    def __init__(self, *, listed, executes=None, computes=None, failure=None):
        self.available_devices = listed
        self._executes, self._computes, self._failure = executes, computes, failure
        self.compiled = []
        reader = SimpleNamespace(load=str, convert=lambda _: FAKE_MODEL)
        self.frontend = SimpleNamespace(
            FrontEndManager=lambda: SimpleNamespace(load_by_framework=lambda _: reader)
        )

    def Core(self):
        return self

    def Tensor(self, pixels, *, shared_memory):
        return pixels

    def compile_model(self, model, device, settings):
        self.compiled.append((device, settings))
        if self._failure:
            raise self._failure
        answers = {
            "EXECUTION_DEVICES": self._executes or [device],
            "INFERENCE_PRECISION_HINT": SimpleNamespace(
                to_string=lambda: self._computes or settings["INFERENCE_PRECISION_HINT"]
            ),
        }
        return SimpleNamespace(
            get_property=answers.get, outputs=[], create_infer_request=self._request
        )

    def _request(self):
        def infer():
            raise RuntimeError("Exception from src/a.cpp:1:\n\n[GPU] CL_OUT_OF_RESOURCES\n")

        return SimpleNamespace(set_tensor=lambda *_: None, infer=infer)


def fixed(length):
    return SimpleNamespace(is_static=length is not None, get_length=lambda: length)


FAKE_MODEL = SimpleNamespace(
    inputs=[
        SimpleNamespace(
            partial_shape=[fixed(None), fixed(SIZE), fixed(SIZE), fixed(3)],
            element_type=SimpleNamespace(to_string=lambda: "u8"),
            get_any_name=lambda: "image",
        )
    ],
    outputs=[],
)


@pytest.fixture
def fake_openvino(monkeypatch):
    def install(**settings):
        fake = FakeOpenVino(**settings)
        monkeypatch.setattr(openvino, "_runtime", lambda: fake)
        return fake

    return install


@pytest.mark.parametrize(
    ("listed", "asked", "compiled_for"),
    [
        (["CPU"], "cpu", "CPU"),
        (["CPU", "GPU"], "GPU", "GPU"),
        (["CPU", "GPU"], "GPU.0", "GPU.0"),
        (["CPU", "GPU.0", "GPU.1"], "GPU", "GPU"),
        (["CPU", "GPU.0", "GPU.1"], "GPU.1", "GPU.1"),
        (["CPU", "NPU"], "NPU", "NPU"),
    ],
)
def test_a_listed_device_is_taken_by_its_name(fake_openvino, listed, asked, compiled_for):
    fake = fake_openvino(listed=listed)

    backend = OpenVinoBackend("m.onnx", BackendOptions(device=asked))

    assert fake.compiled[0][0] == compiled_for
    assert backend.provider == compiled_for
    assert backend.facts.version == "2099.1.0"


@pytest.mark.parametrize(("listed", "asked"), [(["CPU"], "GPU"), (["CPU", "GPU"], "GPU.1")])
def test_a_device_that_is_not_listed_is_absent(fake_openvino, listed, asked):
    fake = fake_openvino(listed=listed)

    with pytest.raises(Absent, match=f"no {asked}, only {', '.join(listed)}"):
        OpenVinoBackend("m.onnx", BackendOptions(device=asked))
    assert fake.compiled == []


def test_a_model_compiled_for_another_device_is_an_error(fake_openvino):
    fake_openvino(listed=["CPU", "GPU"], executes=["CPU"])

    with pytest.raises(ProviderFallback, match="CPU instead of GPU"):
        OpenVinoBackend("m.onnx", BackendOptions(device="GPU"))


def test_a_precision_asked_for_is_computed_in_or_refused(fake_openvino):
    fake = fake_openvino(listed=["CPU"])
    assert OpenVinoBackend("m.onnx", BackendOptions(precision="fp16")).facts.precision == "fp16"
    assert fake.compiled[0][1]["INFERENCE_PRECISION_HINT"] == "f16"

    fake_openvino(listed=["CPU"], computes="bf16")
    with pytest.raises(BackendUnavailable, match="does not compute in fp16: OpenVINO took bf16"):
        OpenVinoBackend("m.onnx", BackendOptions(precision="fp16"))


def test_what_really_computes_is_told_whatever_was_wished(fake_openvino):
    fake_openvino(listed=["CPU", "NPU"], computes="f16")

    assert OpenVinoBackend("m.onnx", BackendOptions(device="NPU")).facts.precision == "fp16"


def test_threads_and_latency_reach_openvino(fake_openvino):
    fake = fake_openvino(listed=["CPU"])

    OpenVinoBackend("m.onnx", BackendOptions(num_threads=3))

    assert fake.compiled[0][1] == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 3,
    }


def test_a_device_that_fails_to_start_says_why_without_source_files(fake_openvino):
    failure = RuntimeError("Exception from src/core.cpp:117:\nlibOpenCL.so.1: cannot open\n\n")
    fake_openvino(listed=["CPU", "GPU"], failure=failure)

    with pytest.raises(BackendUnavailable, match=r"on GPU: libOpenCL\.so\.1: cannot open$"):
        OpenVinoBackend("m.onnx", BackendOptions(device="GPU"))


def test_running_out_of_memory_advises_a_smaller_batch(fake_openvino):
    fake_openvino(listed=["CPU", "GPU"])

    with pytest.raises(DeviceOutOfMemory, match=r"batch_size .*CL_OUT_OF_RESOURCES"):
        OpenVinoBackend("m.onnx").run(np.zeros((2, SIZE, SIZE, 3), np.uint8))
