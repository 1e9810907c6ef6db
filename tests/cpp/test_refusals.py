"""A bundle or an option that Python refuses is refused by C++ with the same class of error."""

import json
import shutil

import pytest

from hp_sdk import Parser
from hp_sdk.errors import (
    BackendUnavailable,
    ChecksumMismatch,
    ConfigError,
    CorruptArtifact,
    HpError,
    ModelNotFound,
    SchemaMismatch,
    VerificationFailed,
)
from hp_sdk.files import sha256_of

pytestmark = [
    pytest.mark.cpp,
    pytest.mark.timeout(1500),
    pytest.mark.usefixtures("onnxruntime_only"),
]


def edit(folder, change):
    path = folder / "bundle.json"
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), "utf-8")


def put(*keys, value):
    """A change that puts `value` at this place of the manifest; None removes the last key."""

    def change(data):
        for key in keys[:-1]:
            data = data[key]
        if value is None:
            del data[keys[-1]]
        else:
            data[keys[-1]] = value

    return lambda folder: edit(folder, change)


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def graph_of(folder):
    (path,) = folder.glob("*.onnx")
    return path


def truncate(folder):
    path = graph_of(folder)
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_byte(folder):
    path = graph_of(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def no_onnx(folder):
    path = graph_of(folder)
    path.write_bytes(b"this is no network")
    digest = {"sha256": sha256_of(path), "size_bytes": path.stat().st_size}
    edit(folder, lambda data: data["artifacts"][0].update(digest))


HEAD = ("heads", "cihp")
ARTIFACT = ("artifacts", 0)
DAMAGES = {
    "no manifest": (lambda folder: (folder / "bundle.json").unlink(), ModelNotFound),
    "no JSON": (write("bundle.json", b'{"schema": '), CorruptArtifact),
    "no object": (write("bundle.json", b"[1, 2]"), CorruptArtifact),
    "not UTF-8": (write("bundle.json", b'{"schema": "\xff"}'), CorruptArtifact),
    "a byte order mark": (write("bundle.json", b"\xef\xbb\xbf{}"), CorruptArtifact),
    "a web page": (write("bundle.json", b"\n<!DOCTYPE html><html>"), CorruptArtifact),
    "an LFS pointer": (
        lambda folder: graph_of(folder).write_bytes(
            b"version https://git-lfs.github.com/spec/v1\n"
        ),
        CorruptArtifact,
    ),
    "newer schema": (put("schema", value="2.0"), SchemaMismatch),
    "schema is a number": (put("schema", value=1.0), SchemaMismatch),
    "no name": (put("name", value=None), SchemaMismatch),
    "no heads": (put("heads", value={}), SchemaMismatch),
    "heads is a list": (put("heads", value=[]), SchemaMismatch),
    "unknown resize": (put("input", "resize", value="crop"), SchemaMismatch),
    "stride between steps": (put("input", "stride_hw", value=[33, 32]), SchemaMismatch),
    "stride with gaps": (put("input", "stride_hw", value=[224, 1024]), SchemaMismatch),
    "longest side 0": (put("input", "longest_px", value=0), SchemaMismatch),
    "size of one side": (put("input", "size_hw", value=[224]), SchemaMismatch),
    "size is true": (put("input", "size_hw", value=[True, 224]), SchemaMismatch),
    "pad beyond a byte": (put("input", "pad_value", value=256), SchemaMismatch),
    "names twice": (put(*HEAD, "names", value=["background", "hat", "Hat"]), SchemaMismatch),
    "one name": (put(*HEAD, "names", value=["background"]), SchemaMismatch),
    "no background": (put(*HEAD, "names", value=["hat", "hair"]), SchemaMismatch),
    "short palette": (put(*HEAD, "palette", value=[[0, 0, 0]]), SchemaMismatch),
    "pair with itself": (put(*HEAD, "flip_pairs", value=[[3, 3]]), SchemaMismatch),
    "pair of nobody": (put(*HEAD, "flip_pairs", value=[[3, "wing"]]), SchemaMismatch),
    "group like a part": (put(*HEAD, "groups", value={"hat": [1]}), SchemaMismatch),
    "alias of nobody": (put(*HEAD, "aliases", value={"cap": 99}), SchemaMismatch),
    "small ignore id": (put(*HEAD, "ignore_index", value=3), SchemaMismatch),
    "other output": (put(*HEAD, "output", value="logits.wings"), SchemaMismatch),
    "stride zero": (put(*HEAD, "stride", value=0), SchemaMismatch),
    "other size": (put(*ARTIFACT, "size_hw", value=[32, 32]), SchemaMismatch),
    "unknown head": (put(*ARTIFACT, "heads", value=["wings"]), SchemaMismatch),
    "file outside": (put(*ARTIFACT, "file", value="../model.onnx"), SchemaMismatch),
    "file absent": (put(*ARTIFACT, "file", value="other.onnx"), CorruptArtifact),
    "no file name": (put(*ARTIFACT, "file", value=""), CorruptArtifact),
    "file truncated": (truncate, ChecksumMismatch),
    "a flipped bit": (flip_a_byte, ChecksumMismatch),
    "no network": (no_onnx, CorruptArtifact),
    "no artifact": (put("artifacts", value=[]), BackendUnavailable),
    "artifact of another runtime": (
        put(*ARTIFACT, "runtime", value="tensorrt"),
        BackendUnavailable,
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_is_refused_as_in_python(native, bundle_copy, damage):
    spoil, expected = DAMAGES[damage]
    spoil(bundle_copy)
    with pytest.raises(HpError) as python:
        Parser.load(bundle_copy, backend="onnxruntime", device="cpu", num_threads=1)
    with pytest.raises(HpError) as cpp:
        native.load(bundle_copy, backend="onnxruntime", device="cpu")
    assert isinstance(python.value, expected)
    assert isinstance(cpp.value, expected)
    assert cpp.value.exit_code == python.value.exit_code


def test_a_network_that_is_none_is_refused_by_both_runtimes(native, runtime, bundle_copy):
    no_onnx(bundle_copy)
    with pytest.raises(CorruptArtifact, match=r"model\.fp32\.onnx"):
        native.load(bundle_copy, backend=runtime)


OPTIONS = [
    ({"backend": "tflite"}, ConfigError, "onnxruntime, openvino"),
    ({"device": "tpu"}, ConfigError, "allowed are auto, cpu"),
    ({"device": "cuda:x"}, ConfigError, "no device 'cuda:x'"),
    ({"device": "cpu:0"}, ConfigError, "no device 'cpu:0'"),
    ({"backend": "openvino", "device": "cuda"}, ConfigError, "knows no device|no device"),
    ({"precision": "int4"}, ConfigError, "it has fp32"),
    ({"tta": "twice"}, ConfigError, "none, flip, ms"),
    ({"batch_size": -1}, ConfigError, "batch_size is -1"),
    ({"num_threads": -1}, ConfigError, "num_threads is -1"),
    ({"head": "face"}, HpError, "no head 'face'"),
    ({"onnxruntime": "/nowhere.so", "backend": "onnxruntime"}, BackendUnavailable, "nowhere"),
]


@pytest.mark.parametrize(("options", "expected", "says"), OPTIONS)
def test_a_wrong_option_is_refused(native, bundle_copy, options, expected, says):
    with pytest.raises(expected, match=says):
        native.load(bundle_copy, **options)


def test_a_device_asked_for_by_name_is_used_or_missed(native, bundle_copy):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendUnavailable, match="built without CUDA"):
        native.load(bundle_copy, device="cuda:0")
    with native.load(bundle_copy, device="cuda:0", allow_fallback=1) as parser:
        assert parser.selftest() >= 0.999


def test_an_unknown_name_lists_what_there_is(native, tmp_path, repository, monkeypatch):
    monkeypatch.setenv("HP_HOME", str(tmp_path))
    bundles = str(repository / "hp_sdk" / "bundles")
    with pytest.raises(ModelNotFound, match=r"no model 'nobody'; use .*universal.*cihp"):
        native.load("nobody", bundles=bundles)
    with pytest.raises(ModelNotFound, match="does not exist"):
        native.load(tmp_path / "nowhere", bundles=bundles)
    shutil.copytree(repository / "hp_sdk" / "bundles" / "universal", tmp_path / "models" / "mine")
    with native.load("mine", bundles=bundles) as parser:
        assert parser.selftest() >= 0.999


def test_other_golden_labels_fail_the_self_test(native, bundle_copy):
    edit(bundle_copy, lambda data: data["golden"].update(tolerance_label_agreement=1.1))
    with (
        native.load(bundle_copy, backend="onnxruntime") as parser,
        pytest.raises(VerificationFailed, match="required 110"),
    ):
        parser.selftest()


def test_a_damaged_golden_sample_is_named(native, bundle_copy):
    golden = bundle_copy / "golden" / "golden.npz"
    golden.write_bytes(golden.read_bytes()[:-50])
    with native.load(bundle_copy, backend="onnxruntime") as parser:
        with pytest.raises(ChecksumMismatch, match=r"golden\.npz"):
            parser.selftest()
        edit(bundle_copy, lambda data: data["golden"].update(sha256=sha256_of(golden)))
    with (
        native.load(bundle_copy, backend="onnxruntime") as parser,
        pytest.raises(CorruptArtifact, match="golden"),
    ):
        parser.selftest()
