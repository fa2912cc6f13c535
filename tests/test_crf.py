"""A conditional random field is a distribution over labellings: compared with a sum over every one, and with autograd."""

import itertools

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.crf import ConditionalRandomField

B, T, L = 3, 4, 3
LENGTHS = torch.tensor([4, 1, 3])


@pytest.fixture
def field() -> ConditionalRandomField:
    torch.manual_seed(0)
    crf = ConditionalRandomField(L).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    return crf


@pytest.fixture
def scores() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(B, T, L, dtype=torch.float64, requires_grad=True)


def score(crf: ConditionalRandomField, scores: torch.Tensor, labelling: tuple[int, ...]) -> torch.Tensor:
    """s(x, y), as the class's docstring has it."""
    own = sum(scores[t, label] for t, label in enumerate(labelling))
    moves = sum(crf.transitions[one, other] for one, other in itertools.pairwise(labelling))
    return crf.start[labelling[0]] + own + moves + crf.end[labelling[-1]]


def every_labelling(crf: ConditionalRandomField, scores: torch.Tensor, length: int) -> dict[tuple[int, ...], torch.Tensor]:
    """p of each of the L^T labellings."""
    labellings = list(itertools.product(range(L), repeat=length))
    p = torch.stack([score(crf, scores, one) for one in labellings]).softmax(0)
    return dict(zip(labellings, p, strict=True))


def test_the_likelihood_is_the_share_among_every_labelling(field, scores) -> None:
    labels = torch.tensor([[0, 2, 1, 1], [2, -100, -100, -100], [1, 1, 0, -100]])
    found = field.log_likelihood(scores, labels, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        assert_same(found[b].exp(), every_labelling(field, scores[b], length)[tuple(labels[b, :length].tolist())])


def test_viterbi_finds_the_most_likely_of_every_labelling(field) -> None:
    torch.manual_seed(2)
    for scores in torch.randn(10, B, T, L, dtype=torch.float64):
        found = field.decode(scores, LENGTHS)
        for b, length in enumerate(LENGTHS.tolist()):
            p = every_labelling(field, scores[b], length)
            assert tuple(found[b, :length].tolist()) == max(p, key=p.__getitem__)
            assert not found[b, length:].any()


def test_marginals_are_sums_over_every_labelling(field, scores) -> None:
    found = field.marginals(scores, LENGTHS)
    expected = torch.zeros_like(found)
    for b, length in enumerate(LENGTHS.tolist()):
        for labelling, p in every_labelling(field, scores[b], length).items():
            for t, label in enumerate(labelling):
                expected[b, t, label] += p
    assert_same(found, expected)


def test_marginals_are_the_gradient_of_log_z(field, scores) -> None:
    labels = torch.zeros(B, T, dtype=torch.int64)
    (gradient,) = torch.autograd.grad(field.log_likelihood(scores, labels, LENGTHS).sum(), scores)
    inside = torch.arange(T) < LENGTHS[:, None]
    one_hot = torch.nn.functional.one_hot(labels, L) * inside.unsqueeze(2)  # the gradient of s(x, y) itself
    assert_same(one_hot - gradient, field.marginals(scores, LENGTHS))


def test_gradients_are_those_of_finite_differences(field, scores) -> None:
    labels = torch.tensor([[0, 2, 1, 1], [2, 0, 0, 0], [1, 1, 0, 0]])

    def through(scores, start, transitions, end) -> torch.Tensor:
        parameters = {"start": start, "transitions": transitions, "end": end}
        return torch.func.functional_call(_Likelihood(field), {f"crf.{k}": v for k, v in parameters.items()}, (scores, labels))

    assert torch.autograd.gradcheck(through, (scores, *field.parameters()))


class _Likelihood(torch.nn.Module):
    def __init__(self, crf: ConditionalRandomField) -> None:
        super().__init__()
        self.crf = crf

    def forward(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self.crf.log_likelihood(scores, labels, LENGTHS)


def test_a_new_one_is_the_softmax_of_each_step(scores) -> None:
    crf = ConditionalRandomField(L).double()
    labels = scores.argmax(2)
    lengths = torch.full((B,), T)
    assert_same(crf.marginals(scores, lengths), scores.softmax(2))
    assert_same(crf.log_likelihood(scores, labels, lengths), scores.log_softmax(2).amax(2).sum(1))
    assert torch.equal(crf.decode(scores, lengths), labels)


@pytest.mark.parametrize("padding", [1e9, float("inf"), float("nan")])
def test_what_stands_beyond_the_end_of_a_sequence_changes_nothing(field, scores, padding: float) -> None:
    def results(scores: torch.Tensor) -> list[torch.Tensor]:
        leaf = scores.detach().requires_grad_()
        likelihood = field.log_likelihood(leaf, torch.zeros(B, T, dtype=torch.int64), LENGTHS)
        gradients = torch.autograd.grad(likelihood.sum(), (leaf, *field.parameters()))
        return [likelihood, field.decode(leaf, LENGTHS), field.marginals(leaf, LENGTHS), *gradients]

    outside = torch.arange(T) >= LENGTHS[:, None]
    for one, other in zip(results(scores), results(scores.masked_fill(outside.unsqueeze(2), padding)), strict=True):
        assert torch.equal(one, other)


def test_half_precision_is_computed_in_fp32(field, scores) -> None:
    half = scores.detach().bfloat16()
    found = field.float().log_likelihood(half, torch.zeros(B, T, dtype=torch.int64), LENGTHS)
    assert found.dtype == torch.float32
    assert_same(found, field.log_likelihood(half.float(), torch.zeros(B, T, dtype=torch.int64), LENGTHS))


def test_scores_a_thousand_apart_overflow_nowhere(field) -> None:
    scores = torch.tensor([[[0.0, 1000.0, -1000.0]] * T] * B, dtype=torch.float64)
    for result in (
        field.log_likelihood(scores, torch.ones(B, T, dtype=torch.int64), LENGTHS),
        field.marginals(scores, LENGTHS),
    ):
        assert result.isfinite().all()


@pytest.mark.parametrize(
    ("scores", "labels", "lengths", "message"),
    [
        ((B, T, L + 1), (B, T), LENGTHS, r"scores expected \(B, T, L=3\) with T of 1 or more, got \(3, 4, 4\)"),
        ((B, 0, L), (B, 0), LENGTHS, r"got \(3, 0, 3\)"),
        ((B, T, L), (B, T + 1), LENGTHS, r"labels expected \(B, T\) = \(3, 4\), got \(3, 5\)"),
        ((B, T, L), (B, T), LENGTHS[:2], r"lengths expected \(B=3,\), got \(2,\)"),
        ((B, T, L), (B, T), LENGTHS - 1, r"lengths expected values from 1 to T=4, got 0 to 3"),
        ((B, T, L), (B, T), LENGTHS + 1, r"got 2 to 5"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, lengths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConditionalRandomField(L).log_likelihood(torch.zeros(scores), torch.zeros(labels, dtype=torch.int64), lengths)


def test_a_label_that_is_none_is_not_taken_for_another() -> None:
    for label in (-1, L):
        with pytest.raises(RuntimeError, match="out of bounds"):
            ConditionalRandomField(L).log_likelihood(torch.zeros(1, 2, L), torch.tensor([[0, label]]), torch.tensor([2]))
