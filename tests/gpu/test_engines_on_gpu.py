"""Torch, ONNX Runtime, decoders and sensors on a real GPU; each is skipped where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from hp_sdk.backends.torch import matmul_peak
from hp_sdk.errors import BackendUnavailable
from hp_sdk.gpu.decoder import open_decoder
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.sensors import read_sensors
from hp_sdk.gpu.ticket import STAGES, Ask
from hp_sdk.gpu.timing import copy_rates, pace
from hp_sdk.gpu.torch_engine import TorchEngine
from hp_sdk.image import load_image
from hp_sdk.parser import Parser
from tests.gpu.host_engine import HEADS, PLAIN, SPEC, CopyingEngine, assert_same, photo, pipeline_of

pytestmark = pytest.mark.gpu
NAMES = [head.output for head in HEADS.values()]


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    try:
        opened = Gpu(memory="driver")
    except BackendUnavailable as exc:
        pytest.skip(f"no GPU can be used: {exc}")
    yield opened
    opened.enter()


@pytest.fixture
def torch() -> Any:
    found = pytest.importorskip("torch", reason="torch is not installed")
    if not found.cuda.is_available():
        pytest.skip("this torch finds no GPU: install a CUDA build, or check the driver")
    return found


class Scores:
    """The small network of the tests, in torch on the GPU."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.weights = []
        for head in HEADS.values():
            classes = head.domain.num_classes
            random = np.random.default_rng(classes).normal(0, 2, (4, classes)).astype(np.float32)
            self.weights.append(torch.from_numpy(random).cuda())

    def __call__(self, pixels: Any) -> tuple[Any, ...]:
        n, h, w, _ = pixels.shape
        cells = pixels.reshape(n, h // 4, 4, w // 4, 4, 3).float().mean((2, 4)) / 64
        bent = self.torch.cat([cells, self.torch.sin(3 * cells.sum(-1, keepdim=True))], -1)
        # as sums of products: a matrix product may round to TF32
        return tuple((bent[..., None] * w).sum(-2).permute(0, 3, 1, 2) for w in self.weights)


def test_a_torch_network_is_recorded_and_replayed(gpu, torch, caplog) -> None:
    engine = TorchEngine(torch, Scores(torch), input_hw=SPEC.size_hw, names=NAMES, batch=(1, 4))
    pipeline: Any = pipeline_of(gpu, engine, slots=1)  # type: ignore[arg-type]
    ask = Ask(heads=tuple(HEADS), tta=PLAIN, confidence=True)
    for seed in range(5):
        images = [photo(90 + seed, 70, seed=seed), photo(64, 96, seed=seed + 9)]
        assert_same(pipeline.parse(images, ask), images)
    assert "without a CUDA graph" not in caplog.text
    (slot,) = pipeline._free
    (replay,) = slot.replays._replays.values()
    assert replay._context._graph is not None


def test_torchs_batches_in_flight_do_not_mix(gpu, torch) -> None:
    engine = TorchEngine(torch, Scores(torch), input_hw=SPEC.size_hw, names=NAMES, batch=(1, 4))
    pipeline = pipeline_of(gpu, engine, slots=3)  # type: ignore[arg-type]
    ask = Ask(heads=("cihp",), tta=PLAIN)
    groups = [[photo(70 + i, 90, seed=i), photo(60, 50 + i, seed=9 + i)] for i in range(12)]
    tickets = [pipeline.submit(group, ask) for group in groups]
    for ticket, group in zip(tickets, groups, strict=True):
        assert_same(ticket.answers(), group)


def test_a_tensor_that_speaks_only_dlpack_is_read_where_it_lies(gpu, torch) -> None:
    image = photo(120, 80)
    tensor = torch.from_numpy(image).cuda()

    class Other:
        """The tensor of some other library."""

        def __dlpack__(self, *, stream: Any = None) -> Any:
            return tensor.__dlpack__(stream=stream)

        def __dlpack_device__(self) -> Any:
            return tensor.__dlpack_device__()

    there = device_photo(Other())
    assert there is not None
    assert there.pointer == tensor.data_ptr()
    engine = TorchEngine(torch, Scores(torch), input_hw=SPEC.size_hw, names=NAMES, batch=(1, 4))
    pipeline = pipeline_of(gpu, engine)  # type: ignore[arg-type]
    assert_same(pipeline.parse([there], Ask(heads=("cihp",), tta=PLAIN)), [image])


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx", "onnxruntime", "torch"])
def test_the_bundled_model_labels_as_on_the_cpu(gpu, backend) -> None:
    images = [photo(400, 300, seed=1), photo(250, 500, seed=2)]
    try:
        parser = Parser.load("cihp", backend=backend, device="cuda")
    except BackendUnavailable as exc:
        pytest.skip(f"{backend} does not open the bundled model: {exc}")
    with parser, Parser.load("cihp", device="cpu") as other:
        first, *_, found = [parser.predict(images) for _ in range(3)]
        expected = other.predict(images)
    assert parser.pipeline is not None, first[0].receipt
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.labels == theirs.labels).mean() > 0.98


def test_a_jpeg_decoded_on_the_gpu_is_the_photo_that_the_cpu_decodes(gpu) -> None:
    try:
        decoder = open_decoder("nvimgcodec")
    except BackendUnavailable as exc:
        pytest.skip(str(exc))
    image = cv2.GaussianBlur(photo(300, 200), (0, 0), 3)
    content = cv2.imencode(".jpg", image)[1].tobytes()
    with decoder:
        (there,) = [device_photo(each) for each in decoder.decode([content])]
    assert there is not None
    assert there.size_hw == (300, 200)
    assert there.strides == (600, 3, 1)
    pixels = np.empty((300, 200, 3), np.uint8)
    gpu.enter()
    stream = gpu.open_stream()
    stream.follow(there.stream)
    stream.download(pixels, there.pointer)
    stream.synchronize()
    difference = np.abs(pixels.astype(int) - load_image(content))
    assert difference.mean() < 2


def test_clocks_and_power_are_told(gpu) -> None:
    try:
        told = read_sensors(0)
    except BackendUnavailable as exc:
        pytest.skip(str(exc))
    assert told.sm_mhz is None or told.sm_mhz > 0
    assert told.power_w is None or 0 < told.power_w < 2000


def test_copies_and_the_pipeline_are_timed_by_the_device(gpu) -> None:
    rates = copy_rates(gpu, 1 << 24)
    assert min(rates.up, rates.down, rates.on_device) > 0.1
    photos = [photo(200, 150)] * 2
    ask = Ask(heads=("cihp",), tta=PLAIN)
    found = pace(pipeline_of(gpu, CopyingEngine(gpu)), photos, ask, seconds=0.5)
    assert found.network_ms > 0
    assert set(found.stages_ms) == set(STAGES)
    assert found.latency_ms >= found.stages_ms["network"]
    assert found.photos_per_s > 0


def test_the_peak_of_the_matrix_product_is_that_of_a_gpu(gpu, torch) -> None:
    assert matmul_peak(0) > 1
