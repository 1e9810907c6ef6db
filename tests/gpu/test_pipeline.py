"""The device pipeline against the CPU path, on a driver that runs on the host."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hp_sdk.bundle import HeadSpec
from hp_sdk.domains import load_domain
from hp_sdk.errors import BackendError, DeviceOutOfMemory, InputError
from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.engine import Tensor
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.pixels import device_photo
from hp_sdk.gpu.replay import MOST_SIZES, Replays, bucket_of
from hp_sdk.gpu.ticket import STAGES, Ask
from hp_sdk.tta import TTA
from tests.gpu.host_engine import (
    PLAIN,
    SIZES,
    SPEC,
    CopyingEngine,
    HostEngine,
    OnDevice,
    assert_same,
    memory_at,
    on_the_cpu,
    photo,
    pipeline_of,
    scores_of,
)


@pytest.fixture
def gpu(fake_cuda):
    return Gpu(memory="driver")


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
