"""What the layers run against the cells in a loop."""

import pytest
import torch
from tests.layers.twins import KINDS, B, I, T, assert_all_same, initial_state, twins

from unrolled.layers import State, plain_recurrence, recurrence


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
class TestFusedAgainstDefinition:
    """`recurrence` (what layers run) against `plain_recurrence` (the cells in a loop)."""

    def run(self, kind: str, reverse: bool, lengths, resets=None) -> None:
        layer, _ = twins(kind)
        weights, w_hr = layer._weights("_l0")
        x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
        hx = initial_state(layer)
        state = State(*(part[0] for part in (hx if isinstance(hx, tuple) else (hx,))))
        results = []
        for compute in (recurrence, plain_recurrence):
            one = compute(layer.mode, x, state, weights, w_hr, lengths=lengths, resets=resets, reverse=reverse)
            values = [one.output, *(part for part in one.last if part is not None)]
            loss = sum((value * (1 + k)).square().sum() for k, value in enumerate(values))
            results.append([*values, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        assert_all_same(*results)

    def test_whole_sequences(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, None)

    def test_lengths_with_zero(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, torch.tensor([0, 5, 3]))

    def test_resets(self, kind: str, reverse: bool) -> None:
        self.run(kind, reverse, torch.tensor([4, 5, 0]), torch.rand(T, B) < 0.4)
