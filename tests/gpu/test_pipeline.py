"""The device pipeline against the CPU path, on a driver that runs on the host."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hp_sdk.bundle import HeadSpec, InputSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError, DeviceOutOfMemory, InputError
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.driver import CudaStream
from hp_sdk.gpu.engine import Tensor
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.replay import MOST_SIZES, Replays, bucket_of
from hp_sdk.gpu.ticket import STAGES, Answers, Ask
from hp_sdk.postprocess import merged_labels_and_confidence
from hp_sdk.tta import TTA, are_logits, fit_views, merge_views

SPEC = InputSpec(size_hw=(64, 96), pad_value=9)
HEADS = {name: HeadSpec(load_domain(name), f"logits.{name}") for name in ("pascal", "cihp")}
PLAIN = TTA()


def scores_of(batch: np.ndarray, classes: int) -> np.ndarray:
    """A small network: local means, mixed with fixed weights, bent (N, K, h/4, w/4)."""
    n, h, w, _ = batch.shape
    cells = batch.reshape(n, h // 4, 4, w // 4, 4, 3).astype(np.float32).mean((2, 4)) / 64
    weights = np.random.default_rng(classes).normal(0, 2, (4, classes)).astype(np.float32)
    bent = np.concatenate([cells, np.sin(3 * cells.sum(-1, keepdims=True))], -1)
    return np.ascontiguousarray((bent @ weights).transpose(0, 3, 1, 2), np.float32)


def memory_at(pointer: int, shape: Sequence[int], dtype: type) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_uint8 * count).from_address(pointer)
    return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


class HostEngine:
    """The network above in place of an engine."""

    def __init__(self, *, batch_min: int = 1, batch_max: int = 4, half: bool = False) -> None:
        self.input_hw, self.batch_min, self.batch_max = SPEC.size_hw, batch_min, batch_max
        self.dtype = np.float16 if half else np.float32
        self.outputs = {
            head.output: Tensor((head.domain.num_classes, 16, 24), np.dtype(self.dtype))
            for head in HEADS.values()
        }
        self.scratch_bytes = 0
        self.counts: list[int] = []
        self.contexts = 0
        self.closed = False

    def open_context(self, scratch: int) -> HostEngine:
        self.contexts += 1
        return self

    def can_capture(self, stream: CudaStream) -> bool:
        return False

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        self.counts.append(count)
        batch = memory_at(image, (count, *SPEC.size_hw, 3), np.uint8)
        for name, pointer in outputs.items():
            tensor = self.outputs[name]
            memory_at(pointer, (count, *tensor.shape), self.dtype)[:] = scores_of(
                batch, tensor.shape[0]
            )

    def close(self) -> None:
        self.closed = True


class CopyingEngine(HostEngine):
    """All its work goes through the stream, so that it can be recorded."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.calls = 0
        self.refuses = False
        self.sources = {}
        for name, tensor in self.outputs.items():
            scores = scores_of(photo(64, 96)[None], tensor.shape[0]).repeat(4, 0)
            self.sources[name] = gpu.allocator.allocate(scores.nbytes), scores.nbytes
            gpu.open_stream().upload(self.sources[name][0].pointer, scores)

    def can_capture(self, stream: CudaStream) -> bool:
        return True

    def enqueue(
        self, count: int, image: int, outputs: Mapping[str, int], stream: CudaStream
    ) -> None:
        self.calls += 1
        if self.refuses and self.calls > 1:
            self.refuses = False
            raise BackendError("not while a stream records")
        for name, pointer in outputs.items():
            memory, size = self.sources[name]
            stream.copy(pointer, memory.pointer, size)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3))
    fine = coarse.repeat(16, 0).repeat(16, 1)[:height, :width]
    return np.ascontiguousarray(np.clip(fine + rng.normal(0, 6, fine.shape), 0, 255), np.uint8)


def on_the_cpu(image: np.ndarray, head: str, tta: TTA) -> tuple[np.ndarray, np.ndarray]:
    domain = HEADS[head].domain
    fitted = fit_views(image, SPEC, tta)
    scores = scores_of(np.concatenate([view.pixels for view in fitted]), domain.num_classes)
    views = merge_views(fitted, scores, domain, tta)
    return merged_labels_and_confidence(views, are_logits=are_logits(tta))


@pytest.fixture
def gpu(fake_cuda):
    return Gpu(memory="driver")


def pipeline_of(gpu: Gpu, engine: HostEngine | None = None, **options: Any) -> DevicePipeline:
    return DevicePipeline(gpu, engine or HostEngine(), SPEC, HEADS, **options)


def assert_same(answers: Answers, images: Sequence[np.ndarray], tta: TTA = PLAIN) -> None:
    for answer, image in zip(answers, images, strict=True):
        for head, found in answer.items():
            labels, confidence = on_the_cpu(image, head, tta)
            assert found.labels is not None
            # one grey level of the input may differ, and with it a label at a border
            assert (found.labels != labels).mean() < 5e-3
            if found.confidence is not None:
                error = np.abs(found.confidence.astype(int) - confidence)
                assert np.percentile(error, 99) <= 6


SIZES = [(64, 96), (200, 150), (31, 47), (400, 300), (1, 1), (96, 64), (120, 500)]


def test_photos_of_mixed_sizes_are_labelled_as_on_the_cpu(gpu) -> None:
    images = [photo(*size, seed=i) for i, size in enumerate(SIZES)]
    engine = HostEngine()
    pipeline = pipeline_of(gpu, engine)
    answers = pipeline.parse(images, Ask(heads=("pascal", "cihp"), tta=PLAIN, confidence=True))
    assert [a["cihp"].labels.shape for a in answers] == SIZES  # type: ignore[union-attr]
    assert_same(answers, images)
    assert engine.counts == [4, 3]


def test_half_precision_scores_are_labelled_too(gpu) -> None:
    images = [photo(150, 100)]
    answers = pipeline_of(gpu, HostEngine(half=True)).parse(images, Ask(heads=("cihp",), tta=PLAIN))
    assert_same(answers, images)


@pytest.mark.parametrize("average", ["logits", "probs"])
def test_augmented_views_are_merged_on_the_device(gpu, average) -> None:
    tta = TTA(scales=(1.0, 0.75), flip=True, average=average)
    images = [photo(150, 220, seed=1), photo(90, 90, seed=2)]
    ask = Ask(heads=("cihp",), tta=tta, confidence=True)
    assert_same(pipeline_of(gpu).parse(images, ask), images, tta)


def test_a_short_batch_is_filled_up_to_the_engines_smallest(gpu) -> None:
    engine = HostEngine(batch_min=3)
    images = [photo(80, 80)]
    assert_same(pipeline_of(gpu, engine).parse(images, Ask(heads=("cihp",), tta=PLAIN)), images)
    assert engine.counts == [3]


def test_batches_in_flight_do_not_mix(gpu) -> None:
    pipeline = pipeline_of(gpu, slots=3)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    groups = [[photo(70 + i, 90, seed=i), photo(60, 50 + i, seed=9 + i)] for i in range(3)]
    tickets = [pipeline.submit(group, ask) for group in groups]
    for ticket, group in zip(reversed(tickets), reversed(groups), strict=True):
        assert_same(ticket.answers(), group)
        assert set(ticket.device_ms) == set(STAGES)


def test_a_batch_that_needs_a_slot_finishes_the_oldest_first(gpu) -> None:
    pipeline = pipeline_of(gpu, slots=1)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    images = [photo(50, 50, seed=1), photo(40, 60, seed=2), photo(70, 30, seed=3)]
    tickets = [pipeline.submit([image], ask) for image in images]
    for _ in range(2):  # the answers stay in their tickets
        for ticket, image in zip(tickets, images, strict=True):
            assert_same(ticket.answers(), [image])


def test_a_batch_that_nobody_asks_for_keeps_no_slot(gpu) -> None:
    pipeline = pipeline_of(gpu, slots=1)
    ask, image = Ask(heads=("cihp",), tta=PLAIN), photo(50, 50)
    pipeline.submit([photo(30, 30)], ask)
    assert_same(pipeline.parse([image], ask), [image])


def test_many_threads_share_few_slots(gpu) -> None:
    pipeline = pipeline_of(gpu, slots=2)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    images = [photo(110 + i, 90, seed=i) for i in range(12)]

    def work(first: int) -> None:
        mine = images[first : first + 3]
        assert_same(pipeline.parse(mine, ask), mine)
        batch = np.zeros((1, *SPEC.size_hw, 3), np.uint8)
        assert pipeline.scores(batch, ["logits.cihp"])["logits.cihp"].shape == (1, 20, 16, 24)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work, first) for first in range(0, 12, 3)]:
            future.result(60)


def test_scores_of_network_inputs_come_to_the_host(gpu) -> None:
    batch = np.stack([photo(64, 96, seed=i) for i in range(3)])
    found = pipeline_of(gpu).scores(batch, ["logits.cihp", "logits.pascal"])
    for name, scores in found.items():
        assert np.array_equal(scores, scores_of(batch, scores.shape[1])), name


def test_running_out_of_memory_halves_the_batch_and_goes_on(gpu, fake_cuda) -> None:
    images = [photo(200, 200, seed=i) for i in range(4)]
    pipeline = pipeline_of(gpu, slots=1)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    pipeline.parse(images[:1], ask)
    held = fake_cuda.fake_used()
    fake_cuda.fake_limit(held + 250_000)  # two photos and their labels
    assert_same(pipeline.parse(images, ask), images)
    assert pipeline.limit == 2
    fake_cuda.fake_limit(1 << 40)


def test_a_photo_that_never_fits_is_refused_and_the_next_is_parsed(gpu, fake_cuda) -> None:
    pipeline = pipeline_of(gpu)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    small = [photo(30, 30)]
    pipeline.parse(small, ask)
    fake_cuda.fake_limit(fake_cuda.fake_used() + 500_000)
    with pytest.raises(DeviceOutOfMemory):
        pipeline.parse([photo(600, 600)], ask)
    assert_same(pipeline.parse(small, ask), small)


def test_a_lost_device_is_reported_once_and_then_at_once(gpu, fake_cuda) -> None:
    pipeline = pipeline_of(gpu)
    ask = Ask(heads=("cihp",), tta=PLAIN)
    fake_cuda.fake_fail(719)
    with pytest.raises(BackendError, match="CUDA_ERROR_LAUNCH_FAILED"):
        pipeline.parse([photo(30, 30)], ask)
    launches = fake_cuda.fake_launches()
    with pytest.raises(BackendError, match=r"CUDA_ERROR_LAUNCH_FAILED.*load the model again"):
        pipeline.parse([photo(30, 30)], ask)
    assert fake_cuda.fake_launches() == launches


class OnDevice:
    """An array in "device" memory, as torch or cupy would show it."""

    def __init__(self, gpu: Gpu, values: np.ndarray, strides: tuple[int, ...] | None) -> None:
        flat = values if values.flags.c_contiguous else np.ascontiguousarray(values)
        self.memory = gpu.allocator.allocate(flat.nbytes)
        gpu.open_stream().upload(self.memory.pointer, flat)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": "|u1" if values.dtype == np.uint8 else "<f4",
            "data": (self.memory.pointer, False),
            "strides": strides,
            "version": 3,
        }


def test_photos_on_the_device_never_visit_the_host(gpu, fake_cuda) -> None:
    image = photo(80, 120)
    layouts = [image, image.transpose(2, 0, 1)]
    pipeline = pipeline_of(gpu)
    for layout in layouts:
        there = device_photo(OnDevice(gpu, layout, None))
        assert there is not None
        assert there.size_hw == (80, 120)
        before = fake_cuda.fake_copies_up(), fake_cuda.fake_copies_down()
        ask = Ask(heads=("cihp",), tta=PLAIN, to_host=False, keep_on_device=True)
        (answer,) = pipeline.parse([there], ask)
        # the two tables go up; nothing comes down
        assert fake_cuda.fake_copies_up() - before[0] == 2
        assert fake_cuda.fake_copies_down() == before[1]
        kept = answer["cihp"].labels_device
        assert kept is not None
        about = kept.__cuda_array_interface__
        labels = memory_at(about["data"][0], about["shape"], np.uint8)
        assert (labels != on_the_cpu(image, "cihp", PLAIN)[0]).mean() < 5e-3


def test_labels_kept_on_the_device_survive_the_next_batch(gpu) -> None:
    pipeline = pipeline_of(gpu, slots=1)
    ask = Ask(heads=("cihp",), tta=PLAIN, keep_on_device=True)
    (answer,) = pipeline.parse([photo(60, 60, seed=1)], ask)
    about = answer["cihp"].labels_device.__cuda_array_interface__  # type: ignore[union-attr]
    before = memory_at(about["data"][0], about["shape"], np.uint8).copy()
    pipeline.parse([photo(60, 60, seed=2)], ask)
    assert np.array_equal(memory_at(about["data"][0], about["shape"], np.uint8), before)


def test_bgr_on_the_device_is_read_backwards(gpu) -> None:
    image = photo(64, 64)
    there = device_photo(OnDevice(gpu, np.ascontiguousarray(image[..., ::-1]), None), bgr=True)
    assert there is not None
    answers = pipeline_of(gpu).parse([there], Ask(heads=("cihp",), tta=PLAIN))
    assert_same(answers, [image])


def test_an_array_on_the_device_that_is_no_photo_is_refused(gpu) -> None:
    with pytest.raises(InputError, match=r"uint8 \(H, W, 3\) or \(3, H, W\)"):
        device_photo(OnDevice(gpu, np.zeros((4, 4, 3), np.float32), None))
    assert device_photo(np.zeros((4, 4, 3), np.uint8)) is None


def test_a_recorded_network_is_replayed(gpu) -> None:
    engine = CopyingEngine(gpu)
    pipeline = pipeline_of(gpu, engine, slots=1)
    ask, image = Ask(heads=("cihp",), tta=PLAIN), photo(64, 96)
    for _ in range(3):
        assert_same(pipeline.parse([image], ask), [image])
    assert engine.calls == 2  # once as it is, once to record


def test_a_network_that_cannot_be_recorded_runs_without(gpu, caplog) -> None:
    engine = CopyingEngine(gpu)
    engine.refuses = True
    pipeline = pipeline_of(gpu, engine, slots=1)
    ask, image = Ask(heads=("cihp",), tta=PLAIN), photo(64, 96)
    for _ in range(3):
        assert_same(pipeline.parse([image], ask), [image])
    assert "without a CUDA graph" in caplog.text
    assert engine.calls == 4


def test_each_batch_size_has_a_context_and_the_least_used_go(gpu) -> None:
    engine, stream = HostEngine(batch_max=12), gpu.open_stream()
    outputs = {
        name: gpu.allocator.allocate(12 * t.size_bytes) for name, t in engine.outputs.items()
    }
    pointers = {name: memory.pointer for name, memory in outputs.items()}
    image = gpu.allocator.allocate(12 * 64 * 96 * 3)
    replays = Replays(engine, graphs=True)
    for count in range(1, MOST_SIZES + 2):
        replays.run(count, image.pointer, pointers, 0, stream)
    assert replays.sizes == tuple(range(2, MOST_SIZES + 2))
    replays.run(2, image.pointer, pointers, 0, stream)
    replays.run(1, image.pointer, pointers, 0, stream)
    assert replays.sizes == (*range(4, MOST_SIZES + 2), 2, 1)
    assert engine.contexts == MOST_SIZES + 2


def test_batches_are_filled_up_to_one_of_few_sizes() -> None:
    engine = HostEngine(batch_min=2, batch_max=40)
    sizes = {bucket_of(count, engine) for count in range(1, 41)}
    assert len(sizes) <= MOST_SIZES + 1
    assert all(count <= bucket_of(count, engine) <= count + 4 for count in range(2, 41))
    assert bucket_of(1, engine) == 2
    assert bucket_of(1, HostEngine(batch_max=40)) == 1


def test_photos_that_need_windows_or_too_many_views_are_not_taken(gpu) -> None:
    pipeline = pipeline_of(gpu, HostEngine(half=True))
    assert pipeline.takes((2000, 30), Ask(heads=("cihp",), tta=TTA(flip=True)))
    for tta in (TTA(scales=(1.0, 1.5)), TTA(scales=(1.0, 0.8, 0.6), flip=True)):
        assert not pipeline.takes((60, 60), Ask(heads=("cihp",), tta=tta))
    assert not pipeline.takes((60, 60), Ask(heads=("cihp",), tta=TTA(flip=True, average="probs")))


def test_a_closed_pipeline_frees_everything_and_says_so(gpu, fake_cuda) -> None:
    gc.collect()
    engine, before = HostEngine(), fake_cuda.fake_used()
    pipeline = pipeline_of(gpu, engine)
    pipeline.parse([photo(30, 30)], Ask(heads=("cihp",), tta=PLAIN))
    assert fake_cuda.fake_used() > before
    pipeline.close()
    assert engine.closed
    with pytest.raises(BackendError, match="closed"):
        pipeline.parse([photo(30, 30)], Ask(heads=("cihp",), tta=PLAIN))
    del pipeline
    gc.collect()
    assert fake_cuda.fake_used() == before


def test_a_full_batch_of_mirrored_views_fits_the_tables(gpu) -> None:
    tta, domain = TTA(flip=True), load_domain("ccp")
    images = [photo(40 + i, 50, seed=i) for i in range(16)]
    engine = HostEngine(batch_max=32)
    engine.outputs = {"logits.ccp": Tensor((domain.num_classes, 16, 24), np.dtype(np.float32))}
    pipeline = DevicePipeline(gpu, engine, SPEC, {"ccp": HeadSpec(domain, "logits.ccp")})
    answers = pipeline.parse(images, Ask(heads=("ccp",), tta=tta))
    assert engine.counts == [32]
    assert [each["ccp"].labels.shape for each in answers] == [image.shape[:2] for image in images]  # type: ignore[union-attr]
