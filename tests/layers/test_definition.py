"""What the layers run against the cells in a loop."""

import pytest
import torch
from tests.layers.twins import KINDS, B, I, T, assert_all_same, initial_state, twins

from unrolled.recurrence import arguments, plan, run


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
class TestChosenAgainstDefinition:
    """The backend that `plan` chooses against the definition, on the same call."""

    def run(self, kind: str, bidirectional: bool, **masks) -> None:
        layer, _ = twins(kind, bidirectional=bidirectional)
        x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
        call, _ = arguments.checked(layer, x, initial_state(layer), **masks)
        results = []
        for compute in (plan.compute, run.by_definition):
            output, state, _ = compute(call)
            loss = sum((value * (1 + k)).square().sum() for k, value in enumerate((output, *state)))
            results.append([output, *state, *torch.autograd.grad(loss, [x, *layer.parameters()])])
        assert_all_same(*results)

    def test_whole_sequences(self, kind: str, bidirectional: bool) -> None:
        self.run(kind, bidirectional)

    def test_lengths_with_zero(self, kind: str, bidirectional: bool) -> None:
        self.run(kind, bidirectional, lengths=torch.tensor([0, 5, 3]))

    def test_resets(self, kind: str, bidirectional: bool) -> None:
        self.run(kind, bidirectional, lengths=torch.tensor([4, 5, 0]), resets=torch.rand(T, B) < 0.4)
