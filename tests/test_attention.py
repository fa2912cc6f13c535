"""Attention is a weighted mean: its definition, place by place, and what follows from it."""

import math

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.attention import AdditiveAttention, DotAttention


@pytest.fixture
def asked() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)  # queries, places


def test_additive_attention_is_its_equations(asked) -> None:
    queries, places = asked
    attention = AdditiveAttention(6, 4, 7).double()
    z, weights = attention(queries, places, attention.keys(places))
    for n in range(2):
        for q in range(3):
            h = attention.query.weight @ queries[n, q] + attention.query.bias
            e = torch.stack([attention.score.weight[0] @ torch.tanh(h + attention.key.weight @ a) for a in places[n]])
            assert_same(weights[n, q], e.softmax(0))
            assert_same(z[n, q], sum(alpha * a for alpha, a in zip(weights[n, q], places[n], strict=True)))


def test_dot_attention_is_its_equation_for_each_head(asked) -> None:
    queries, places = asked
    attention = DotAttention(6, 4, heads=2).double()
    z, weights = attention(queries, places, attention.keys(places))
    q, k, v = attention.query(queries), attention.key(places), attention.value(places)
    means = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        alpha = (q[..., part] @ k[..., part].mT / math.sqrt(2)).softmax(-1)
        means.append(alpha)
        assert_same(z[..., part], alpha @ v[..., part])
    assert_same(weights, sum(means) / 2)


def test_dot_attention_without_projections_is_a_mean_of_the_places() -> None:
    places = torch.randn(1, 5, 4)
    attention = DotAttention(4, 4, projected=False)
    z, weights = attention(torch.zeros(1, 1, 4), places, attention.keys(places))
    assert_same(weights, torch.full((1, 1, 5), 0.2))  # a query of zeros finds all alike
    assert_same(z[:, 0], places.mean(1))


def test_dot_attention_without_projections_compares_queries_with_the_places_themselves(asked) -> None:
    queries, places = asked[0][..., :4], asked[1]
    attention = DotAttention(4, 4, projected=False)
    z, weights = attention(queries, places, attention.keys(places))
    assert list(attention.parameters()) == []
    assert_same(weights, (queries @ places.mT / math.sqrt(4)).softmax(-1))
    assert_same(z, weights @ places)


def test_widths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="heads that divide memory_size=5, got heads=2"):
        DotAttention(6, 5, heads=2)
    with pytest.raises(ValueError, match="got query_size=6, memory_size=5"):
        DotAttention(6, 5, projected=False)
