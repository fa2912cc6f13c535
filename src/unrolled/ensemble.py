"""Several decoders that are trained together and predict together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class DecoderOutput(NamedTuple):
    """What a decoder returns for tokens (B, T)."""

    logits: Tensor
    """(B, T, V), of the token after each; or (number counted, V)."""
    state: Any
    """After the last token: tensors with B rows, alone or in tuples, lists and dicts."""
    weights: Tensor | None
    """Of its attention at each step, (B, T, P); None without attention."""


class Ensemble(nn.Module):
    """Decoders that differ by their initial weights and their dropout, and predict by the mean of their probabilities.

    Each is trained by a loss of its own: loop over `members`. A member has

    - `encode(inputs)`: what it needs of N inputs, computed once;
    - `initial_state(encoded, copies)`: the state before the first token, for `copies` sentences of each input;
    - `member(encoded, tokens, state, counted)`: a `DecoderOutput`.

    The ensemble has them too, with lists of the members' for `encoded` and `state`.

    Args:
        members: the decoders.
        encoder: a network before `encode` that they share; applied by the caller.
    """

    def __init__(self, members: Iterable[nn.Module], encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.members = nn.ModuleList(members)

    def encode(self, inputs: Any) -> list[Any]:
        """What each member needs of N inputs."""
        return [member.encode(inputs) for member in self.members]  # type: ignore[operator]  # of a ModuleList

    def initial_state(self, encoded: list[Any], copies: int = 1) -> list[Any]:
        """Each member's state before the first token."""
        pairs = zip(self.members, encoded, strict=True)
        return [member.initial_state(one, copies) for member, one in pairs]  # type: ignore[operator]

    def forward(
        self, encoded: list[Any], tokens: Tensor, state: list[Any] | None = None, counted: Tensor | None = None
    ) -> DecoderOutput:
        """Logits are log probabilities, of the members' mean probability; attention weights are their mean."""
        states = [None] * len(self.members) if state is None else state
        parts = zip(self.members, encoded, states, strict=True)
        outputs = [member(of_inputs, tokens, before, counted) for member, of_inputs, before in parts]
        log_p = torch.stack([torch.log_softmax(one.logits.float(), dim=-1) for one in outputs])
        weights = [one.weights for one in outputs if one.weights is not None]
        return DecoderOutput(
            log_p.logsumexp(0) - math.log(len(outputs)),
            [one.state for one in outputs],
            torch.stack(weights).mean(0) if weights else None,
        )
