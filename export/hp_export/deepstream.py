"""A bundle as a model of DeepStream's nvinfer: one head, labels by nvinfer itself.

    FOLDER/nvinfer.txt      configuration of the element
           model.onnx       planes (N, 3, h, w) float32 RGB in 0..255 ─► probabilities (N, Z, h, w)
           labels.txt       one name per line, in the order of ids

nvinfer feeds float planes, computes one scale for all channels, and takes the largest of the
values of one output. So normalisation stays in the graph, the graph ends in a softmax, and there
is one head. It pads with black only, on the right and below, and cannot cut windows: other
policies of a bundle are refused.
"""

from __future__ import annotations

from pathlib import Path

from hp_export.census import read_onnx
from hp_export.model_file import write_model
from hp_export.tail import PROBABILITIES, with_probabilities
from hp_export.triton import artifact_to_serve, label_lines
from hp_sdk.bundle import Bundle, verify_artifact
from hp_sdk.errors import ConfigError, UnknownHead
from hp_sdk.files import write_bytes, write_folder

CONFIG = "nvinfer.txt"
POLICIES = {"stretch": 0, "letterbox": 1}
"""Resize policy → nvinfer's maintain-aspect-ratio."""


def write_deepstream(bundle: Bundle, folder: Path, *, head: str | None = None) -> Path:
    """Write one head of the bundle for nvinfer; the configuration file.

    Raises:
        ConfigError: nvinfer cannot do what the bundle asks for; the message names it.
        UnknownHead: the bundle has no such head.
        ModelNotFound: the bundle holds no ONNX file.
    """
    head = _choose(bundle, head)
    _refuse_inexpressible(bundle)
    artifact = artifact_to_serve(bundle)
    model = with_probabilities(read_onnx(verify_artifact(bundle, artifact)), bundle.heads[head])
    names = bundle.heads[head].domain.names
    with write_folder(folder, marker=CONFIG) as temporary:
        write_model(temporary, "model.onnx", model)
        write_bytes(temporary / "labels.txt", label_lines(names))
        write_bytes(
            temporary / CONFIG, _config(bundle, head, len(names), artifact.batch_opt).encode()
        )
    return folder / CONFIG


def _choose(bundle: Bundle, head: str | None) -> str:
    there = ", ".join(bundle.heads)
    if head is None:
        if len(bundle.heads) > 1:
            raise ConfigError(f"nvinfer serves one head; name one of {there}")
        return next(iter(bundle.heads))
    if head not in bundle.heads:
        raise UnknownHead(f"bundle {bundle.name!r} has no head {head!r}; it has {there}")
    return head


def _refuse_inexpressible(bundle: Bundle) -> None:
    spec = bundle.input
    if spec.resize not in POLICIES:
        raise ConfigError(
            f"bundle {bundle.name!r} has the resize policy {spec.resize!r}, nvinfer knows "
            f"{' and '.join(POLICIES)} only; serve it with Triton"
        )
    if spec.resize == "letterbox" and spec.pad_value:
        raise ConfigError(
            f"bundle {bundle.name!r} pads with {spec.pad_value}, nvinfer with 0 only; export it "
            "with pad_value 0 or serve it with Triton"
        )


def _config(bundle: Bundle, head: str, classes: int, batch: int) -> str:
    h, w = bundle.input.size_hw
    values = {
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 2,
        "onnx-file": "model.onnx",
        "labelfile-path": "labels.txt",
        "batch-size": batch,
        "network-mode": 0,
        "infer-dims": f"3;{h};{w}",
        "model-color-format": 0,
        "net-scale-factor": "1.0",
        "maintain-aspect-ratio": POLICIES[bundle.input.resize],
        "symmetric-padding": 0,
        "scaling-filter": 1,
        "num-detected-classes": classes,
        "segmentation-output-order": 0,
        "segmentation-threshold": "0.0",
        "output-blob-names": PROBABILITIES,
    }
    lines = [f"{key}={value}" for key, value in values.items()]
    title = f"# {bundle.name} {bundle.version}, head {head}: semantic segmentation at {h}x{w}"
    notes = "# Colours and normalisation lie in model.onnx: keep net-scale-factor and RGB."
    return "\n".join([title, notes, "[property]", *lines, ""])
