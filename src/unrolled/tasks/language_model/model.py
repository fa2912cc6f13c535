"""Tokens in, scores of the next token out: embedding (or one-hot), recurrent layers, linear."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from unrolled.data.tokenizers import Tokenizer
from unrolled.kernels.linear import Linear
from unrolled.layers import LAYERS
from unrolled.tasks.language_model.config import Config


class LanguageModel(nn.Module):
    """A recurrent language model.

    A token enters as a row of the embedding, or as a one-hot vector, which is the same with the identity for a table; the
    layers take ids for both, so neither vector is ever made.

    >>> import torch
    >>> config = Config(hidden_size=8, num_layers=2)
    >>> logits, state = LanguageModel(config, vocabulary_size=20)(torch.zeros(3, 5, dtype=torch.int64))
    >>> logits.shape
    torch.Size([3, 5, 20])
    """

    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.reset_at_end = config.documents
        self.encoder = nn.Embedding(vocabulary_size, width) if config.input == "embedding" else None
        self.layers = LAYERS[config.cell](
            width if config.input == "embedding" else vocabulary_size,
            config.hidden_size,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.decoder = Linear(config.hidden_size, vocabulary_size)
        if config.tied and self.encoder:
            nn.init.normal_(self.encoder.weight, std=config.hidden_size**-0.5)  # the scale that suits an output layer
            self.decoder.weight = self.encoder.weight

    def tables(self) -> dict[str, Any]:
        """What a `Streamer` of the layers needs to go from token to scores."""
        front = {"embedding": self.encoder.weight} if self.encoder else {"one_hot": True}
        return {**front, "decoder_weight": self.decoder.weight, "decoder_bias": self.decoder.bias}

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """tokens (B, T) and the state before them -> logits (B, T, V) of the token after each, and the state after all."""
        resets = tokens == Tokenizer.end if self.reset_at_end else None  # END opens a document as much as it closes one
        table = self.encoder.weight if self.encoder else None
        hidden, state = self.layers(tokens, state, resets=resets, embedding=table)  # (B, T, H)
        return self.decoder(self.dropout(hidden)), state
