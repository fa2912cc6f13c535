"""From scores to the next token: greedy, or drawn, with temperature, top-k and top-p."""

from __future__ import annotations

import torch
from torch import Tensor


def choose(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pick one token per row of logits (B, V): ids (B,).

    Args:
        temperature: divides the logits; 0 is greedy, the likeliest token always.
        top_k: draw among the k likeliest only (Fan, Lewis and Dauphin 2018).
        top_p: draw among the fewest likeliest whose probabilities reach p (Holtzman et al. 2020).
        generator: where randomness comes from.

    Raises:
        ValueError: a temperature below 0, top_k below 1, top_p not in (0, 1].

    >>> choose(torch.tensor([[0.0, 3.0, 1.0]]), temperature=0)
    tensor([1])
    """
    if temperature < 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ValueError(
            "expected temperature of at least 0, top_k of at least 1 and top_p in (0, 1], "
            f"got temperature={temperature}, top_k={top_k}, top_p={top_p}."
        )
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)  # doubles: tiny temperatures keep their order
    ranked, order = probabilities.sort(dim=-1, descending=True)
    if top_k is not None:
        ranked[..., top_k:] = 0
    if top_p is not None:
        before = ranked.cumsum(-1) - ranked  # what the likelier ones hold already
        ranked[before >= top_p] = 0  # the likeliest always stays
    drawn = torch.multinomial(ranked, 1, generator=generator)  # (B, 1)
    return order.gather(-1, drawn).squeeze(-1)
