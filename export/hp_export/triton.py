"""A bundle as a model of Triton Inference Server: `hp-export ... --triton REPOSITORY`.

    REPOSITORY/<bundle>/config.pbtxt
                        <head>.labels.txt       one name per line, in the order of ids
                        warmup/golden           the golden picture, raw
                        1/model.onnx            uint8 pixels in, uint8 labels and confidence out
                        1/model_sm86.plan …     instead, where the bundle holds engines

Normalisation, network, resize and argmax lie in the graph: there is no Python backend. A client
sends pictures of the network's size, (n, h, w, 3) uint8 RGB, and gets (n, h, w) uint8. Engines
answer what the file they were built from answers: logits only, unless that was exported --e2e.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hp_export.census import read_onnx
from hp_export.labels import label_names
from hp_export.model_file import write_model
from hp_export.pbtxt import Word, entries, to_text
from hp_export.replay import read_golden
from hp_export.tail import TensorSpec, inputs_of, outputs_of, with_labels
from hp_export.tensorrt.sidecar import read_sidecar
from hp_sdk.bundle import Artifact, Bundle, verify_artifact
from hp_sdk.errors import ConfigError, ModelNotFound
from hp_sdk.files import write_bytes, write_folder
from hp_sdk.image import Pixels

CONFIG = "config.pbtxt"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
CAPABILITY = r"\d{1,2}\.\d"
QUEUE_DELAY_US = 2000
"""How long a request waits for others to share a batch with."""

TYPES = {"UINT8": "TYPE_UINT8", "FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16"}
"""Element type in ONNX → in Triton."""


def write_triton(
    bundle: Bundle,
    repository: Path,
    *,
    engines: Mapping[str, Path] | None = None,
    version: int = 1,
) -> Path:
    """Write the bundle as one model of a repository; the model's folder.

    Args:
        bundle: with an ONNX artifact.
        repository: Triton's --model-repository; other models in it are left alone.
        engines: compute capability ("8.6") → TensorRT engine; None takes the bundle's own, and an
            empty mapping serves ONNX even if there are some.
        version: name of the version's folder.

    Raises:
        ConfigError: a name or capability that Triton would refuse, or an unwritable folder.
        ModelNotFound: no ONNX artifact, or no such engine.
        ChecksumMismatch: an artifact is not the one that the manifest describes.
    """
    if not re.fullmatch(NAME, bundle.name):
        raise ConfigError(
            f"{bundle.name!r} cannot be the name of a Triton model; name the bundle with letters, "
            "digits, `_`, `.` and `-`"
        )
    engines = engines_of(bundle) if engines is None else engines
    _check_engines(engines)
    artifact = _origin(bundle, engines) or artifact_to_serve(bundle)
    model = read_onnx(verify_artifact(bundle, artifact))
    if not engines:
        model = with_labels(model, bundle)
    tensors = (inputs_of(model)[0], *outputs_of(model))
    config = _config(bundle, _batches(artifact, engines), tensors) | _backend(engines)
    with write_folder(repository / bundle.name, marker=CONFIG) as folder:
        for name, path in _engine_files(engines).items():
            write_bytes(folder / str(version) / name, path.read_bytes())
        if not engines:
            (folder / str(version)).mkdir()
            write_model(folder / str(version), "model.onnx", model)
        for name, head in bundle.heads.items():
            write_bytes(folder / _label_file(name), label_lines(head.domain.names))
        if bundle.golden is not None:
            write_bytes(folder / "warmup" / "golden", _sample(bundle).tobytes())
        write_bytes(folder / CONFIG, to_text(config).encode())
    return repository / bundle.name


def artifact_to_serve(bundle: Bundle) -> Artifact:
    """The bundle's first ONNX file, or its sibling that answers with labels.

    Raises:
        ModelNotFound: there is none.
    """
    there = [artifact for artifact in bundle.artifacts if artifact.runtime == "onnx"]
    if not there:
        raise ModelNotFound(
            f"bundle {bundle.name!r} holds no ONNX file to serve; export it with --format onnx"
        )
    first, wanted = there[0], {label_names(head)[0] for head in bundle.heads}
    alike = (first.precision_found, first.size_hw)
    siblings = [a for a in there if (a.precision_found, a.size_hw) == alike]
    return next((a for a in siblings if wanted <= set(a.outputs)), first)


def engines_of(bundle: Bundle) -> dict[str, Path]:
    """Compute capability → classic TensorRT engine of the bundle; the first of each counts.

    Raises:
        ChecksumMismatch: an engine is not the one that the manifest describes.
    """
    found: dict[str, Path] = {}
    for artifact in bundle.artifacts:
        if artifact.runtime == "tensorrt":
            path = verify_artifact(bundle, artifact)
            sidecar = read_sidecar(path)
            for capability in sidecar.compute_capabilities if sidecar else ():
                found.setdefault(capability, path)
    return found


def _origin(bundle: Bundle, engines: Mapping[str, Path]) -> Artifact | None:
    """The ONNX file that the engines were built from, where their sidecars name one."""
    names = {str(s.source.get("file")) for s in map(read_sidecar, engines.values()) if s}
    if len(names) > 1:
        raise ConfigError(
            f"the engines were built from {', '.join(sorted(names))}, one model serves one graph; "
            "build them from the same file"
        )
    return next((a for a in bundle.artifacts if Path(a.file).name in names), None)


def label_lines(names: Sequence[str]) -> bytes:
    """A label file: one name per line, in the order of ids."""
    return "".join(f"{name}\n" for name in names).encode()


def _batches(artifact: Artifact, engines: Mapping[str, Path]) -> tuple[int, int]:
    """Usual and largest batch that every file takes."""
    ranges = [s.options["batch"] for s in map(read_sidecar, engines.values()) if s]
    largest = min([artifact.batch_max, *(int(given[2]) for given in ranges)])
    return min(artifact.batch_opt, largest), largest


def _config(
    bundle: Bundle, batches: tuple[int, int], tensors: Sequence[TensorSpec]
) -> dict[str, Any]:
    (usual, largest), (image, *outputs) = batches, tensors
    batching: dict[str, Any] = {
        "preferred_batch_size": sorted({usual, largest} - {1}),
        "max_queue_delay_microseconds": QUEUE_DELAY_US,
    }
    return {
        "name": bundle.name,
        "max_batch_size": largest,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(image) | {"format": Word("FORMAT_NHWC")}],
        "output": [_tensor(output) | _label_entry(bundle, output) for output in outputs],
        **({"dynamic_batching": batching} if largest > 1 else {}),
        "model_warmup": [_warmup(bundle, image, batch) for batch in sorted({1, usual})],
        "parameters": entries(
            {key: {"string_value": value} for key, value in _notes(bundle).items()}
        ),
    }


def _backend(engines: Mapping[str, Path]) -> dict[str, Any]:
    """What runs the files, and where."""
    if not engines:
        return {
            "backend": "onnxruntime",
            "default_model_filename": "model.onnx",
            "instance_group": [{"count": 1, "kind": Word("KIND_AUTO")}],
        }
    files = dict(zip(sorted(engines), _engine_files(engines), strict=True))
    return {
        "backend": "tensorrt",
        "cc_model_filenames": entries(files),
        "instance_group": [{"count": 1, "kind": Word("KIND_GPU")}],
    }


def _engine_files(engines: Mapping[str, Path]) -> dict[str, Path]:
    """Name in the repository → engine, by ascending capability's text."""
    return {
        f"model_sm{capability.replace('.', '')}.plan": engines[capability]
        for capability in sorted(engines)
    }


def _check_engines(engines: Mapping[str, Path]) -> None:
    for capability, path in engines.items():
        if not re.fullmatch(CAPABILITY, capability):
            raise ConfigError(
                f"{capability!r} is no compute capability; write MAJOR.MINOR, like 8.6"
            )
        if not path.is_file():
            raise ModelNotFound(f"there is no engine {str(path)!r} for capability {capability}")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "data_type": Word(TYPES[spec.element]),
        "dims": list(spec.dims),
    }


def _label_entry(bundle: Bundle, output: TensorSpec) -> dict[str, Any]:
    heads = [name for name in bundle.heads if label_names(name)[0] == output.name]
    return {"label_filename": _label_file(heads[0])} if heads else {}


def _label_file(head: str) -> str:
    return f"{head}.labels.txt"


def _warmup(bundle: Bundle, image: TensorSpec, batch: int) -> dict[str, Any]:
    """The server repeats the one picture up to `batch`."""
    data: dict[str, Any] = {"input_data_file": "golden"} if bundle.golden else {"zero_data": True}
    value = {"data_type": Word(TYPES[image.element]), "dims": list(image.dims), **data}
    return {"name": f"batch {batch}", "batch_size": batch, "inputs": entries({image.name: value})}


def _notes(bundle: Bundle) -> dict[str, str]:
    """What a client has to know of the pictures that it sends."""
    return {
        "hp_sdk.version": bundle.version,
        "hp_sdk.resize": bundle.input.resize,
        "hp_sdk.pad_value": str(bundle.input.pad_value),
        "hp_sdk.color": bundle.input.color,
    }


def _sample(bundle: Bundle) -> Pixels:
    """The golden picture, (h, w, 3) uint8 at the network's size."""
    image = read_golden(bundle)["image"]
    if image.shape[:2] != bundle.input.size_hw:
        raise ConfigError(
            f"the golden picture of bundle {bundle.name!r} is {image.shape[:2]}, its input "
            f"{bundle.input.size_hw}; export it again"
        )
    return image
