"""The compiled steps against torch.nn's in float64, by every instruction set, in sizes that leave every remainder."""

import pytest
import torch
from torch import nn

import unrolled
from tolerance import assert_same

KINDS = {"LSTMCell": {}, "GRUCell": {"bias": False}, "RNNCell": {"nonlinearity": "relu"}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_step_and_its_gradients_agree(kind: str, count: int, isa: str, threads) -> None:
    threads(count)
    for B, width, H in ((1, 5, 1), (2, 7, 17), (13, 33, 16), (7, 64, 40), (9, 300, 400)):
        torch.manual_seed(0)
        ours = getattr(unrolled, kind)(width, H, **KINDS[kind])
        theirs = getattr(nn, kind)(width, H, **KINDS[kind]).double()
        theirs.load_state_dict(ours.state_dict())
        given = [torch.randn(B, width), *(torch.randn(B, H) for _ in range(1 + (kind == "LSTMCell")))]
        found = []
        for cell, dtype in ((ours, torch.float32), (theirs, torch.float64)):
            x, *state = (t.to(dtype).requires_grad_() for t in given)
            after = cell(x, tuple(state) if len(state) == 2 else state[0])
            after = after if isinstance(after, tuple) else (after,)
            loss = sum((part * torch.linspace(-1, 1, H, dtype=dtype)).sum() for part in after) / H
            found.append([*after, *torch.autograd.grad(loss, [x, *state, *cell.parameters()])])
            with torch.no_grad():
                again = cell(x, tuple(state) if len(state) == 2 else state[0])
            found[-1] += again if isinstance(again, tuple) else (again,)
        for one, other in zip(*found, strict=True):
            assert_same(one, other)
