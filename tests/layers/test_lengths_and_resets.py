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
    """A reset stands before a step in reading order, so each direction reads pieces of its own."""
    layer, _ = twins(kind, **{**variant, "num_layers": 1})
    x = torch.randn(*((B, T, I) if layer.batch_first else (T, B, I)), dtype=torch.float64)
    time, width = 1 if layer.batch_first else 0, layer.proj_size or layer.hidden_size
    resets = torch.zeros(T, B, dtype=torch.bool)
    resets[2] = True
    whole, last = layer(x, resets=resets.T if layer.batch_first else resets)
    for direction, ends in enumerate((2, 3)[: layer.num_directions]):  # from the end, step 2 begins a piece that step 0 ends
        pieces = [x.narrow(time, 0, ends), x.narrow(time, ends, T - ends)]
        outputs, states = zip(*(layer(piece) for piece in pieces), strict=True)
        one_direction = slice(direction * width, (direction + 1) * width)
        assert_same(whole[..., one_direction], torch.cat(outputs, dim=time)[..., one_direction])
        read_last = states[0 if direction else 1]
        for part, alone in zip(flat((whole, last))[1:], flat((whole, read_last))[1:], strict=True):
            assert_same(part[direction], alone[direction])
