"""Integers are rows of an embedding, or one-hot vectors."""

import pytest
import torch
from tests.layers.twins import KINDS, VARIANTS, B, H, I, T, assert_all_same, flat, twins
from torch import nn

import unrolled


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_their_embedding(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **variant)
    table = torch.randn(9, I, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(9, (B, T) if layer.batch_first else (T, B))
    lengths, resets = torch.tensor([0, 5, 2]), torch.rand(ids.shape) < 0.3
    for how in ({}, {"lengths": lengths}, {"lengths": lengths, "resets": resets}):
        inputs = [table, *layer.parameters()]
        got, want = flat(layer(ids, embedding=table, **how)), flat(layer(table[ids], **how))
        assert_all_same(got, want)
        scale = [torch.randn_like(part) for part in want]
        assert_all_same(torch.autograd.grad(got, inputs, scale), torch.autograd.grad(want, inputs, scale))
    assert_all_same(flat(layer(ids[0], embedding=table)), flat(layer(table[ids[0]])))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_without_an_embedding_are_one_hot(kind: str, variant: dict) -> None:
    layer, _ = twins(kind, **variant)
    ids = torch.randint(I, (B, T) if layer.batch_first else (T, B))
    vectors = nn.functional.one_hot(ids, I).double()
    assert_all_same(flat(layer(ids)), flat(layer(vectors)))


def test_integers_of_any_width_do_for_ids_and_lengths() -> None:
    layer, table = unrolled.GRU(I, H), torch.randn(9, I)
    ids, lengths = torch.randint(9, (T, B)), torch.tensor([5, 0, 2])
    expected = flat(layer(ids, lengths=lengths, embedding=table))
    for dtype in (torch.int8, torch.int16, torch.int32):
        assert_all_same(flat(layer(ids.to(dtype), lengths=lengths.to(dtype), embedding=table)), expected)


def test_token_ids_outside_the_table() -> None:
    with pytest.raises(ValueError, match="from 0 to 3, got ids from 0 to 4"):
        unrolled.GRU(I, H)(torch.tensor([[0], [4]]))
    with pytest.raises(ValueError, match="from 0 to 8, got ids from -1 to 0"):
        unrolled.GRU(I, H)(torch.tensor([[0], [-1]]), embedding=torch.zeros(9, I))


def test_embedding_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"embedding of shape \(V, input_size=4\), got a tensor of shape \(9, 5\)"):
        unrolled.GRU(I, H)(torch.tensor([[0]]), embedding=torch.zeros(9, 5))


def test_embedding_of_another_dtype() -> None:
    with pytest.raises(ValueError, match=r"embedding of dtype torch.float32.*got torch.float64"):
        unrolled.GRU(I, H)(torch.zeros(T, B, dtype=torch.int64), embedding=torch.zeros(9, I, dtype=torch.float64))
