"""The device path on a real GPU: kernels, copies, graphs and memory of every library there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from hp_sdk.errors import BackendUnavailable, DeviceOutOfMemory
from hp_sdk.gpu.device import ALLOCATORS, Gpu
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.ticket import Ask
from hp_sdk.tta import TTA
from tests.gpu.host_engine import (
    HEADS,
    PLAIN,
    SIZES,
    CopyingEngine,
    HostEngine,
    OnDevice,
    assert_same,
    on_the_cpu,
    photo,
    pipeline_of,
    scores_of,
)

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    try:
        opened = Gpu(memory="driver")
    except BackendUnavailable as exc:
        pytest.skip(f"no GPU can be used: {exc}")
    yield opened
    opened.enter()


class VisitingEngine(HostEngine):
    """The small network of the tests: inputs come to the host, scores go back."""

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        self.counts.append(count)
        batch = np.empty((count, *self.input_hw, 3), np.uint8)
        stream.download(batch, image)
        stream.synchronize()
        for name, pointer in outputs.items():
            scores = scores_of(batch, self.outputs[name].shape[0]).astype(self.dtype)
            stream.upload(pointer, scores)
        stream.synchronize()


@pytest.mark.parametrize("half", [False, True])
def test_photos_of_mixed_sizes_are_labelled_as_on_the_cpu(gpu, half) -> None:
    images = [photo(*size, seed=i) for i, size in enumerate(SIZES)]
    ask = Ask(heads=("pascal", "cihp"), tta=PLAIN, confidence=True)
    pipeline = pipeline_of(gpu, VisitingEngine(half=half))
    assert_same(pipeline.parse(images, ask), images)


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_augmented_views_are_merged_on_the_device(gpu, average) -> None:
    tta = TTA(scales=(1.0, 0.75), flip=True, average=average)
    images = [photo(150, 220, seed=1), photo(700, 900, seed=2)]
    ask = Ask(heads=("cihp",), tta=tta, confidence=True)
    assert_same(pipeline_of(gpu, VisitingEngine()).parse(images, ask), images, tta)


def test_a_recorded_network_is_replayed(gpu) -> None:
    engine = CopyingEngine(gpu)
    pipeline = pipeline_of(gpu, engine, slots=1)
    ask, image = Ask(heads=("cihp",), tta=PLAIN), photo(64, 96)
    for _ in range(4):
        assert_same(pipeline.parse([image], ask), [image])
    assert engine.calls == 2


def test_batches_in_flight_do_not_mix(gpu) -> None:
    pipeline = pipeline_of(gpu, VisitingEngine(), slots=3)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    groups = [[photo(70 + i, 90, seed=i), photo(60, 50 + i, seed=9 + i)] for i in range(9)]
    tickets = [pipeline.submit(group, ask) for group in groups]
    for ticket, group in zip(reversed(tickets), reversed(groups), strict=True):
        assert_same(ticket.answers(), group)
        assert all(ms >= 0 for ms in ticket.device_ms.values())


def test_a_photo_on_the_device_stays_there(gpu) -> None:
    image = photo(80, 120)
    there = device_photo(OnDevice(gpu, image, None))
    assert there is not None
    ask = Ask(heads=("cihp",), tta=PLAIN, to_host=False, keep_on_device=True)
    (answer,) = pipeline_of(gpu, VisitingEngine()).parse([there], ask)
    kept = answer["cihp"].labels_device
    assert kept is not None
    labels = np.empty((80, 120), np.uint8)
    gpu.open_stream().download(labels, kept.__cuda_array_interface__["data"][0])
    assert (labels != on_the_cpu(image, "cihp", PLAIN)[0]).mean() < 5e-3


def test_torch_hands_photos_over_and_reads_labels_without_a_copy(gpu) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch finds no GPU")
    image = photo(200, 160)
    tensor = torch.from_numpy(image).permute(2, 0, 1).contiguous().cuda()
    there = device_photo(tensor)
    assert there is not None
    ask = Ask(heads=("cihp",), tta=PLAIN, keep_on_device=True)
    (answer,) = pipeline_of(gpu, VisitingEngine()).parse([there], ask)
    found = torch.as_tensor(answer["cihp"].labels_device, device="cuda")
    labels = answer["cihp"].labels
    assert labels is not None
    assert np.array_equal(found.cpu().numpy(), labels)
    assert_same([answer], [image])


@pytest.mark.parametrize("name", ALLOCATORS)
def test_memory_of_every_library_serves_the_pipeline(name) -> None:
    try:
        gpu = Gpu(memory=name)
    except BackendUnavailable as exc:
        pytest.skip(f"no memory from {name}: {exc}")
    image = photo(300, 200)
    ask = Ask(heads=tuple(HEADS), tta=PLAIN, confidence=True)
    assert_same(pipeline_of(gpu, VisitingEngine()).parse([image] * 3, ask), [image] * 3)


def test_more_memory_than_there_is_is_out_of_memory(gpu) -> None:
    _free, total = gpu.context.memory()
    with pytest.raises(DeviceOutOfMemory, match="smaller batch_size"):
        gpu.allocator.allocate(2 * total)
    gpu.allocator.allocate(1 << 20)
