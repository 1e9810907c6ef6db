"""The files of a bundle: every size traced once, every precision made from that trace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from hp_export.blame import first_wrong_module, worst_layer
from hp_export.census import MANIFEST_KEY, Census, read_onnx, take_census
from hp_export.graph import HeadGraph, fold_batch_norm
from hp_export.labels import add_labels
from hp_export.merge import merge_mixes
from hp_export.model_file import write_model
from hp_export.opset import to_opset_17
from hp_export.options import ExportOptions, Size, sizes_of
from hp_export.photos import Photos
from hp_export.precision import Evidence, Lowered, apply_precision
from hp_export.probes import figure, probe_images
from hp_export.progress import Progress, silent
from hp_export.strip import network_to_trace
from hp_export.to_onnx import OPSET, check_model, stamp, to_onnx
from hp_sdk.bundle import Artifact, Bundle, InputSpec, manifest_dict
from hp_sdk.errors import VerificationFailed

_SMALL_HW = (64, 64)


@dataclass(frozen=True, slots=True)
class Made:
    """One artifact, and what is known of it."""

    artifact: Artifact
    census: Census
    notes: dict[str, Any]


class Workshop:
    """Makes the artifacts of one export."""

    def __init__(
        self,
        network: nn.Module,
        plan: Bundle,
        options: ExportOptions,
        photos: Mapping[Size, Photos],
        progress: Progress = silent,
    ) -> None:
        self.plan, self.options, self.photos, self.progress = plan, options, photos, progress
        self._network = network
        self._traced: dict[Size, tuple[HeadGraph, onnx.ModelProto]] = {}
        self._folder = plan.root

    def make(self, folder: Path) -> Iterator[Made]:
        """Write every artifact into `folder`."""
        self._folder = folder
        for size_hw in sizes_of(self.plan, self.options):
            model = self._trace(size_hw)
            photos = self.photos.get(size_hw)
            probes = np.stack(list(probe_images(size_hw).values()))
            for precision in self.options.precisions:
                self.progress(f"{precision} at {size_hw[0]}x{size_hw[1]}")
                lowered = apply_precision(model, precision, Evidence(probes, photos, self.progress))
                yield self._write(lowered, precision, size_hw, e2e=False)
                if self.options.e2e:
                    yield self._write(lowered, precision, size_hw, e2e=True)

    def suspect(self, artifact: Artifact) -> str:
        """In words, the layer at which a failed artifact goes wrong; "" if none is found."""
        graph, right = self._traced[artifact.size_hw]
        wrong = read_onnx(self._folder / artifact.file)
        image = figure(artifact.size_hw)[np.newaxis]
        found = (
            first_wrong_module(graph, wrong, image)
            if artifact.precision_asked == "fp32"
            else worst_layer(right, wrong, image)
        )
        if found is None:
            return ""
        return f"; the layer to look at is {found.layer} (relative error {found.error:.2g})"

    def _trace(self, size_hw: Size) -> onnx.ModelProto:
        self.progress(f"tracing at {size_hw[0]}x{size_hw[1]}")
        graph = build_graph(self._network, tuple(self.plan.heads), self.plan.input, size_hw)
        opset, batch_max = max(OPSET, self.options.opset), self.options.batch[2]
        model = to_onnx(graph, size_hw, opset=opset, batch_max=batch_max)
        self._traced[size_hw] = graph, model
        return model

    def _write(self, lowered: Lowered, precision: str, size_hw: Size, *, e2e: bool) -> Made:
        model = self._finished(lowered.model, size_hw, e2e=e2e)
        census = take_census(model)
        _refuse_misnamed(precision, census)
        file = self._file_name(census.precision, size_hw, e2e=e2e)
        stored, *data = write_model(
            self._folder, file, model, limit_bytes=self.options.data_limit_bytes
        )
        smallest, usual, largest = self.options.batch
        artifact = Artifact(
            runtime="onnx",
            file=file,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            heads=tuple(self.plan.heads),
            precision_asked=precision,
            precision_found=census.precision,
            batch_min=smallest,
            batch_opt=usual,
            batch_max=largest,
            size_hw=size_hw,
            opset=census.opset,
            outputs=tuple(census.outputs),
            data=tuple(data),
        )
        notes = {"computes": dict(census.computes), "weights_bytes": dict(census.weights)}
        return Made(artifact, census, notes | lowered.notes)

    def _finished(self, model: onnx.ModelProto, size_hw: Size, *, e2e: bool) -> onnx.ModelProto:
        if e2e:
            model = add_labels(model, tuple(self.plan.heads), size_hw)
        if self.options.opset < OPSET:
            model = to_opset_17(model)
        check_model(model, opset=self.options.opset)
        manifest = json.dumps(manifest_dict(self.plan), ensure_ascii=False)
        stamp(model, {MANIFEST_KEY: manifest})
        return model

    def _file_name(self, found: str, size_hw: Size, *, e2e: bool) -> str:
        several = len(sizes_of(self.plan, self.options)) > 1
        size = [f"{size_hw[0]}x{size_hw[1]}"] if several else []
        return ".".join(["model", *(["e2e"] if e2e else []), found, *size, "onnx"])


def build_graph(
    network: nn.Module, heads: Sequence[str], spec: InputSpec, size_hw: Size
) -> HeadGraph:
    """The graph to trace: norms folded and mixes merged in a copy, normalisation in front."""
    traced = network_to_trace(network, size_hw)
    # Norms follow the same convolutions at every size, unless the network takes one size only.
    looked_at = _SMALL_HW if traced is network else size_hw
    folded = merge_mixes(fold_batch_norm(traced, torch.zeros(1, 3, *looked_at)))
    return HeadGraph(folded, heads, mean=spec.mean, std=spec.std).eval()


def _refuse_misnamed(precision: str, census: Census) -> None:
    if census.precision != precision:
        raise VerificationFailed(
            f"{precision} was asked for, but no layer bears it: the file would be "
            f"{census.precision}; nothing was written, export {census.precision}"
        )
