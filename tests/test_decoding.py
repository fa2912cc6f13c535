"""Choosing the next token."""

import pytest
import torch

from unrolled.decoding import choose

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 5.0, 0.0]])


def drawn(**how) -> set[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    return {tuple(choose(LOGITS, generator=generator, **how).tolist()) for _ in range(300)}


def test_greedy_takes_the_likeliest() -> None:
    assert drawn(temperature=0) == {(0, 2)}
    assert drawn(temperature=1e-6) == {(0, 2)}


def test_top_k_draws_among_k() -> None:
    assert drawn(top_k=1) == {(0, 2)}
    assert {row[0] for row in drawn(top_k=2, temperature=5.0)} == {0, 1}
    assert {row[0] for row in drawn(top_k=99, temperature=5.0)} == {0, 1, 2, 3}


def test_top_p_draws_among_the_fewest_that_reach_p() -> None:
    probabilities = torch.softmax(LOGITS[0], -1)  # 0.64 0.24 0.09 0.03
    assert {row[0] for row in drawn(top_p=0.5)} == {0}
    assert {row[0] for row in drawn(top_p=float(probabilities[0]) + 0.01)} == {0, 1}
    assert {row[0] for row in drawn(top_p=1.0, temperature=5.0)} == {0, 1, 2, 3}


def test_frequencies_are_the_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    many = choose(LOGITS[:1].expand(20000, 4), temperature=2.0, generator=generator)
    seen = torch.bincount(many, minlength=4) / 20000
    torch.testing.assert_close(seen, torch.softmax(LOGITS[0] / 2, -1), atol=0.015, rtol=0)


def test_a_seed_draws_the_same_again() -> None:
    first, second = (choose(LOGITS, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}], ids=str)
def test_impossible_settings_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="expected temperature of at least 0"):
        choose(LOGITS, **how)
