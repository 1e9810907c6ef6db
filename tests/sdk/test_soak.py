"""The soak script calls a leak a leak and steady noise steady."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def soak(load_script):
    return load_script("soak")


def samples(soak, memory_mb, *, threads=lambda i: 4, files=lambda i: 9):
    """One round a second: the memory, threads and files that functions of the round say."""
    return [soak.Sample(float(i), memory_mb(i), threads(i), files(i)) for i in range(90)]


def test_noise_and_a_steep_warm_up_are_no_leak(soak):
    noise = np.random.default_rng(0).normal(0, 5, 90)

    verdict = soak.judge(samples(soak, lambda i: 400 - 300 * (i < 20) + noise[i]), 0.05)

    assert verdict.problems == ()
    assert abs(verdict.drift) < 0.05


@pytest.mark.parametrize("per_round_mb", [1.0, -1.0])
def test_memory_that_creeps_is_a_problem(soak, per_round_mb):
    verdict = soak.judge(samples(soak, lambda i: 300 + per_round_mb * i), 0.05)

    assert verdict.slope_mb_per_hour == pytest.approx(3600 * per_round_mb)
    assert len(verdict.problems) == 1
    assert "memory changed" in verdict.problems[0]


def test_threads_and_files_that_stay_are_a_problem(soak):
    verdict = soak.judge(
        samples(soak, lambda i: 300.0, threads=lambda i: 4 + i // 30, files=lambda i: 9 + i // 80),
        0.05,
    )

    assert [problem.split()[0] for problem in verdict.problems] == ["threads", "open"]


def test_too_short_a_time_proves_nothing(soak):
    verdict = soak.judge([soak.Sample(1.0, 300.0, 4, 9)], 0.05)

    assert "more minutes" in verdict.problems[0]
