"""Padding changes nothing, and a reset begins a sequence anew."""

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, I, T, assert_all_same, flat, initial_state, twins
from tests.tolerance import assert_same


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_padding_does_not_change_the_result(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **variant)
    x = torch.randn(B, T, I, dtype=torch.float64)
    lengths = torch.tensor([0, 5, 2])
    time_first = (lambda z: z) if layer.batch_first else (lambda z: z.transpose(0, 1))
    one, two = x.clone(), x.clone()
    for b, length in enumerate(lengths):
        two[b, length:] = float("nan")
    results = [flat(layer(time_first(x), lengths=lengths)) for x in (one, two)]
    assert_all_same(*results)
    gradients = [torch.autograd.grad(sum(r.square().sum() for r in result), layer.parameters()) for result in results]
    assert_all_same(*gradients)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_of_length_zero_leaves_the_state(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **variant)
    hx = initial_state(layer)
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
    output, state = layer(x, hx, lengths=torch.zeros(B, dtype=torch.int64))
    assert not output.any()
    assert_all_same(flat((output, state))[1:], flat((output, hx))[1:])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_resets_equal_running_the_pieces_apart(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **{**variant, "num_layers": 1})
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
    time = 1 if layer.batch_first else 0
    resets = torch.zeros(T, B, dtype=torch.bool)
    if layer.bidirectional:  # the second direction reads from the end: its cut before step 1 is the first's before 2
        return
    resets[2] = True
    whole, _ = layer(x, resets=resets.T if layer.batch_first else resets)
    first, _ = layer(x.narrow(time, 0, 2))
    second, _ = layer(x.narrow(time, 2, T - 2))
    assert_same(whole, torch.cat([first, second], dim=time))
