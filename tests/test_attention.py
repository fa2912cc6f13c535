"""Attention is a weighted mean: its definition, place by place, and what follows from it."""

import math

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.attention import AdditiveAttention, DotAttention, MultiplicativeAttention


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


def test_dot_attention_without_projections_compares_queries_with_the_places_themselves(asked) -> None:
    queries, places = asked[0][..., :4], asked[1]
    attention = DotAttention(4, 4, projected=False)
    z, weights = attention(queries, places, attention.keys(places))
    assert list(attention.parameters()) == []
    assert_same(weights, (queries @ places.mT / math.sqrt(4)).softmax(-1))
    assert_same(z, weights @ places)


@pytest.mark.parametrize("learned", [True, False])
def test_multiplicative_attention_is_its_equation(asked, learned: bool) -> None:
    queries, places = asked[0] if learned else asked[0][..., :4], asked[1]
    attention = MultiplicativeAttention(queries.shape[-1], 4, learned).double()
    z, weights = attention(queries, places, attention.keys(places))
    assert len(list(attention.parameters())) == learned
    w = attention.key.weight if learned else torch.eye(4, dtype=torch.float64)
    assert_same(weights, (queries @ w @ places.mT).softmax(-1))
    assert_same(z, weights @ places)


KINDS = {
    "additive": lambda: AdditiveAttention(6, 4),
    "dot": lambda: DotAttention(6, 4, heads=2),
    "general": lambda: MultiplicativeAttention(6, 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_mask_leaves_out_might_as_well_not_be_there(asked, kind: str) -> None:
    queries, places = asked
    attention = KINDS[kind]().double()
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    z, weights = attention(queries, places, attention.keys(places), mask)
    for n, count in enumerate((5, 3)):
        alone, its_weights = attention(queries[n : n + 1], places[n : n + 1, :count], attention.keys(places[n : n + 1, :count]))
        assert_same(z[n], alone[0])
        assert_same(weights[n, :, :count], its_weights[0])
        assert not weights[n, :, count:].any()


def test_widths_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="heads that divide memory_size=5, got heads=2"):
        DotAttention(6, 5, heads=2)
    for without in (lambda: MultiplicativeAttention(6, 5, learned=False), lambda: DotAttention(6, 5, projected=False)):
        with pytest.raises(ValueError, match="got query_size=6, memory_size=5"):
            without()
