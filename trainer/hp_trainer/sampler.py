"""Which samples make up which batch: a function of (seed, step) alone, so runs resume exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np

MIXES = ("domains", "proportional")

Draw = tuple[int, int, int]
"""(set, item in the set, number of the draw in the whole run)."""


class DomainMixSampler:
    """Endless batches in which every set appears in proportion, and at least once if it fits.

    `sizes` images per set, `weights` how often one of them is drawn relative to that. Every set is
    gone through in its own order, shuffled anew each time. With `mix="proportional"` chance alone
    decides which sets a batch holds, as in shuffling all images together (register A10).

    Source: SST, arXiv:2304.04140, Section 4 (batches mix the data sets); register A10.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float],
        *,
        batch: int,
        seed: int,
        start: int,
        mix: str = "domains",
    ) -> None:
        self.sizes, self.batch, self.seed, self.start = sizes, batch, seed, start
        self.mix = mix
        self.least = 1 if batch >= len(sizes) and mix == "domains" else 0
        mass = np.array(sizes, float) * np.array(weights, float)
        share = np.maximum(mass / mass.sum() * batch, self.least)
        self.share = share / share.sum() * batch

    def __iter__(self) -> Iterator[list[Draw]]:
        taken = np.zeros(len(self.sizes), int)
        for step in count():
            take = self._take(step, taken)
            if step >= self.start:
                yield self._draws(step, taken, take)
            taken += take

    def _take(self, step: int, taken: np.ndarray) -> np.ndarray:
        """How many images of every set the batch of `step` holds."""
        if self.mix == "proportional":
            chance = np.random.default_rng([self.seed, step, len(self.sizes)])
            return chance.multinomial(self.batch, self.share / self.share.sum())
        return apportion(self.share * (step + 1) - taken, self.batch, self.least)

    def _draws(self, step: int, taken: np.ndarray, take: np.ndarray) -> list[Draw]:
        picks = [
            (which, self._item(which, int(taken[which]) + i))
            for which, many in enumerate(take)
            for i in range(many)
        ]
        return [(which, item, step * self.batch + i) for i, (which, item) in enumerate(picks)]

    def _item(self, which: int, position: int) -> int:
        epoch, place = divmod(position, self.sizes[which])
        order = np.random.default_rng([self.seed, which, epoch]).permutation(self.sizes[which])
        return int(order[place])


class ShareOfBatches:
    """The part of every batch that falls to process `rank` of `size`."""

    def __init__(self, batches: Iterable[list[Draw]], rank: int, size: int) -> None:
        self.batches, self.rank, self.size = batches, rank, size

    def __iter__(self) -> Iterator[list[Draw]]:
        return (batch[self.rank :: self.size] for batch in self.batches)


def apportion(owed: np.ndarray, batch: int, least: int) -> np.ndarray:
    """Split `batch` places by what every set is owed (fractional), at least `least` each."""
    take = np.maximum(np.floor(owed), least).astype(int)
    while take.sum() < batch:
        take[np.argmax(owed - take)] += 1
    while take.sum() > batch:
        spare = np.where(take > least, owed - take, np.inf)
        take[np.argmin(spare)] -= 1
    return take
