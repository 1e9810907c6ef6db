"""Batches mix the sets in proportion and depend on (seed, step) alone."""

from itertools import islice

import numpy as np

from hp_trainer.sampler import DomainMixSampler, apportion


def batches(steps: int, *, start: int = 0, seed: int = 0, sizes=(50, 7, 3), weights=(1, 1, 1)):
    sampler = DomainMixSampler(sizes, weights, batch=4, seed=seed, start=start)
    return list(islice(iter(sampler), steps))


def test_every_batch_is_full_and_holds_every_set():
    for batch in batches(200):
        assert len(batch) == 4
        assert {which for which, _, _ in batch} == {0, 1, 2}


def test_a_resumed_run_sees_the_batches_it_would_have_seen():
    assert batches(30)[12:] == batches(18, start=12)


def test_every_image_of_a_set_is_seen_before_any_is_seen_twice():
    items = [item for batch in batches(40) for which, item, _ in batch if which == 0]
    for first in range(0, len(items) - 50, 50):
        assert sorted(items[first : first + 50]) == list(range(50))


def test_weights_shift_the_shares():
    counts = np.zeros(2)
    sampler = DomainMixSampler((100, 100), (3, 1), batch=4, seed=0, start=0)
    for batch in islice(iter(sampler), 100):
        for which, _, _ in batch:
            counts[which] += 1
    assert counts.tolist() == [300, 100]


def test_draw_numbers_never_repeat():
    numbers = [number for batch in batches(50) for _, _, number in batch]
    assert numbers == list(range(200))


def test_another_seed_gives_another_order():
    assert batches(5, seed=1) != batches(5, seed=2)


def test_apportion_fills_the_batch_exactly():
    assert apportion(np.array([2.6, 0.9, 0.5]), 4, 1).tolist() == [2, 1, 1]
    assert apportion(np.array([2.6, 0.9, 0.5]), 4, 0).tolist() == [3, 1, 0]


def test_proportional_mixing_leaves_the_sets_of_a_batch_to_chance():
    def counts(mix):
        sampler = iter(DomainMixSampler([10, 30], [1, 1], batch=4, seed=2, start=0, mix=mix))
        return [sum(which == 0 for which, _, _ in next(sampler)) for _ in range(200)]

    assert set(counts("domains")) == {1}
    chance = counts("proportional")
    assert {0, 1, 2} <= set(chance)
    assert 0.8 < sum(chance) / 200 < 1.2


def test_a_resumed_proportional_mix_goes_on_where_it_stopped():
    def draws(start, count):
        sampler = iter(
            DomainMixSampler([5, 7], [1, 2], batch=3, seed=4, start=start, mix="proportional")
        )
        return [next(sampler) for _ in range(count)]

    assert draws(0, 9)[6:] == draws(6, 3)
