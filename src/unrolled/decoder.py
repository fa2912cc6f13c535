"""A recurrent decoder that writes tokens from a memory: the locations of a photo, the states of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from unrolled.attention import AdditiveAttention, DotAttention, MultiplicativeAttention
from unrolled.cell_layers import ProjectedStep
from unrolled.dropout import LockedDropout
from unrolled.ensemble import DecoderOutput
from unrolled.kernels.linear import Linear, linear
from unrolled.layers import LAYERS

Place = Literal["before", "between", "after"]
Attention = AdditiveAttention | DotAttention | MultiplicativeAttention


class Memory(NamedTuple):
    """What a decoder needs of N inputs, computed once."""

    vectors: Tensor
    """a, (N, P, H): what attention reads."""
    keys: Tensor
    """The attention's part that depends on the vectors alone, (N, P, ...); empty without attention."""
    start: Tensor
    """The state before the first token, of every layer h, or h and c, side by side: (N, layers * parts * H)."""
    mask: Tensor | None = None
    """False where a vector is padding, (N, P); None where all of them count."""
    each_step: Tensor | None = None
    """A vector of each input that stands beside every token, (N, H)."""


class Decoder(nn.Module):
    """Tokens so far and a memory in, scores of the next token out.

    The first layer reads the tokens' embeddings e_t. Attention weighs the memory's vectors, and their mean z_t enters

    - `before` the first layer: weighed by its last state h_{t-1}; z_t stands beside e_t (Bahdanau, Cho and Bengio 2015; Xu et
      al. 2015). Steps have to wait for each other.
    - `between` the first layer and the second: the first layer's h_t weighs, and [h_t, z_t] is what the second layer reads, as
      the language LSTM of Anderson et al. 2018 (Bottom-Up and Top-Down, eq. 5-7) does, whose attention LSTM also gets the
      language LSTM's last state. Without that, no step waits for the attention of another: with the tokens known, layers and
      attention run over all steps at once.
    - `after` the last layer, weighed by its h_t, for the output alone (Luong, Pham and Manning 2015). With `input_feeding` the
      output's t~_t below stands beside the next token (section 3.3 there), and steps have to wait again.

    Tokens leave by the deep output of Xu et al. (eq. 7): logits = L_o dropout(t~_t), t~_t = tanh(L_h h_t + L_z z_t + L_e e_t),
    without L_z where there is no attention.

    Sentences of one input stand together: B = N * g rows, the first g for the first input. A subclass has `encode`, which makes
    a `Memory`; then it is a member of an `Ensemble`, which has the same methods.

    Args:
        vocabulary_size: V.
        size: H, the width of embeddings, states and memory.
        num_layers: recurrent layers; `between` needs two at least.
        cell: `rnn`, `lstm` or `gru`.
        attention: one of `unrolled.attention`, called with the widths of queries and memory; None for none.
        place: where attention stands.
        gated: whether z_t is scaled by a gate sigmoid(W_b h) of what weighs (Xu et al., section 4.2.1).
        input_feeding: with attention `after`.
        each_step: whether the memory has a vector that stands beside every token.
        start_size: width of what a subclass computes the initial state from, by the affine map `start`; None without the map.
        residual: whether the layers above the first add their input to their output.
        tied: whether the output layer and the embedding share their weights (Press and Wolf 2017).
        dropout: rate, of the embedding, between layers and before the output.

    >>> decoder = Decoder(20, size=8, num_layers=2, cell="gru", attention=DotAttention, place="between")
    >>> vectors = torch.randn(3, 5, 8)
    >>> memory = Memory(vectors, decoder.attention.keys(vectors), start=torch.zeros(3, 2 * 8))
    >>> output = decoder(memory, torch.zeros(6, 4, dtype=torch.int64))  # two sentences for each of three inputs
    >>> output.logits.shape, output.weights.shape
    (torch.Size([6, 4, 20]), torch.Size([6, 4, 5]))
    """

    def __init__(
        self,
        vocabulary_size: int,
        *,
        size: int,
        num_layers: int,
        cell: str,
        attention: Callable[[int, int], Attention] | None = None,
        place: Place = "between",
        gated: bool = False,
        input_feeding: bool = False,
        each_step: bool = False,
        start_size: int | None = None,
        residual: bool = False,
        tied: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.place, self.input_feeding, self.residual = place, input_feeding, residual
        self.state_parts = 2 if cell == "lstm" else 1  # h, or h and c
        self.embedding = nn.Embedding(vocabulary_size, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        self.embedding_scale = size**0.5 if tied else 1.0  # a tied table has the output layer's scale
        self.start = None if start_size is None else Linear(start_size, num_layers * self.state_parts * size)
        widths = [size] * num_layers
        widths[0] += size * (each_step + input_feeding + (attention is not None and place == "before"))
        if attention is not None and place == "between":
            widths[1] += size
        self.layers = nn.ModuleList([LAYERS[cell](width, size, batch_first=True) for width in widths])
        self.first_step = ProjectedStep(cell)
        self.attention = attention(size, size) if attention else None
        self.gate = Linear(size, size) if gated else None
        self.deep = Linear(size * (2 if attention is None else 3), size)
        self.output = Linear(size, vocabulary_size)
        if tied:
            self.output.weight = self.embedding.weight
        self.dropout = LockedDropout(dropout)

    @property
    def members(self) -> list[Decoder]:
        """Itself: as `Ensemble.members`."""
        return [self]

    def initial_state(self, memory: Memory, copies: int = 1) -> list[Tensor]:
        """The state before the first token, for `copies` sentences of each input: of each layer h, or h and c, all (B, H); with
        input feeding also t~, of zeros.
        """
        parts = memory.start.chunk(len(self.layers) * self.state_parts, dim=-1)
        state = [part.repeat_interleave(copies, 0) for part in parts]
        return [*state, torch.zeros_like(state[0])] if self.input_feeding else state

    def forward(
        self, memory: Memory, tokens: Tensor, state: list[Tensor] | None = None, counted: Tensor | None = None
    ) -> DecoderOutput:
        """The scores after each of tokens (B, T), going on from `state`.

        With `counted` (B, T), the output layer is skipped where it is false: logits are then (number counted, V).
        """
        copies = tokens.shape[0] // len(memory.vectors)
        state = self.initial_state(memory, copies) if state is None else state
        embedded = self.dropout(self.embedding(tokens) * self.embedding_scale)  # (B, T, H)
        if self.input_feeding:
            deep, state, weights = self._feed_back(memory, embedded, state)
        else:
            x = embedded
            if memory.each_step is not None:
                v = memory.each_step.repeat_interleave(copies, 0).unsqueeze(1).expand(-1, tokens.shape[1], -1)
                x = torch.cat([x, v.to(x.dtype)], dim=-1)
            deep, state, weights = self._run(memory, x, embedded, state)
        logits = self.output(deep if counted is None else deep[counted])
        return DecoderOutput(logits, state, weights)

    def _run(
        self, memory: Memory, x: Tensor, embedded: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Input of the first layer (B, T, ...) -> t~ under dropout (B, T, H), the state, the attention weights."""
        before = [state[i : i + self.state_parts] for i in range(0, len(self.layers) * self.state_parts, self.state_parts)]
        after: list[Tensor] = []
        z, weights = None, None
        for number, layer in enumerate(self.layers):
            below = x
            if number == 0 and self.attention is not None and self.place == "before":
                x, z, weights, last = self._attend_and_step(memory, x, before[0])
            else:
                if number == 1 and z is not None and self.place == "between":
                    x = torch.cat([x, z.to(x.dtype)], dim=-1)
                x, last = self._layer(layer, x, before[number])
            after += last
            if self.residual and number > 0:
                x = x + below
            if number == 0 and self.attention is not None and self.place == "between":
                z, weights = self._attend(memory, self.dropout(x))
            if number < len(self.layers) - 1:
                x = self.dropout(x)
        x = self.dropout(x)
        if self.attention is not None and self.place == "after":
            z, weights = self._attend(memory, x)
        readout = torch.cat([x, embedded] if z is None else [x, z.to(x.dtype), embedded], dim=-1)
        return self.dropout(torch.tanh(self.deep(readout))), after, weights

    def _layer(self, layer: nn.Module, x: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        first = [part.unsqueeze(0) for part in before]
        output, last = layer(x, tuple(first) if len(first) > 1 else first[0])
        return output, [part.squeeze(0) for part in (last if isinstance(last, tuple) else (last,))]

    def _attend(self, memory: Memory, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, T, H) -> the attended vectors (B, T, H), gated or not, and the weights (B, T, P)."""
        assert self.attention is not None
        steps, queries = h.shape[1], h.reshape(len(memory.vectors), -1, h.shape[-1])  # (N, g*T, H)
        z, weights = self.attention(queries, memory.vectors, memory.keys, memory.mask)
        z, weights = z.reshape(-1, steps, z.shape[-1]), weights.reshape(-1, steps, weights.shape[-1])
        return z if self.gate is None else torch.sigmoid(self.gate(h)) * z, weights

    def _attend_and_step(self, memory: Memory, x: Tensor, before: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """The first layer where attention waits for the state: the tokens' part in one product, the rest step by step."""
        (w_ih, w_hh, b_ih, b_hh), size = self.layers[0].all_weights[0], x.shape[-1]  # type: ignore[misc, index]  # of a ModuleList
        x_gates, w_iz = linear(x, w_ih[:, :size], b_ih), w_ih[:, size:]  # (B, T, G*H)
        state, hs, zs, attended = tuple(before), [], [], []
        for t in range(x.shape[1]):
            z, weights = self._attend(memory, state[0].unsqueeze(1))
            gates = x_gates[:, t] + linear(z.squeeze(1), w_iz)
            state = self.first_step(gates, state, w_hh, b_hh)
            hs.append(state[0])
            zs.append(z)
            attended.append(weights)
        return torch.stack(hs, dim=1), torch.cat(zs, dim=1), torch.cat(attended, dim=1), [*state]

    def _feed_back(self, memory: Memory, embedded: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Step by step: what comes out of one stands beside the token of the next."""
        *state, fed = state
        outs: list[Tensor] = []
        attended: list[Tensor] = []
        for t in range(embedded.shape[1]):
            e = embedded[:, t : t + 1]
            x = torch.cat([e, fed.unsqueeze(1).to(e.dtype)], dim=-1)
            out, state, weights = self._run(memory, x, e, state)
            fed = out.squeeze(1)
            outs.append(out)
            attended += [] if weights is None else [weights]
        return torch.cat(outs, dim=1), [*state, fed], torch.cat(attended, dim=1) if attended else None
