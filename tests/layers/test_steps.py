"""One step at a time gives what the whole sequence gives."""

import copy
import pickle

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, assert_all_same, flat, twins
from tests.tolerance import assert_same

import unrolled


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_give_the_sequence(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **{**variant, "bidirectional": False})
    x = torch.randn(T, B, I, dtype=torch.float64)
    expected = layer(x.transpose(0, 1) if layer.batch_first else x)
    state, outputs = None, []
    for x_t in x:
        output, state = layer.step(x_t, state)
        outputs.append(output)
    stacked = torch.stack(outputs, dim=1 if layer.batch_first else 0)
    assert_all_same(flat((stacked, state)), flat(expected))
    output, state = layer.step(x[0, 0])
    assert_same(output, outputs[0][0])
    ids, table = torch.randint(9, (B,)), torch.randn(9, I, dtype=torch.float64)
    assert_all_same(flat(layer.step(ids, embedding=table)), flat(layer.step(table[ids])))
    assert_all_same(flat(layer.step(ids[0], embedding=table)), flat(layer.step(table[ids[0]])))


@pytest.mark.parametrize("kind", ["rnn", "relu", "lstm", "gru"])
def test_steps_without_gradients_follow_the_weights_as_they_change(kind: str) -> None:
    layer, _ = twins(kind, torch.float32, num_layers=2)
    x = torch.randn(T, B, I)

    def by_steps() -> list[torch.Tensor]:
        with torch.no_grad():
            state, outputs = None, []
            for x_t in x:
                output, state = layer.step(x_t, state)
                outputs.append(output)
            return flat((torch.stack(outputs), state))

    assert_all_same(by_steps(), flat(layer(x)))
    with torch.no_grad():
        layer.weight_hh_l1.mul_(0.5)
    assert_all_same(by_steps(), flat(layer(x)))
    layer.load_state_dict(twins(kind, torch.float32, num_layers=2)[0].state_dict())
    assert_all_same(by_steps(), flat(layer(x)))
    layer = copy.deepcopy(pickle.loads(pickle.dumps(layer)))
    assert_all_same(by_steps(), flat(layer(x)))
    with pytest.raises(RuntimeError, match="Expected 4, got 9"), torch.no_grad():
        layer.step(torch.zeros(B, 9))


def test_a_stream_has_no_end_to_start_from() -> None:
    with pytest.raises(RuntimeError, match="bidirectional=True"):
        unrolled.LSTM(I, H, bidirectional=True).step(torch.zeros(B, I))
