"""What is measured on a GPU, on a driver whose every interval lasts 1.5 ms."""

from __future__ import annotations

import numpy as np
import pytest

from hp_sdk.gpu.device import Gpu
from hp_sdk.gpu.pipeline import DevicePipeline
from hp_sdk.gpu.ticket import STAGES, Ask
from hp_sdk.gpu.timing import copy_rates, pace
from hp_sdk.tta import TTA
from tests.gpu.host_engine import HEADS, SPEC, HostEngine


@pytest.fixture
def gpu(fake_cuda):
    return Gpu(memory="driver")


def test_copies_are_counted_once_each_way_and_twice_on_the_device(gpu) -> None:
    rates = copy_rates(gpu, 3_000_000)
    assert rates.up == rates.down == pytest.approx(2.0)
    assert rates.on_device == pytest.approx(4.0)


def test_a_pipeline_is_timed_stage_by_stage_and_as_a_whole(gpu) -> None:
    engine = HostEngine()
    pipeline = DevicePipeline(gpu, engine, SPEC, HEADS)
    photos = [np.full((40, 60, 3), 90, np.uint8)] * 2
    found = pace(pipeline, photos, Ask(heads=("cihp",), tta=TTA()), seconds=0.1)
    assert found.batch == 2
    assert found.network_ms == pytest.approx(1.5 / 20)
    assert found.network_photos_per_s == pytest.approx(2e3 / found.network_ms)
    assert found.stages_ms == dict.fromkeys(STAGES, 1.5)
    assert 0 < found.enqueue_ms <= found.latency_ms
    assert found.photos_per_s > 0
    assert found.share == pytest.approx(found.photos_per_s / found.network_photos_per_s)
    assert set(engine.counts) <= {2, 4}  # two photos, or both slots' warm-up at once
