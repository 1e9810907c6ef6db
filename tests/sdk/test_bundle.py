"""Bundles on disk: read, refused, verified, written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hp_sdk.bundle import (
    Artifact,
    Bundle,
    DataFile,
    HeadSpec,
    InputSpec,
    manifest_dict,
    read_bundle,
    verify_artifact,
    verify_files,
    write_manifest,
)
from hp_sdk.domains import Domain, load_domain
from hp_sdk.errors import ChecksumMismatch, CorruptArtifact, ModelNotFound, SchemaMismatch
from hp_sdk.files import sha256_of

CONTENT = b"onnx" * 100


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    """A bundle of two heads, one of them a user's domain, with files that are no real model."""
    root = tmp_path / "two"
    (root / "golden").mkdir(parents=True)
    (root / "model.onnx").write_bytes(CONTENT)
    (root / "golden" / "golden.npz").write_bytes(b"npz")
    own = Domain("own", ("background", "tail"), groups={"any": (1,)}, aliases={"t": "tail"})
    heads = {d.name: HeadSpec(d, f"logits.{d.name}") for d in (load_domain("cihp"), own)}
    artifact = Artifact(
        runtime="onnx",
        file="model.onnx",
        sha256=sha256_of(root / "model.onnx"),
        size_bytes=len(CONTENT),
        heads=tuple(heads),
        precision_asked="fp32",
        precision_found="fp32",
        batch_min=1,
        batch_opt=1,
        batch_max=16,
        size_hw=(64, 96),
        opset=18,
        outputs=("logits.cihp", "logits.own"),
    )
    golden = {
        "file": "golden/golden.npz",
        "sha256": sha256_of(root / "golden" / "golden.npz"),
        "tolerance_label_agreement": 0.999,
    }
    built = Bundle(
        root=root,
        name="two",
        family="sst",
        version="1.2.0",
        license="Apache-2.0",
        input=InputSpec(size_hw=(64, 96), mean=(1.5, 2.0, 3.0)),
        heads=heads,
        artifacts=(artifact,),
        card={"note": "an [ odd ] note"},
        verify=[{"max_abs": 1e-6}],
        golden=golden,
    )
    write_manifest(built, root)
    return built


def _rewrite(bundle: Bundle, change) -> Path:
    path = bundle.root / "bundle.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return bundle.root


def test_a_written_bundle_reads_back_the_same(bundle):
    again = read_bundle(bundle.root)
    assert manifest_dict(again) == manifest_dict(bundle)
    assert (again.input, again.artifacts, again.root) == (
        bundle.input,
        bundle.artifacts,
        bundle.root,
    )
    assert again.card == {"note": "an [ odd ] note"}


def test_the_domain_travels_in_the_bundle(bundle):
    heads = read_bundle(bundle.root).heads
    assert list(heads) == ["cihp", "own"]
    assert heads["own"].domain.names == ("background", "tail")
    assert heads["own"].domain.indices("any") == heads["own"].domain.indices("t") == (1,)
    cihp = load_domain("cihp")
    for key in ("names", "flip_pairs", "palette", "groups", "aliases"):
        assert getattr(heads["cihp"].domain, key) == getattr(cihp, key)


def test_the_manifest_has_the_documented_keys(bundle):
    data = json.loads((bundle.root / "bundle.json").read_text())
    assert list(data) == [
        "schema", "name", "family", "version", "license", "card", "input", "heads", "artifacts",
        "verify", "golden",
    ]  # fmt: skip
    assert data["schema"] == "1.0"
    assert data["input"]["size_hw"] == [64, 96]
    assert {"names", "flip_pairs", "palette", "groups", "ignore_index", "output", "stride"} <= set(
        data["heads"]["cihp"]
    )
    assert data["artifacts"][0]["sha256"] == bundle.artifacts[0].sha256


def test_a_whole_bundle_verifies(bundle):
    verify_files(bundle)
    assert verify_artifact(bundle, bundle.artifacts[0]) == bundle.root / "model.onnx"


@pytest.mark.parametrize("file", ["model.onnx", "golden/golden.npz"])
def test_one_changed_byte_is_found_and_named(bundle, file):
    content = (bundle.root / file).read_bytes()
    (bundle.root / file).write_bytes(content[:-1] + b"!")
    with pytest.raises(ChecksumMismatch, match=file):
        verify_files(bundle)


def test_a_truncated_artifact_is_called_truncated(bundle):
    (bundle.root / "model.onnx").write_bytes(CONTENT[:50])
    with pytest.raises(ChecksumMismatch, match="truncated: 50 bytes, the manifest says 400"):
        verify_files(bundle)


def test_an_lfs_pointer_is_called_one(bundle):
    (bundle.root / "model.onnx").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 400\n"
    )
    with pytest.raises(CorruptArtifact, match="git lfs pull"):
        verify_files(bundle)


def test_a_web_page_in_place_of_a_file_is_called_one(bundle):
    for file in ("model.onnx", "bundle.json"):
        (bundle.root / file).write_text("\n<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(CorruptArtifact, match=r"model\.onnx' is a web page"):
        verify_files(bundle)
    with pytest.raises(CorruptArtifact, match=r"bundle\.json' is a web page"):
        read_bundle(bundle.root)


def test_a_missing_file_is_named(bundle):
    (bundle.root / "model.onnx").unlink()
    with pytest.raises(CorruptArtifact, match=r"'two' lacks its file 'model\.onnx'"):
        verify_files(bundle)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(ModelNotFound, match=r"holds no bundle\.json"):
        read_bundle(tmp_path)
    with pytest.raises(ModelNotFound, match="nowhere"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', "\x00\x01"])
def test_a_broken_manifest_is_corrupt(bundle, content):
    (bundle.root / "bundle.json").write_text(content)
    with pytest.raises(CorruptArtifact, match=r"bundle\.json"):
        read_bundle(bundle.root)


def test_a_newer_major_schema_is_refused_and_a_newer_minor_is_read(bundle):
    root = _rewrite(bundle, lambda data: data.update(schema="1.7", something_new=1))
    assert read_bundle(root).name == "two"
    _rewrite(bundle, lambda data: data.update(schema="2.0"))
    with pytest.raises(SchemaMismatch, match=r"schema 2\.0; this release reads 1\.x"):
        read_bundle(root)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", None, "name is missing"),
        ("name", 3, "name is 3"),
        ("input", None, "input is missing"),
        ("input.size_hw", None, r"input\.size_hw is missing"),
        ("input.size_hw", [64], r"input\.size_hw is \[64\]"),
        ("input.size_hw", [64, -1], r"input\.size_hw"),
        ("input.resize", "crop", r"input\.resize is 'crop'.*letterbox"),
        ("input.pad_value", 300, r"input\.pad_value is 300; allowed is 0 to 255"),
        ("input.color", "BGR", r"input\.color"),
        ("heads", {}, "heads is {}"),
        ("heads.cihp.names", ["a"], r"heads\.cihp: domain 'cihp': names"),
        ("heads.cihp.names", None, r"heads\.cihp: domain 'cihp': names"),
        ("heads.cihp.stride", 0, r"heads\.cihp\.stride is 0"),
        ("heads.own", 1, r"heads\.own is 1"),
        ("artifacts", {}, "artifacts is {}"),
        ("artifacts.0", 7, r"artifacts\[0\] is 7"),
        ("artifacts.0.sha256", None, r"artifacts\[0\]\.sha256 is missing"),
        ("artifacts.0.size_bytes", "big", r"artifacts\[0\]\.size_bytes"),
        ("artifacts.0.batch_max", True, r"artifacts\[0\]\.batch_max"),
        ("artifacts.0.heads", ["lip"], r"artifacts\[0\]\.heads is 'lip'; allowed is cihp, own"),
        ("artifacts.0.file", "../x.onnx", r"artifacts\[0\]\.file.*inside the bundle"),
        ("artifacts.0.file", "/etc/x.onnx", r"artifacts\[0\]\.file.*inside the bundle"),
        ("artifacts.0.file", "a\\..\\x", r"artifacts\[0\]\.file.*inside the bundle"),
        ("golden.file", "../x", r"golden\.file"),
        ("golden.sha256", None, r"golden\.sha256 is missing"),
    ],
)
def test_a_wrong_manifest_is_refused_by_key_path(bundle, path, value, message):
    def change(data):
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            data = data[key]
        if value is None:
            del data[last]
        else:
            data[last] = value

    with pytest.raises(SchemaMismatch, match=message):
        read_bundle(_rewrite(bundle, change))


@pytest.fixture
def large(bundle) -> Bundle:
    """The bundle with an artifact whose weights lie in a second file."""
    path = bundle.root / "model.onnx.data"
    path.write_bytes(b"weights" * 50)
    data = DataFile(file=path.name, sha256=sha256_of(path), size_bytes=350)
    large = replace(bundle, artifacts=(replace(bundle.artifacts[0], data=(data,)),))
    write_manifest(large, bundle.root)
    return large


def test_a_second_file_of_weights_is_listed_and_verified(large):
    assert read_bundle(large.root).artifacts == large.artifacts
    assert large.root / "model.onnx.data" in verify_files(large)
    (listed,) = json.loads((large.root / "bundle.json").read_text())["artifacts"][0]["data"]
    assert listed == {
        "file": "model.onnx.data",
        "sha256": sha256_of(large.root / "model.onnx.data"),
        "size_bytes": 350,
    }


def test_an_artifact_without_a_second_file_says_nothing_of_one(bundle):
    assert "data" not in manifest_dict(bundle)["artifacts"][0]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, CorruptArtifact, "lacks its file 'model.onnx.data'"),
        (b"weights" * 40, ChecksumMismatch, "truncated: 280 bytes, the manifest says 350"),
        (b"Weights" * 50, ChecksumMismatch, "model.onnx.data' is damaged"),
        (b"version https://git-lfs.github.com/spec/v1", CorruptArtifact, "Git LFS pointer"),
    ],
)
def test_a_damaged_second_file_stops_the_artifact_from_being_opened(large, content, error, message):
    path = large.root / "model.onnx.data"
    path.unlink() if content is None else path.write_bytes(content)
    for check in (verify_files, lambda bundle: verify_artifact(bundle, bundle.artifacts[0])):
        with pytest.raises(error, match=message):
            check(read_bundle(large.root))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "../w", "sha256": "0", "size_bytes": 1}, r"data\[0\]\.file.*inside the bundle"),
        ({"file": "w", "size_bytes": 1}, r"artifacts\[0\]\.data\[0\]\.sha256 is missing"),
        ({"file": "w", "sha256": "0"}, r"data\[0\]\.size_bytes is missing"),
        ("w", r"artifacts\[0\]\.data\[0\] is 'w'; allowed is an object"),
    ],
)
def test_a_wrong_entry_of_a_second_file_is_refused(bundle, entry, message):
    root = _rewrite(bundle, lambda data: data["artifacts"][0].update(data=[entry]))
    with pytest.raises(SchemaMismatch, match=message):
        read_bundle(root)


def test_a_bundle_without_golden_sample_is_allowed(bundle):
    root = _rewrite(bundle, lambda data: data.update(golden=None))
    assert read_bundle(root).golden is None
    verify_files(read_bundle(root))
