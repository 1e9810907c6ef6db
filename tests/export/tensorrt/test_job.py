"""What decides about an engine: the graph, the options, the library and the GPU."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from hp_export.tensorrt.job import Job, Library
from hp_export.tensorrt.options import EngineOptions
from hp_export.tensorrt.source import read_source
from hp_sdk.errors import ConfigError

SMALL = EngineOptions(batch=(1, 2, 4))


def test_every_thing_an_engine_depends_on_changes_its_key(hopper: Library, onnx_file: Path) -> None:
    source = read_source(onnx_file)
    rtx = replace(hopper, runtime="tensorrt-rtx", version="1.7.1.116", capabilities=("8.0",))
    job = Job(onnx_file, source, SMALL, hopper, ("9.0",))
    others = [
        replace(job, source=replace(source, graph_sha256="0" * 64)),
        replace(job, source=replace(source, precision="fp16")),
        replace(job, source=replace(source, shape=(64, 32, 3))),
        replace(job, target=("8.0",)),
        replace(job, library=rtx),
        replace(job, library=replace(hopper, version="11.4.0.107")),
        replace(job, library=replace(hopper, gpu={"name": "NVIDIA H100", "capability": "9.0"})),
        *(
            replace(job, options=replace(SMALL, **changes))
            for changes in (
                {"batch": (1, 2, 5)},
                {"workspace_bytes": 1},
                {"optimization_level": 1},
                {"tf32": True},
                {"runtime": "tensorrt"},
            )
        ),
    ]
    assert len({job.key, *(other.key for other in others)}) == 1 + len(others)
    assert replace(job, options=replace(SMALL, timeout_s=1.0, cache_bytes=0)).key == job.key


@pytest.mark.parametrize(
    ("stem", "begins"),
    [
        ("model", "model.fp32.b1-2-4."),
        ("model.fp32", "model.fp32.b1-2-4."),
        ("model.e2e.fp32.64x96", "model.e2e.fp32.64x96.b1-2-4."),
        ("model.fp16", "model.fp16.fp32.b1-2-4."),  # misnamed: what is inside is still said
    ],
)
def test_a_file_name_says_the_precision_once(
    stem: str, begins: str, hopper: Library, onnx_file: Path
) -> None:
    job = Job(onnx_file.with_name(f"{stem}.onnx"), read_source(onnx_file), SMALL, hopper, ("9.0",))
    assert job.file_name == f"{begins}tensorrt-rtx-11.4.0.106.sm90.engine"


def test_another_description_in_the_file_is_the_same_graph_and_other_weights_are_not(
    onnx_file: Path, small_model: onnx.ModelProto, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    onnx.helper.set_model_props(model, {"note": "hello"})
    onnx.save(model, tmp_path / "noted.onnx")
    noted, plain = read_source(tmp_path / "noted.onnx"), read_source(onnx_file)
    assert noted.graph_sha256 == plain.graph_sha256
    assert noted.sha256 != plain.sha256
    weights = model.graph.initializer[0]
    weights.raw_data = b"\0" * 4 + weights.raw_data[4:]
    onnx.save(model, tmp_path / "other.onnx")
    assert read_source(tmp_path / "other.onnx").graph_sha256 != plain.graph_sha256


def test_weights_in_a_second_file_count_as_part_of_the_graph(
    small_model: onnx.ModelProto, tmp_path: Path
) -> None:
    digests = []
    for byte in (b"\0", b"\1"):
        model = onnx.ModelProto()
        model.CopyFrom(small_model)
        tensor = model.graph.initializer[0]
        tensor.raw_data = byte * len(tensor.raw_data)
        path = tmp_path / "external.onnx"
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        digests.append(read_source(path).graph_sha256)
        (tmp_path / "w.bin").unlink()
    assert len(set(digests)) == 2


def test_a_fixed_batch_takes_no_other(small_model: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "fixed.onnx")
    source = read_source(tmp_path / "fixed.onnx")
    assert source.profile((3, 3, 3))["image"]["min"] == [3, 32, 32, 3]
    with pytest.raises(ConfigError, match="takes batches of 3 only"):
        source.profile((1, 3, 3))


def test_a_dynamic_height_is_refused(small_model: onnx.ModelProto, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(small_model)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    onnx.save(model, tmp_path / "dynamic.onnx")
    with pytest.raises(ConfigError, match="fixed height and width"):
        read_source(tmp_path / "dynamic.onnx")


def test_options_and_source_survive_json(onnx_file: Path) -> None:
    options = replace(SMALL, compute_capabilities=("8.0",), tf32=True)
    source = read_source(onnx_file)
    assert EngineOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert type(source).from_dict(json.loads(json.dumps(source.to_dict()))) == source
    with pytest.raises(ConfigError, match="cannot be read"):
        EngineOptions.from_dict({"speed": "high"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"runtime": "tensort"}, "tensorrt or tensorrt-rtx"),
        ({"batch": (4, 2, 8)}, "min <= opt <= max"),
        ({"compute_capabilities": ("sm80",)}, "write it like 8.0"),
        ({"optimization_level": 6}, "0 to 5"),
        ({"workspace_bytes": 0}, "above 0"),
    ],
)
def test_an_option_that_is_not_allowed_is_refused_by_name(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        EngineOptions(**values)
