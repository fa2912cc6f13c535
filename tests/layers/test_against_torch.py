"""Without options the layers are torch.nn's: answers, gradients, packed sequences, initial weights."""

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, assert_all_same, flat, initial_state, twins
from tests.tolerance import assert_same
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import unrolled


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestAgainstTorch:
    def test_answers_and_gradients(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(*((B, T, I) if ours.batch_first else (T, B, I)), dtype=torch.float64, requires_grad=True)
        for hx in (None, initial_state(ours)):
            got, want = flat(ours(x, hx)), flat(theirs(x, hx))
            assert_all_same(got, want)
            ours_inputs, their_inputs = [x, *ours.parameters()], [x, *theirs.parameters()]
            scale = [torch.randn_like(part) for part in want]
            assert_all_same(torch.autograd.grad(got, ours_inputs, scale), torch.autograd.grad(want, their_inputs, scale))

    def test_packed_sequences(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        pieces = [torch.randn(length, I, dtype=torch.float64) for length in (2, 5, 3)]
        for packed in (
            pack_sequence(pieces, enforce_sorted=False),
            pack_sequence(sorted(pieces, key=len, reverse=True)),
        ):
            got, want = ours(packed, initial := initial_state(ours)), theirs(packed, initial)
            assert_same(got[0].data, want[0].data)
            assert_all_same(flat(got)[1:], flat(want)[1:])
            assert_same(pad_packed_sequence(got[0])[0], pad_packed_sequence(want[0])[0])

    def test_lengths_are_packing(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(*((B, T, I) if ours.batch_first else (T, B, I)), dtype=torch.float64)
        lengths, hx = torch.tensor([2, 5, 3]), initial_state(ours)
        packed = pack_padded_sequence(x, lengths, batch_first=ours.batch_first, enforce_sorted=False)
        output, state = theirs(packed, hx)
        output, _ = pad_packed_sequence(output, batch_first=ours.batch_first)
        assert_all_same(flat(ours(x, hx, lengths=lengths)), flat((output, state)))

    def test_unbatched_input(self, kind: str, variant: dict) -> None:
        ours, theirs = twins(kind, **variant)
        x = torch.randn(T, I, dtype=torch.float64)
        assert_all_same(flat(ours(x)), flat(theirs(x)))

    def test_same_seed_same_initial_weights(self, kind: str, variant: dict) -> None:
        made = []
        for maker in KINDS[kind][:2]:
            torch.manual_seed(7)
            made.append(maker(I, H, **KINDS[kind][2], **variant))
        ours, theirs = made
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert repr(ours) == repr(theirs)
        assert [[tuple(w.shape) for w in one] for one in ours.all_weights] == [
            [tuple(w.shape) for w in one] for one in theirs.all_weights
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_follow_torch(kind: str, dtype: torch.dtype) -> None:
    ours, theirs = twins(kind, dtype)
    x = torch.randn(T, B, I).to(dtype)
    assert_all_same(flat(ours(x)), flat(theirs(x)))
    assert ours(x)[0].dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_and_single_step(kind: str) -> None:
    ours, theirs = twins(kind)
    one = torch.randn(1, B, I, dtype=torch.float64)
    assert_all_same(flat(ours(one)), flat(theirs(one)))
    output, state = ours(torch.empty(T, 0, I, dtype=torch.float64))
    assert output.shape == (T, 0, ours.proj_size or H)
    assert flat((output, state))[1].shape == (1, 0, ours.proj_size or H)


def test_positional_arguments_follow_torch() -> None:
    for ours, theirs, arguments in [
        (unrolled.RNN, nn.RNN, (I, H, 2, "relu", False, True, 0.1, True)),
        (unrolled.LSTM, nn.LSTM, (I, H, 2, False, True, 0.1, True, 3)),
        (unrolled.GRU, nn.GRU, (I, H, 2, False, True, 0.1, True)),
    ]:
        ours, theirs = ours(*arguments), theirs(*arguments)
        assert {name: w.shape for name, w in ours.named_parameters()} == {
            name: w.shape for name, w in theirs.named_parameters()
        }
        assert (ours.batch_first, ours.dropout, ours.mode) == (theirs.batch_first, theirs.dropout, theirs.mode)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_sizes_beyond_32_bits_work_or_are_refused(kind: str) -> None:
    layer, _ = twins(kind, torch.float32)
    long = torch.zeros(1, 1, I).expand(2**31 + 5, 0, I)
    assert layer(long)[0].shape == (2**31 + 5, 0, layer.hidden_size)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"memory|Storage size calculation overflowed"):
        layer(torch.zeros(1, 1, I).expand(2**42, 2, I))


@pytest.mark.parametrize(
    "dtype", [getattr(torch, name) for name in ("int8", "uint8", "int16", "uint16", "uint32", "uint64")], ids=str
)
def test_token_ids_and_lengths_of_every_whole_number(dtype: torch.dtype) -> None:
    layer, ids, lengths = unrolled.GRU(9, H), torch.tensor([[3, 8], [0, 1], [7, 2]]), torch.tensor([3, 1])
    expected = flat(layer(ids, lengths=lengths))
    assert_all_same(flat(layer(ids.to(dtype), lengths=lengths.to(dtype))), expected)
    assert_all_same(flat(layer(ids.to(dtype), lengths=[3, 1])), expected)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_complex_numbers(kind: str) -> None:
    ours, theirs = twins(kind, torch.complex64)
    x = torch.randn(T, B, I, dtype=torch.complex64)
    for got, want in zip(flat(ours(x)), flat(theirs(x)), strict=True):
        assert_all_same(torch.view_as_real(got), torch.view_as_real(want))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ascending", [False, True])
def test_packed_input_draws_torch_nns_masks_of_dropout(kind: str, ascending: bool) -> None:
    ours, theirs = twins(kind, torch.float32, num_layers=3, dropout=0.4)
    pieces = [torch.randn(n, I) for n in ((1, 3, 5) if ascending else (5, 3, 1))]
    found = []
    for layer in (ours, theirs):
        torch.manual_seed(5)
        output, state = layer(nn.utils.rnn.pack_sequence(pieces, enforce_sorted=False))
        found.append([*flat((output.data, state)), torch.rand(1)])  # and the generator is left where theirs is
    assert_all_same(*found)


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"zoneout": 0.2}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_several_losses_at_once_are_those_of_each(kind: str, options: dict) -> None:
    """is_grads_batched, as in torch.autograd.functional.jacobian(vectorize=True)."""
    kind_of_layer, _, extra = KINDS[kind]
    layer = kind_of_layer(I, H, **extra, **options).eval()
    x = torch.randn(T, B, I, requires_grad=True)
    inputs, losses = [x, *layer.parameters()], layer(x)[0].sin().sum((0, 2))
    at_once = torch.autograd.grad(losses, inputs, torch.eye(B), is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses]
    assert_all_same(at_once, map(torch.stack, zip(*one_by_one, strict=True)))
