"""From scores to text: one token, greedy or sampled; whole sentences, by beam search, by sampling or by consensus.

Functions that write sentences see a model as a step: (tokens (N,), state) -> (logits (N, V), next state), where a state is
tensors with N rows in axis 0, alone or in tuples, lists and dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unrolled.beam_search import Hypothesis, State, beam_search, rows_of, take_rows
from unrolled.errors import NotFiniteError

__all__ = [
    "Hypothesis",
    "beam_search",
    "choose",
    "consensus",
    "coverage_penalty",
    "decode_sentences",
    "sample",
    "step_function",
]

Agreement = Callable[[list[list[int]], list[list[int]]], Tensor]


def choose(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    uniform: Tensor | None = None,
) -> Tensor:
    """Pick one token per row of logits (B, V): ids (B,).

    Args:
        temperature: divides the logits; 0 is greedy, the likeliest token always.
        top_k: sample among the k likeliest only (Fan, Lewis and Dauphin 2018).
        top_p: nucleus sampling, among the fewest likeliest whose probabilities reach p (Holtzman et al. 2020).
        generator: where randomness comes from.
        uniform: the random numbers themselves, (B,) in [0, 1), instead of a generator.

    Raises:
        ValueError: a temperature below 0, top_k below 1, top_p not in (0, 1], or logits that are NaN.

    >>> choose(torch.tensor([[0.0, 3.0, 1.0]]), temperature=0)
    tensor([1])
    """
    if not temperature >= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            "expected temperature of at least 0, top_k of at least 1 and top_p in (0, 1], "
            f"got temperature={temperature}, top_k={top_k}, top_p={top_p}."
        )
    if logits.isnan().any():
        raise NotFiniteError("expected logits to choose from, got NaN: the model's weights or its input are not finite.")
    if temperature == 0:
        return logits.argmax(-1)
    if temperature != 1:
        logits = logits.double()
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # none overflows, however small it is
    probabilities = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    order = None
    if top_k is not None or top_p is not None:
        probabilities, order = probabilities.sort(dim=-1, descending=True)
        if top_k is not None:
            probabilities[..., top_k:] = 0
        if top_p is not None:
            before = probabilities.cumsum(-1) - probabilities  # of the likelier ones together
            probabilities[before >= top_p] = 0  # the likeliest always stays
    if uniform is None:
        uniform = torch.rand(logits.shape[:-1], generator=generator, device=logits.device)
    cumulative = probabilities.cumsum(-1)
    total = cumulative[..., -1:]
    target = uniform.unsqueeze(-1).to(total.dtype) * total
    target = target.minimum(total.nextafter(torch.zeros_like(total)))  # rounded up to the total it would find no token
    drawn = torch.searchsorted(cumulative, target, right=True)  # (B, 1)
    return (drawn if order is None else order.gather(-1, drawn)).squeeze(-1)


@torch.no_grad()
def sample(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    state: State,
    uniform: Tensor,
    *,
    start: int,
    end: int,
    pad: int,
    forbidden: Sequence[int] = (),
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Sample sentences token by token: ids (B, n, T) with PAD behind END, and log P of each sentence at temperature 1, (B, n).

    The rows that `step` gets stand together by input, as many for each.

    Args:
        step: (tokens (N,), state) -> (logits (N, V), next state).
        state: before START, B rows.
        uniform: (max_length, B, n), random numbers in [0, 1): n sentences for each of B inputs.
        start, end, pad: START is the first token that `step` sees; END ends a sentence; neither START nor PAD is predicted.
        forbidden: further ids that are never predicted.
        temperature: divides the logits.

    >>> bigrams = torch.tensor([[0, 0, 0.6, 0.4], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0.5, 0.5, 0]])  # 0 is START, 1 is END
    >>> uniform = torch.tensor([[[0.1, 0.9]], [[0.5, 0.8]], [[0.5, 0.5]]])
    >>> tokens, log_p = sample(lambda tokens, state: (bigrams[tokens].log(), state), torch.zeros(1, 0), uniform,
    ...     start=0, end=1, pad=0)
    >>> tokens, log_p.exp()
    (tensor([[[2, 1, 0],
             [3, 2, 1]]]), tensor([[0.6000, 0.2000]]))
    """
    steps, batch, number = uniform.shape
    device = rows_of(state)[1]
    never = torch.tensor([start, pad, *forbidden], device=device)
    rows = torch.arange(batch * number, device=device)  # the sentences that are being written
    tokens, log_p = torch.full((len(rows), steps), pad, device=device), torch.zeros(len(rows), device=device)
    logits, state = step(torch.full((batch,), start, device=device), state)
    of_input = rows // number
    logits, state = logits[of_input], take_rows(state, of_input)
    done, length = torch.zeros_like(rows, dtype=torch.bool), 0
    for t, numbers in enumerate(uniform.flatten(1).to(device)):
        scores = logits.float().index_fill(-1, never, -torch.inf)
        token = choose(scores, temperature=temperature, uniform=numbers[rows]).masked_fill(done, pad)
        token_log_p = scores.gather(-1, token.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)
        log_p[rows] += token_log_p.masked_fill(done, 0.0)
        tokens[rows, t], length = token, t + 1
        done = done | (token == end)
        width = int((~done).view(batch, -1).sum(1).max())
        if not width or length == steps:
            break
        if width * batch < len(rows):  # go on with the unfinished, and where an input has fewer, with finished ones
            first = done.view(batch, -1).byte().argsort(dim=1, stable=True)[:, :width]
            kept = (first + len(rows) // batch * torch.arange(batch, device=device).unsqueeze(1)).flatten()
            rows, token, done, state = rows[kept], token[kept], done[kept], take_rows(state, kept)
        logits, state = step(token, state)
    return tokens[:, :length].view(batch, number, length), log_p.view(batch, number)


def consensus(
    hypotheses: Sequence[Hypothesis], samples: list[list[int]], agreement: Agreement, likelihood_weight: float
) -> list[Hypothesis]:
    """Minimum Bayes risk decoding (Kumar and Byrne 2004): the sentence that agrees best with samples of the model comes first.

    The likeliest sentence is often a bland one; this is the one closest to all that the model might say. The new score is
    agreement + likelihood_weight * score.

    Args:
        hypotheses: to choose among, such as those of a beam search.
        samples: token ids of sentences drawn from the model.
        agreement: (hypotheses, samples) -> how well each hypothesis agrees with the samples, such as `CiderReward.agreement`.
        likelihood_weight: how much a hypothesis's own score counts.
    """
    scores = agreement([one.tokens for one in hypotheses], samples).tolist()
    ranked = [one._replace(score=s + likelihood_weight * one.score) for one, s in zip(hypotheses, scores, strict=True)]
    return sorted(ranked, key=lambda one: -one.score)


def decode_sentences(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    state: State,
    *,
    start: int,
    end: int,
    pad: int,
    max_length: int,
    forbidden: Sequence[int] = (),
    beam: int = 3,
    number: int = 1,
    length_power: float = 0.0,
    samples: int = 0,
    agreement: Agreement | None = None,
    likelihood_weight: float = 0.0,
    temperature: float | None = None,
    seed: int = 0,
    penalty: Callable[[State], Tensor] | None = None,
) -> list[list[Hypothesis]]:
    """`number` sentences for each of B inputs, best first: by beam search, by consensus, or sampled.

    What an input gets does not depend on the others of its batch: each is given the same random numbers.

    Args:
        step, state, start, end, pad, max_length, forbidden, length_power, penalty: as in `beam_search` and `sample`.
        beam: width of the search, at least `number`.
        number: how many sentences to return.
        samples: how many to sample for `consensus` among what the search found; 0 ranks by likelihood.
        agreement, likelihood_weight: of `consensus`.
        temperature: sample the sentences at this temperature instead of searching.
        seed: of all that is drawn.

    Raises:
        ValueError: a number below what it can be, or `samples` without `agreement`.
    """
    if number < 1 or max_length < 1 or samples < 0 or (temperature is not None and not temperature > 0):
        raise ValueError(
            "expected number and max_length of at least 1, samples of at least 0 and a temperature above 0, "
            f"got number={number}, max_length={max_length}, samples={samples}, temperature={temperature}."
        )
    if samples and agreement is None:
        raise ValueError(f"consensus among {samples} samples expected a measure of agreement, got none.")

    def drawn(count: int, temperature: float) -> list[list[Hypothesis]]:
        uniform = torch.rand(max_length, 1, count, generator=torch.Generator().manual_seed(seed))
        uniform = uniform.expand(-1, rows_of(state)[0], -1)
        ids = {"start": start, "end": end, "pad": pad, "forbidden": forbidden}
        tokens, log_p = sample(step, state, uniform, **ids, temperature=temperature)
        scores = log_p / (tokens != pad).sum(-1) ** length_power
        return [
            [
                Hypothesis([i for i in row if i not in (pad, end)], score, end in row)
                for row, score in zip(*several, strict=True)
            ]
            for several in zip(tokens.tolist(), scores.tolist(), strict=True)
        ]

    if temperature is not None:
        return [sorted(several, key=lambda one: -one.score) for several in drawn(number, temperature)]
    width = max(beam, number)
    found = beam_search(
        step,
        state,
        start=start,
        end=end,
        max_length=max_length,
        beam=width,
        best=width,
        length_power=length_power,
        forbidden=[pad, *forbidden],
        penalty=penalty,
    )
    if agreement and samples:
        others = [[one.tokens for one in several] for several in drawn(samples, 1.0)]
        found = [consensus(several, those, agreement, likelihood_weight) for several, those in zip(found, others, strict=True)]
    return [several[:number] for several in found]


def step_function(
    model: nn.Module, encoded: Any, attended: Tensor | None = None
) -> tuple[Callable[[Tensor, Any], tuple[Tensor, Any]], Any]:
    """The step of a decoder over B encoded inputs, and the state that it begins with.

    The sentences of an input share its encoding: rows that belong to one input stand together, as many for each. Inputs that
    have no row left are dropped.

    Args:
        model: with `initial_state(encoded)` and `model(encoded, tokens, state)`, as `ensemble.Ensemble` describes.
        encoded: tensors with B rows, alone or in tuples, lists and dicts.
        attended: zeros (B, P), to which the attention weights of every step are added, for `coverage_penalty`.
    """
    batch, device = rows_of(encoded)
    inputs, of_inputs = torch.arange(batch, device=device), encoded

    def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        nonlocal inputs, of_inputs
        rows, decoder_state, attended = state
        remaining = rows.unique_consecutive()
        if not torch.equal(remaining, inputs):  # only then is anything copied
            inputs, of_inputs = remaining, take_rows(encoded, remaining)
        output = model(of_inputs, tokens.unsqueeze(1), decoder_state)
        if attended is not None:
            attended = attended + output.weights[:, 0]
        return output.logits[:, 0], (rows, output.state, attended)

    return step, (inputs, model.initial_state(encoded), attended)  # type: ignore[operator]  # which a module need not have


def coverage_penalty(attended: Tensor, mask: Tensor, weight: float) -> Tensor:
    """weight * sum over the places of the source of log min(1, attention to the place over all steps); (N,), at most 0.

    Wu et al. 2016 (Google's Neural Machine Translation System), eq. 14.

    Args:
        attended: the sum of the attention weights of all steps, (N, P).
        mask: (N, P), false on padding.
        weight: beta.

    >>> coverage_penalty(torch.tensor([[1.5, 0.5, 0.0]]), torch.tensor([[True, True, False]]), weight=1.0)
    tensor([-0.6931])
    """
    return weight * attended.clamp(1e-6, 1.0).log().masked_fill(~mask, 0.0).sum(-1)
