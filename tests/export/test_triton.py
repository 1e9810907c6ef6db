"""A bundle as a model of Triton Inference Server."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from hp_export.census import read_onnx
from hp_export.labels import add_labels
from hp_export.replay import read_golden
from hp_export.tail import outputs_of, with_labels
from hp_export.tensorrt.sidecar import Sidecar, write_sidecar
from hp_export.triton import artifact_to_serve, write_triton
from hp_export.write import ExportReport
from hp_sdk import Parser
from hp_sdk.bundle import Artifact, Bundle, read_bundle
from hp_sdk.errors import ChecksumMismatch, ConfigError, ModelNotFound
from hp_sdk.files import sha256_of, write_bytes

CONFIG = """\
name: "tiny"
max_batch_size: 16
version_policy {
  latest {
    num_versions: 1
  }
}
input {
  name: "image"
  data_type: TYPE_UINT8
  dims: [64, 96, 3]
  format: FORMAT_NHWC
}
output {
  name: "labels.pascal"
  data_type: TYPE_UINT8
  dims: [64, 96]
  label_filename: "pascal.labels.txt"
}
output {
  name: "confidence.pascal"
  data_type: TYPE_UINT8
  dims: [64, 96]
}
output {
  name: "labels.cihp"
  data_type: TYPE_UINT8
  dims: [64, 96]
  label_filename: "cihp.labels.txt"
}
output {
  name: "confidence.cihp"
  data_type: TYPE_UINT8
  dims: [64, 96]
}
dynamic_batching {
  preferred_batch_size: [8, 16]
  max_queue_delay_microseconds: 2000
}
model_warmup {
  name: "batch 1"
  batch_size: 1
  inputs {
    key: "image"
    value {
      data_type: TYPE_UINT8
      dims: [64, 96, 3]
      input_data_file: "golden"
    }
  }
}
model_warmup {
  name: "batch 8"
  batch_size: 8
  inputs {
    key: "image"
    value {
      data_type: TYPE_UINT8
      dims: [64, 96, 3]
      input_data_file: "golden"
    }
  }
}
parameters {
  key: "hp_sdk.version"
  value {
    string_value: "1.0.0"
  }
}
parameters {
  key: "hp_sdk.resize"
  value {
    string_value: "letterbox"
  }
}
parameters {
  key: "hp_sdk.pad_value"
  value {
    string_value: "0"
  }
}
parameters {
  key: "hp_sdk.color"
  value {
    string_value: "RGB"
  }
}
backend: "onnxruntime"
default_model_filename: "model.onnx"
instance_group {
  count: 1
  kind: KIND_AUTO
}
"""


@pytest.fixture(scope="module")
def bundle(exported: ExportReport) -> Bundle:
    return read_bundle(exported.bundle.root)


@pytest.fixture(scope="module")
def served(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_triton(bundle, tmp_path_factory.mktemp("repository"))


@pytest.fixture
def parse() -> Callable[[Path], Any]:
    """Reads a config.pbtxt with Triton's published schema, which knows every field it allows."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip(reason="Triton's schema is missing: pip install --no-deps tritonclient")
    # only this file of the package: the rest of it needs grpc
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    text_format = importlib.import_module("google.protobuf.text_format")
    return lambda path: text_format.Parse(path.read_text(), schema.ModelConfig())


def artifact_path(bundle: Bundle) -> Path:
    return bundle.root / bundle.artifacts[0].file


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_model_has_the_layout_of_a_repository(bundle: Bundle, served: Path) -> None:
    assert served.name == bundle.name == "tiny"
    assert list(files(served)) == [
        "1/model.onnx",
        "cihp.labels.txt",
        "config.pbtxt",
        "pascal.labels.txt",
        "warmup/golden",
    ]


def test_the_configuration_describes_the_file_beside_it(served: Path) -> None:
    assert (served / "config.pbtxt").read_text() == CONFIG
    model = read_onnx(served / "1" / "model.onnx")
    assert [(spec.name, spec.dims) for spec in outputs_of(model)] == [
        ("labels.pascal", (64, 96)),
        ("confidence.pascal", (64, 96)),
        ("labels.cihp", (64, 96)),
        ("confidence.cihp", (64, 96)),
    ]


def test_the_published_schema_accepts_the_configuration(
    served: Path, parse: Callable[[Path], Any]
) -> None:
    config = parse(served / "config.pbtxt")
    assert config.name == "tiny"
    assert config.max_batch_size == 16
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    assert [tuple(output.dims) for output in config.output] == [(64, 96)] * 4
    assert config.model_warmup[0].inputs["image"].input_data_file == "golden"
    assert config.parameters["hp_sdk.resize"].string_value == "letterbox"


def test_raw_pixels_go_in_and_the_parser_s_labels_come_out(bundle: Bundle, served: Path) -> None:
    session = onnxruntime.InferenceSession(str(served / "1" / "model.onnx"))
    golden = read_golden(bundle)
    pixels = np.frombuffer((served / "warmup" / "golden").read_bytes(), np.uint8)
    pixels = pixels.reshape(64, 96, 3)
    assert np.array_equal(pixels, golden["image"])
    batch = np.stack([pixels, pixels[:, ::-1], 255 - pixels])
    found = dict(
        zip(
            [output.name for output in session.get_outputs()],
            session.run(None, {"image": batch}),
            strict=True,
        )
    )
    with Parser.load(bundle.root) as parser:
        for head in ("pascal", "cihp"):
            labels = np.asarray(found[f"labels.{head}"])
            assert labels.dtype == np.uint8
            assert (labels[0] == golden[f"labels.{head}"]).mean() > 0.999
            for k in range(3):
                expected = parser.predict(batch[k], domains=[head])[head]
                assert (labels[k] == expected.labels).mean() > 0.999


def test_label_files_list_the_names_in_the_order_of_ids(bundle: Bundle, served: Path) -> None:
    names = (served / "cihp.labels.txt").read_text().splitlines()
    assert tuple(names) == bundle.heads["cihp"].domain.names


def test_two_runs_write_the_same_bytes(bundle: Bundle, served: Path, tmp_path: Path) -> None:
    again = write_triton(bundle, tmp_path)
    assert files(again) == files(served)
    write_triton(bundle, tmp_path)  # over itself
    assert files(again) == files(served)


def test_labels_that_the_file_computes_already_are_not_computed_twice(bundle: Bundle) -> None:
    once = add_labels(read_onnx(artifact_path(bundle)), list(bundle.heads), (64, 96))
    served = with_labels(once, bundle)
    assert len(served.graph.output) == 4
    assert [node.op_type for node in served.graph.node].count("ArgMax") == 2


def test_a_file_that_answers_labels_is_served_before_its_sibling(bundle: Bundle) -> None:
    plain = bundle.artifacts[0]
    labels = replace(plain, file="e2e.onnx", outputs=("labels.pascal", "labels.cihp"))
    half = replace(labels, file="half.onnx", precision_found="fp16")
    both = replace(bundle, artifacts=(plain, half, labels))
    assert artifact_to_serve(both).file == "e2e.onnx"
    assert artifact_to_serve(replace(bundle, artifacts=(plain, half))) == plain


def write_engine(bundle: Bundle, capability: str, *, source: str, batch: int = 16) -> Artifact:
    """An engine of the bundle and its sidecar; the content is what nobody here can run."""
    path = bundle.root / f"sm{capability}.engine"
    write_bytes(path, capability.encode())
    write_sidecar(
        path,
        Sidecar(
            file=path.name, sha256=sha256_of(path), size_bytes=len(capability), runtime="tensorrt",
            version="10.16.1.11", compute_capabilities=(capability,), gpu="", system="Linux x86_64",
            typing="strong", tf32=False, profile={}, outputs={}, layers=1, source={"file": source},
            options={"batch": [1, 4, batch]}, build_s=1.0, built_utc="2026-11-21T00:00:00+00:00",
        ),
    )  # fmt: skip
    return replace(
        bundle.artifacts[0], runtime="tensorrt", file=path.name, sha256=sha256_of(path),
        size_bytes=len(capability),
    )  # fmt: skip


def with_engines(folder: Path, *capabilities: str, batch: int = 16, source: str = "") -> Bundle:
    bundle = read_bundle(folder)
    source = source or bundle.artifacts[0].file
    built = (write_engine(bundle, c, source=source, batch=batch) for c in capabilities)
    return replace(bundle, artifacts=(*bundle.artifacts, *built))


def test_engines_of_the_bundle_are_chosen_by_compute_capability(
    bundle_folder: Path, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    bundle = with_engines(bundle_folder, "8.9", "8.6", "12.0", batch=8)
    served = write_triton(bundle, tmp_path / "repository", version=3)
    assert (served / "3" / "model_sm86.plan").read_bytes() == b"8.6"
    assert not (served / "3" / "model.onnx").exists()
    config = parse(served / "config.pbtxt")
    assert config.backend == "tensorrt"
    assert config.max_batch_size == 8
    assert dict(config.cc_model_filenames) == {
        "8.6": "model_sm86.plan",
        "8.9": "model_sm89.plan",
        "12.0": "model_sm120.plan",
    }
    # an engine answers what the file it was built from answers
    assert [(o.name, tuple(o.dims)) for o in config.output] == [
        ("logits.pascal", (7, 16, 24)),
        ("logits.cihp", (20, 16, 24)),
    ]


def test_onnx_is_served_beside_engines_if_asked_for(bundle_folder: Path, tmp_path: Path) -> None:
    served = write_triton(with_engines(bundle_folder, "8.6"), tmp_path / "repository", engines={})
    assert 'backend: "onnxruntime"' in (served / "config.pbtxt").read_text()


def test_engines_of_different_graphs_are_refused(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = with_engines(bundle_folder, "8.6")
    other = write_engine(bundle, "8.9", source="other.onnx")
    with pytest.raises(ConfigError, match="build them from the same file"):
        write_triton(replace(bundle, artifacts=(*bundle.artifacts, other)), tmp_path / "x")


def test_batches_of_one_are_served_without_a_queue(bundle: Bundle, tmp_path: Path) -> None:
    artifact = replace(bundle.artifacts[0], batch_opt=1, batch_max=1)
    served = write_triton(replace(bundle, artifacts=(artifact,)), tmp_path)
    text = (served / "config.pbtxt").read_text()
    assert "max_batch_size: 1\n" in text
    assert "dynamic_batching" not in text
    assert text.count("model_warmup") == 1


def test_a_bundle_without_golden_sample_warms_up_on_zeros(
    bundle: Bundle, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    served = write_triton(replace(bundle, golden=None), tmp_path)
    assert not (served / "warmup").exists()
    assert parse(served / "config.pbtxt").model_warmup[0].inputs["image"].zero_data


def test_other_models_of_the_repository_are_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.pbtxt").write_text("mine")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds no config\.pbtxt"):
        write_triton(bundle, tmp_path)
    assert list(files(tmp_path)) == ["other/config.pbtxt", "tiny/thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "engines", "error", "words"),
    [
        ({"name": "my model"}, {}, ConfigError, "'my model' cannot be the name"),
        ({"name": "../up"}, {}, ConfigError, "cannot be the name"),
        ({"artifacts": ()}, {}, ModelNotFound, "no ONNX file to serve"),
        ({}, {"sm86": "a.plan"}, ConfigError, "'sm86' is no compute capability"),
        ({}, {"8.6": "nowhere.plan"}, ModelNotFound, "no engine 'nowhere.plan'"),
    ],
)
def test_what_triton_would_refuse_is_refused_and_leaves_nothing(
    bundle: Bundle,
    tmp_path: Path,
    changes: dict[str, Any],
    engines: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    paths = {capability: Path(name) for capability, name in engines.items()}
    with pytest.raises(error, match=words):
        write_triton(replace(bundle, **changes), tmp_path, engines=paths)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_artifact_is_not_served(bundle_folder: Path, tmp_path: Path) -> None:
    model = artifact_path(read_bundle(bundle_folder))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(ChecksumMismatch):
        write_triton(read_bundle(bundle_folder), tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_the_bundle_s_own_file_is_untouched(bundle: Bundle) -> None:
    model = onnx.load(artifact_path(bundle))
    assert [value.name for value in model.graph.output] == ["logits.pascal", "logits.cihp"]
