"""Locked dropout drops the same units at every step, and nothing in evaluation."""

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.dropout import LockedDropout


def test_a_sequence_has_one_mask_for_all_its_steps_and_another_has_another() -> None:
    x = torch.randn(50, 7, 40, dtype=torch.float64)
    dropped = LockedDropout(0.3)(x)
    kept = dropped != 0
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert not torch.equal(kept[0], kept[1])
    assert float(kept[:, 0].double().mean()) == pytest.approx(0.7, abs=0.05)  # five standard errors of 2,000 units
    assert_same(dropped[kept], (x / 0.7)[kept])


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(2, 3, 5)
    assert LockedDropout(0.3).eval()(x) is x
