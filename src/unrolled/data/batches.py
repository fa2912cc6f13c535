"""Which items are in which batch, a function of the step's number: shuffled, or by alike length, so that little is padding."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np


class LengthBatches:
    """N sequences in batches of alike length, in another order in every epoch; a batch is a function of the step's number.

    All batches of an epoch have about as many steps: those of `batch_size` sequences of mean length. Sequences are sorted by
    length, with some noise, cut at equal shares of the steps, and the batches are shuffled.

    Args:
        lengths: (N,), each 1 or more.
        batch_size: sequences in a batch on average.
        seed: of the order.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths, self.seed = lengths, seed
        self.per_epoch = max(1, round(len(lengths) / batch_size))
        self._epoch = lru_cache(2)(self._make_epoch)  # threads make batches of an epoch and of the next one side by side

    def __getitem__(self, step: int) -> np.ndarray:
        """The numbers of the sequences of a batch."""
        epoch, index = divmod(step, self.per_epoch)
        order, cuts, shuffled = self._epoch(epoch)
        batch = shuffled[index]
        return order[cuts[batch] : cuts[batch + 1]]

    def padding(self) -> float:
        """The share of all steps in the first epoch's batches that is padding."""
        order, cuts, _ = self._epoch(0)
        padded = sum((stop - start) * int(self.lengths[order[start:stop]].max()) for start, stop in pairwise(cuts))
        return 1 - float(self.lengths.sum()) / padded

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """The numbers of all sequences, alike lengths together."""
        return np.argsort(self.lengths * (1 + 0.1 * rng.random(len(self.lengths))) + 2 * rng.random(len(self.lengths)))

    def _make_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sequences in their order, where batches begin in it, and the order of the batches."""
        rng = np.random.default_rng([self.seed, epoch])
        order = self.order(rng)
        total = np.cumsum(self.lengths[order])
        number = np.arange(1, self.per_epoch)
        cuts = np.searchsorted(total, total[-1] * number / self.per_epoch)
        cuts = np.maximum.accumulate(np.maximum(cuts - number, 0)) + number  # a batch has one sequence at least
        cuts = np.minimum(cuts, len(order) - self.per_epoch + number)
        return order, np.concatenate([[0], cuts, [len(order)]]), rng.permutation(self.per_epoch)


class ShuffledBatches:
    """N items, `batch_size` at a time, in another order in every epoch; of the last too few to fill a batch, which are others
    in every epoch, are left out.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.size = min(batch_size, count)
        self.per_epoch = count // self.size
        self._order = lru_cache(2)(self._draw_order)  # threads make batches of an epoch and of the next one side by side

    def __getitem__(self, step: int) -> np.ndarray:
        """The numbers of the items of a batch."""
        epoch, index = divmod(step, self.per_epoch)
        return self._order(epoch)[index * self.size : (index + 1) * self.size]

    def rng(self, step: int) -> np.random.Generator:
        """For what else is drawn for this batch."""
        return np.random.default_rng([self.seed, *divmod(step, self.per_epoch)])

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)
