"""Mean and standard deviation of numbers, by which a network reads them normalised."""

from __future__ import annotations

import numpy as np

_ROUNDING = 8
"""Units in the last place: numbers that differ by no more are alike but for rounding."""


class Spread:
    """Mean and standard deviation of each column over all rows, part by part (Chan, Golub and LeVeque 1979), in float64.

    Everything is told by its difference from the first row, so that a column that never changes has a deviation of exactly 0,
    however many rows and however large its number.

    Args:
        dtype: in which the numbers are kept, which is how finely they can be told apart.
    """

    def __init__(self, dtype: np.dtype | type) -> None:
        self._resolution = np.finfo(dtype)
        self._total = 0.0
        self._first = self._mean = self._squares = np.zeros(0)

    def add(self, x: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Rows (N, F), N above 0; a row of weight 2 counts as two, one of 0 not at all."""
        x = np.asarray(x, np.float64)
        own = float(len(x) if weights is None else weights.sum())
        if not own:
            return
        if not self._total:
            self._first, self._mean, self._squares = x[0], np.zeros(x.shape[1]), np.zeros(x.shape[1])
        x = x - self._first
        mean = np.average(x, axis=0, weights=weights)
        squares = own * np.average((x - mean) ** 2, axis=0, weights=weights)
        total, apart = self._total + own, mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self._total * own / total)
        self._mean, self._total = self._mean + apart * (own / total), total

    @property
    def mean(self) -> np.ndarray:
        return self._first + self._mean

    @property
    def deviation(self) -> np.ndarray:
        """1 for what never changes, or by no more than rounding does."""
        deviation = np.sqrt(self._squares / (self._total or 1))
        least = np.maximum(_ROUNDING * self._resolution.eps * np.abs(self.mean), self._resolution.tiny)
        return np.where(deviation > least, deviation, 1.0)
