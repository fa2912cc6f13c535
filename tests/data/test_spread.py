"""Mean and standard deviation of columns, and which of them never change."""

import numpy as np
import pytest
import torch

from tolerance import assert_same
from unrolled.data.spread import Spread


def spread(x: np.ndarray, parts: int = 3, weights: np.ndarray | None = None, dtype: type = np.float32) -> Spread:
    found = Spread(dtype)
    for n in np.array_split(np.arange(len(x)), parts):
        found.add(x[n], None if weights is None else weights[n])
    return found


def test_parts_together_have_the_mean_and_deviation_of_the_whole() -> None:
    x = np.random.default_rng(0).normal(3, [1, 20], size=(50, 2))
    found = spread(x, parts=7)
    assert_same(torch.tensor(found.mean), torch.tensor(x.mean(0)))
    assert_same(torch.tensor(found.deviation), torch.tensor(x.std(0)))


def test_a_row_of_weight_two_counts_as_two_and_of_zero_not_at_all() -> None:
    x, weights = np.random.default_rng(0).normal(size=(12, 2)), np.array([0, 0, 0, 0, 2, 1, 0, 3, 1, 1, 2, 0])
    found, repeated = spread(x, weights=weights), spread(x.repeat(weights, axis=0))
    assert_same(torch.tensor(found.mean), torch.tensor(repeated.mean))
    assert_same(torch.tensor(found.deviation), torch.tensor(repeated.deviation))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1, 1e15])
def test_what_changes_is_found_in_any_unit(unit: float, dtype: type) -> None:
    x = (np.random.default_rng(0).normal(size=(50, 1)) * unit).astype(dtype)
    assert spread(x, dtype=dtype).deviation[0] == pytest.approx(x.astype(np.float64).std())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0, 0.1, -1e-9, 1e9 / 3, 1e30 / 3])
def test_a_true_constant_has_deviation_one_however_many_rows(value: float, dtype: type) -> None:
    assert spread(np.full((20_001, 1), value, dtype), parts=11, dtype=dtype).deviation[0] == 1


@pytest.mark.parametrize(("dtype", "offset"), [(np.float32, 1e6), (np.float64, 1e12)])
def test_a_change_at_a_huge_offset_is_found_if_the_numbers_tell_it(dtype: type, offset: float) -> None:
    x = (offset + 10 * (np.arange(40) % 2)[:, None]).astype(dtype)
    assert spread(x, dtype=dtype).deviation[0] == pytest.approx(5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_that_differ_by_rounding_alone_are_constant(dtype: type) -> None:
    x = np.full((40, 1), 0.3, dtype)
    x[::2] = np.nextafter(x[::2], 1, dtype=dtype)
    assert spread(x, dtype=dtype).deviation[0] == 1


def test_what_float32_cannot_hold_normally_is_constant() -> None:
    assert spread(np.array([[0.0], [1e-39]])).deviation[0] == 1  # its deviation as float32 would have few digits or be 0
