"""Scores of a checkpoint, a bundle or a bundled model on a labelled list.

Predictions are compared with the labels at the original resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hp_sdk.bundle import InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import UnknownHead
from hp_sdk.parser import Parser
from hp_sdk.postprocess import label_map
from hp_sdk.preprocess import fit
from hp_trainer.checkpoint import Checkpoint, build_from_checkpoint, read_checkpoint
from hp_trainer.config import EvalConfig
from hp_trainer.data import PhotoSet, data_folder
from hp_trainer.metrics import Confusion, Scores
from hp_trainer.models.sst import SST, normalise

Predictor = Callable[[np.ndarray], np.ndarray]
"""Image (H, W, 3) uint8 RGB → label map (H, W) uint8."""


def labelled_images(photos: PhotoSet, domain: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(image, label map) in list order."""
    rng = np.random.default_rng(0)
    for index in range(len(photos)):
        image, labels = photos.load(index, rng)
        yield image, labels[domain]


def network_predictor(net: SST, domain: str, spec: InputSpec, device: str = "cpu") -> Predictor:
    """Predict with a torch network, through the same steps as the SDK."""
    if domain not in net.heads:
        raise UnknownHead(f"the checkpoint has no head {domain!r}; it has {', '.join(net.heads)}")

    @torch.inference_mode()
    def predict(image: np.ndarray) -> np.ndarray:
        pixels, geometry = fit(image, spec)
        logits = net(normalise(torch.from_numpy(pixels).to(device)), [domain])[domain]
        return label_map(logits[0].float().cpu().numpy(), geometry)

    return predict


def input_spec(description: Mapping[str, Any]) -> InputSpec:
    """The `input` entry of a checkpoint as the SDK's input specification."""
    height, width = description["size_hw"]
    return InputSpec(
        size_hw=(height, width), resize=description["resize"], pad_value=description["pad_value"]
    )


def checkpoint_predictor(
    checkpoint: Checkpoint, domain: str, size_hw: tuple[int, int] | None
) -> Predictor:
    """Predict with the shipping network of a checkpoint on the CPU."""
    description = dict(checkpoint.input)
    if size_hw:
        description["size_hw"] = list(size_hw)
    net = build_from_checkpoint(checkpoint)
    return network_predictor(net, domain, input_spec(description))  # type: ignore[arg-type]


def open_predictor(
    model: str, domain: str, *, size_hw: tuple[int, int] | None = None, tta: str | None = None
) -> Predictor:
    """Predictor for a checkpoint file, a bundle folder or a bundled name.

    Raises:
        ModelNotFound, CorruptArtifact, UnknownHead: the model cannot be used.
    """
    if Path(model).is_file() and Path(model).suffix in {".pt", ".pth", ".ckpt"}:
        return checkpoint_predictor(read_checkpoint(Path(model)), domain, size_hw)
    parser = Parser.load(model, tta=tta)
    return lambda image: parser.predict(image, domains=[domain])[domain].labels


def evaluate_list(
    predict: Predictor, entry: EvalConfig, *, on_image: Callable[[], object] = bool
) -> Scores:
    """Scores over one validation list."""
    photos = PhotoSet(
        data_folder(entry.root), {entry.domain: entry.labels}, entry.split, entry.limit
    )
    confusion = Confusion(load_domain(entry.domain).names)
    for image, truth in labelled_images(photos, entry.domain):
        confusion.add(truth, predict(image))
        on_image()
    return confusion.scores()
