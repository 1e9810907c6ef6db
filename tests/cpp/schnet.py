"""The cheapest real SCHNet bundle: the tiny preset, random weights, traced without verifying."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from hp_export.graph import HeadGraph, fold_batch_norm
from hp_export.strip import network_to_trace
from hp_export.to_onnx import to_onnx
from hp_sdk.bundle import Bundle, write_manifest
from hp_sdk.testing import make_bundle
from hp_trainer.models.sst import MEAN, STD
from tests.trainer.schnet.conftest import build_tiny, perturb_weights

SIZE_HW = (64, 64)


def write_schnet(folder: Path, *, size_hw: tuple[int, int] = SIZE_HW) -> Bundle:
    """A bundle of the family `schnet` with the head `pascal`, read through windows."""
    network = perturb_weights(build_tiny("pascal", adapter_extra_extractors=0))
    folded = fold_batch_norm(network_to_trace(network, size_hw), torch.zeros(1, 3, *size_hw))
    graph = HeadGraph(folded, ("pascal",), mean=MEAN, std=STD)
    bundle = make_bundle(
        folder,
        domains=["pascal"],
        size_hw=size_hw,
        resize="shortest-side",
        runtime="onnx",
        content=to_onnx(graph, size_hw).SerializeToString(),
    )
    bundle = replace(bundle, name="schnet-tiny", family="schnet")
    write_manifest(bundle, folder)
    return bundle
