"""The bundle on disk: complete and right, or not there at all."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from hp_export import options as options_module
from hp_export import workshop
from hp_export.census import MANIFEST_KEY, read_onnx, take_census
from hp_export.probes import figure
from hp_export.replay import read_golden, replay_golden
from hp_export.strip import bare_network
from hp_export.verify import Reference
from hp_export.write import ExportOptions, ExportReport, export_bundle
from hp_sdk.backends import BackendOptions
from hp_sdk.backends.ort import open_artifact
from hp_sdk.bundle import read_bundle, verify_files, write_manifest
from hp_sdk.errors import (
    ConfigError,
    CorruptArtifact,
    ExportError,
    UnknownHead,
    VerificationFailed,
)
from hp_sdk.files import sha256_of
from hp_trainer.checkpoint import Checkpoint
from hp_trainer.models.sst import MEAN, STD


@pytest.fixture
def without_tracing(exported: ExportReport, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Answers every trace with the model that was traced once; a test may change it."""
    model = read_onnx(exported.bundle.root / "model.fp32.onnx")
    del model.metadata_props[:]
    monkeypatch.setattr(workshop, "to_onnx", lambda *_args, **_options: model)
    return model


def test_the_bundle_reads_back_and_its_files_are_those_it_names(exported: ExportReport) -> None:
    bundle = read_bundle(exported.bundle.root)
    verify_files(bundle)
    assert list(bundle.heads) == ["pascal", "cihp"]
    assert bundle.heads["cihp"].output == "logits.cihp"
    assert bundle.input.size_hw == (64, 96)
    assert sorted(p.name for p in bundle.root.rglob("*") if p.is_file()) == [
        "bundle.json",
        "golden.npz",
        "model.fp32.onnx",
    ]


def test_the_manifest_says_what_was_asked_and_what_was_found(exported: ExportReport) -> None:
    (artifact,) = read_bundle(exported.bundle.root).artifacts
    path = exported.bundle.root / artifact.file
    assert artifact.runtime == "onnx"
    assert (artifact.precision_asked, artifact.precision_found) == ("fp32", "fp32")
    assert (artifact.batch_min, artifact.batch_opt, artifact.batch_max) == (1, 8, 16)
    assert artifact.opset == 18
    assert artifact.size_bytes == path.stat().st_size
    assert artifact.outputs == ("logits.pascal", "logits.cihp")


def test_the_manifest_holds_a_passed_verdict_for_every_head_and_batch(
    exported: ExportReport,
) -> None:
    entries = read_bundle(exported.bundle.root).verify
    assert {(e["head"], e["batch"]) for e in entries} == {
        (head, batch) for head in ("pascal", "cihp") for batch in (1, 2, 16)
    }
    assert {e["verdict"] for e in entries} == {"pass"}


def test_a_lone_onnx_file_still_says_what_it_is(exported: ExportReport) -> None:
    census = take_census(read_onnx(exported.bundle.root / "model.fp32.onnx"))
    manifest = json.loads(census.metadata[MANIFEST_KEY])
    bundle = exported.bundle
    assert manifest["name"] == bundle.name
    assert manifest["heads"]["cihp"]["names"] == list(bundle.heads["cihp"].domain.names)
    assert manifest["input"]["size_hw"] == [64, 96]


def test_the_card_says_which_weights_these_are(
    exported: ExportReport, checkpoint: Checkpoint
) -> None:
    origin = exported.bundle.card["checkpoint"]
    assert origin["step"] == 7
    changed = {key: value.clone() for key, value in checkpoint.model.items()}
    changed["heads.cihp.bias"][0] += 1
    assert options_module._provenance(checkpoint) == origin
    assert options_module._provenance(replace(checkpoint, model=changed)) != origin


def test_golden_labels_are_the_network_s_own(
    exported: ExportReport, checkpoint: Checkpoint
) -> None:
    arrays = read_golden(exported.bundle)
    reference = Reference(bare_network(checkpoint), ["cihp"], mean=MEAN, std=STD)
    logits = torch.from_numpy(reference(arrays["image"][None])["cihp"])
    large = functional.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
    assert np.array_equal(arrays["labels.cihp"], large[0].argmax(0).numpy())
    assert arrays["labels.pascal"].dtype == np.uint8
    assert len(np.unique(arrays["labels.cihp"])) > 1


def test_the_golden_sample_replays_on_this_machine(exported: ExportReport) -> None:
    replay = replay_golden(read_bundle(exported.bundle.root))
    assert replay.agreement.keys() == {"pascal", "cihp"}
    assert min(replay.agreement.values()) >= 0.999
    assert replay.provider == "CPUExecutionProvider"


def with_golden(folder: Path, **changes: np.ndarray) -> None:
    """Replace arrays of the golden sample and correct its checksum."""
    bundle = read_bundle(folder)
    arrays = read_golden(bundle) | changes
    path = folder / "golden" / "golden.npz"
    np.savez_compressed(path, allow_pickle=False, **arrays)
    golden = dict(bundle.golden or {}) | {"sha256": sha256_of(path)}
    write_manifest(replace(bundle, golden=golden), folder)


def test_other_labels_than_the_golden_ones_are_a_failure(bundle_folder: Path) -> None:
    labels = read_golden(read_bundle(bundle_folder))["labels.cihp"]
    labels[:10] = (labels[:10] + 1) % 20
    with_golden(bundle_folder, **{"labels.cihp": labels})
    bundle = read_bundle(bundle_folder)
    verify_files(bundle)
    with pytest.raises(VerificationFailed, match="cihp agrees on 84"):
        replay_golden(bundle)


def test_a_golden_sample_of_another_size_is_refused(bundle_folder: Path) -> None:
    with_golden(bundle_folder, image=np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(CorruptArtifact, match="golden labels are"):
        replay_golden(read_bundle(bundle_folder))


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_a_damaged_golden_sample_is_refused(bundle_folder: Path, damage: str) -> None:
    path = bundle_folder / "golden" / "golden.npz"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:200] if damage == "truncated" else b"no array")
    with pytest.raises(CorruptArtifact, match="golden sample"):
        replay_golden(read_bundle(bundle_folder))


def test_a_tampered_artifact_is_not_written(
    checkpoint: Checkpoint, without_tracing: onnx.ModelProto, tmp_path: Path
) -> None:
    bias = next(t for t in without_tracing.graph.initializer if list(t.dims) == [20])
    values = np.frombuffer(bias.raw_data, np.float32).copy()
    values[4] += 0.5
    bias.raw_data = values.tobytes()
    with pytest.raises(VerificationFailed, match="head cihp"):
        export_bundle(checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_older_bundle_as_it_was(
    checkpoint: Checkpoint, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untraceable(*_args: object, **_options: object) -> onnx.ModelProto:
        raise ExportError("cannot be traced")

    before = {p: p.read_bytes() for p in bundle_folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(workshop, "to_onnx", untraceable)
    with pytest.raises(ExportError):
        export_bundle(checkpoint, bundle_folder)
    assert {p: p.read_bytes() for p in bundle_folder.rglob("*") if p.is_file()} == before
    assert list(bundle_folder.parent.iterdir()) == [bundle_folder]


def test_a_new_export_replaces_an_older_bundle(
    checkpoint: Checkpoint, bundle_folder: Path, without_tracing: onnx.ModelProto
) -> None:
    report = export_bundle(
        checkpoint,
        bundle_folder,
        ExportOptions(name="mine", version="2.0", license="CC0-1.0", card={"note": "hello"}),
    )
    bundle = read_bundle(bundle_folder)
    assert (bundle.name, bundle.version, bundle.license) == ("mine", "2.0", "CC0-1.0")
    assert bundle.card["note"] == "hello"
    assert report.to_dict()["name"] == "mine"


def test_fp16_weights_pass_the_same_gate(
    checkpoint: Checkpoint, without_tracing: onnx.ModelProto, tmp_path: Path
) -> None:
    report = export_bundle(
        checkpoint, tmp_path / "half", ExportOptions(precisions=("fp16-weights",))
    )
    (artifact,) = read_bundle(tmp_path / "half").artifacts
    assert (artifact.precision_asked, artifact.precision_found) == ("fp16-weights", "fp16-weights")
    assert report.census.weights["float16"] > report.census.weights["float32"]
    assert 0 < max(entry["max_abs"] for entry in report.bundle.verify) < 0.1


def test_a_folder_that_is_no_bundle_is_never_overwritten(
    checkpoint: Checkpoint, without_tracing: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"photo")
    with pytest.raises(ConfigError, match=r"holds no bundle\.json"):
        export_bundle(checkpoint, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (ExportOptions(heads=("atr",)), UnknownHead, "it has pascal, cihp"),
        (ExportOptions(size_hw=(64, 100)), ConfigError, "the nearest is 64x96"),
        (ExportOptions(precisions=("fp32", "fp8")), ConfigError, "this version writes fp32, fp16"),
        (ExportOptions(precisions=("bf16",)), ConfigError, "cannot be written: ONNX convolutions"),
        (ExportOptions(precisions=("int8",)), ConfigError, "add --calib DIR"),
        (ExportOptions(opset=20), ConfigError, "opset is 20"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    checkpoint: Checkpoint,
    tmp_path: Path,
    options: ExportOptions,
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        export_bundle(checkpoint, tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_describe_its_input_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CorruptArtifact, match="does not say how its input is prepared"):
        export_bundle(replace(checkpoint, input={}), tmp_path / "bundle")


@pytest.mark.parametrize(
    ("size_hw", "stride_hw"),
    [(None, (32, 64)), ((64, 96), (32, 64)), ((128, 128), None)],
)
def test_windows_of_the_checkpoint_reach_the_bundle_where_they_fit(
    checkpoint: Checkpoint,
    tmp_path: Path,
    size_hw: tuple[int, int] | None,
    stride_hw: tuple[int, int] | None,
) -> None:
    windows = {"resize": "shortest-side", "stride_hw": [32, 64], "longest_px": 400}
    described = replace(checkpoint, input=dict(checkpoint.input) | windows)
    plan = options_module.plan_bundle(described, tmp_path, ExportOptions(size_hw=size_hw))
    assert plan.input.resize == "shortest-side"
    assert plan.input.stride_hw == stride_hw
    assert plan.input.longest_px == 400


def test_a_bundle_holds_two_sizes_each_traced_and_verified_for_itself(
    checkpoint: Checkpoint, exported: ExportReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = read_onnx(exported.bundle.root / "model.fp32.onnx")
    trace = workshop.to_onnx
    monkeypatch.setattr(
        workshop,
        "to_onnx",
        lambda graph, size_hw, **options: (
            once if size_hw == (64, 96) else trace(graph, size_hw, **options)
        ),
    )
    options = ExportOptions(more_sizes_hw=((96, 64),), batch=(1, 1, 2))
    bundle = export_bundle(checkpoint, tmp_path / "two", options).bundle
    assert [(a.file, a.size_hw) for a in bundle.artifacts] == [
        ("model.fp32.64x96.onnx", (64, 96)),
        ("model.fp32.96x64.onnx", (96, 64)),
    ]
    assert {(e["artifact"], e["verdict"]) for e in bundle.verify} == {
        (artifact.file, "pass") for artifact in bundle.artifacts
    }
    reference = Reference(bare_network(checkpoint), ["cihp"], mean=MEAN, std=STD)
    pixels = figure((96, 64))[None]
    with closing(open_artifact(bundle, bundle.artifacts[1], BackendOptions())) as backend:
        found = backend.run(pixels)["logits.cihp"]
    assert found.shape == (1, 20, 24, 16)
    assert np.allclose(found, reference(pixels)["cihp"], atol=1e-3)
