"""A sentence in, scores of the next word of its translation out: an encoder and a decoder with weights of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from unrolled.attention import AdditiveAttention, DotAttention, MultiplicativeAttention
from unrolled.data.sentences import PAD
from unrolled.decoder import Attention, Decoder, Memory, Place
from unrolled.ensemble import Ensemble
from unrolled.kernels.linear import Linear
from unrolled.layers import LAYERS
from unrolled.tasks.translation.config import Config

ATTENTION: dict[str, tuple[Callable[[int, int], Attention] | None, Place]] = {
    "none": (None, "after"),
    "additive": (AdditiveAttention, "before"),
    "dot": (partial(MultiplicativeAttention, learned=False), "after"),
    "general": (MultiplicativeAttention, "after"),
    "between": (DotAttention, "between"),
}


class Translator(Decoder):
    """Many-to-one, then one-to-many: recurrent layers read the source x_1 .. x_S, END last; others write the target.

    The last state of every layer and direction of the encoder starts the decoder: as it is where there are as many layers of
    the same width and one direction, else by an affine map, s_0 = tanh(W h + b). The encoder's outputs, of both directions side
    by side, are what the decoder attends to; padding never. `unrolled.decoder.Decoder` says where attention stands.

    >>> model = Translator(Config(hidden_size=8), source_size=20, target_size=20)
    >>> memory = model.encode(torch.tensor([[5, 6, 7, 2], [9, 2, 0, 0]]))
    >>> output = model(memory, torch.ones(2, 5, dtype=torch.int64))
    >>> output.logits.shape, output.weights.shape
    (torch.Size([2, 5, 20]), torch.Size([2, 5, 4]))
    """

    def __init__(self, config: Config, source_size: int, target_size: int) -> None:
        size, directions = config.hidden_size, 2 if config.bidirectional else 1
        width = config.encoder_size or size // directions
        parts = 2 if config.cell == "lstm" else 1
        as_it_is = (config.encoder_layers, directions, width) == (config.num_layers, 1, size)
        attention, place = ATTENTION[config.attention]
        super().__init__(
            target_size,
            size=size,
            num_layers=config.num_layers,
            cell=config.cell,
            attention=partial(DotAttention, heads=config.heads) if place == "between" else attention,
            place=place,
            input_feeding=config.input_feeding,
            start_size=None if as_it_is else config.encoder_layers * parts * directions * width,
            residual=config.residual,
            tied=config.tied,
            dropout=config.dropout,
        )
        self.reverse_source = config.reverse_source
        if config.vocabulary == "joint" and config.shared:
            self.source_embedding = self.embedding
        else:
            self.source_embedding = nn.Embedding(source_size, size)
            nn.init.normal_(self.source_embedding.weight, std=size**-0.5)
        read = directions * width
        options = {"batch_first": True, "bidirectional": config.bidirectional}
        self.encoder_layers = nn.ModuleList(
            [LAYERS[config.cell](read if i else size, width, **options) for i in range(config.encoder_layers)]
        )
        self.project = Linear(read, size) if attention is not None and read != size else nn.Identity()

    def encode(self, source: Tensor) -> Memory:
        """source (N, S), PAD behind each sentence -> what the decoder needs."""
        mask = source != PAD
        lengths = mask.sum(1)
        backwards = None
        if self.reverse_source:  # END stays where it is
            positions = torch.arange(source.shape[1], device=source.device)
            from_end = lengths.unsqueeze(1) - 2 - positions
            backwards = torch.where(from_end >= 0, from_end, positions)
            source = source.gather(1, backwards)
        x = self.dropout(self.source_embedding(source) * self.embedding_scale)  # (N, S, H)
        last: list[Tensor] = []
        for number, layer in enumerate(self.encoder_layers):
            below = x
            x, state = layer(x, lengths=lengths)
            for part in state if isinstance(state, tuple) else (state,):
                last.append(part.transpose(0, 1).flatten(1))  # (N, D*H)
            if self.residual and number > 0:
                x = x + below
            x = self.dropout(x)
        start = torch.cat(last, dim=-1)
        if self.start is not None:
            start = torch.tanh(self.start(start))
        if backwards is not None:  # places are those of the source as it is written
            x = x.gather(1, backwards.unsqueeze(-1).expand_as(x))
        vectors = self.project(x)
        keys = self.attention.keys(vectors) if self.attention else vectors[..., :0]
        return Memory(vectors, keys, start.to(self.embedding.weight.dtype), mask)


def build(config: Config, source_size: int, target_size: int) -> Translator | Ensemble:
    """The model of these settings, with fresh weights."""
    if config.members == 1:
        return Translator(config, source_size, target_size)
    return Ensemble([Translator(config, source_size, target_size) for _ in range(config.members)])
