"""Settings of the language model. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from unrolled.config import TrainingConfig


class Config(TrainingConfig):
    """A recurrent language model and how it is trained."""

    data: tuple[str, ...] = ()
    """Text to learn from: files, folders (searched whole), patterns such as "src/*.py", or - for standard input."""
    unit: Literal["char", "byte", "word", "bpe"] = "char"
    """What a token is: a character, a byte (any file), a word, or a piece of a word (byte-pair encoding)."""
    vocabulary_size: int = Field(8000, ge=260)
    """Tokens to keep with --unit word or bpe; the rarer are left to smaller pieces (bpe) or unknown (word)."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the text, taken from its end, that is not learned but measured on; 0 measures nothing."""
    documents: bool = False
    """Keep files apart: the state is cleared where one ends, so that nothing leaks from one file into the next."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """The recurrence: vanilla RNN, LSTM or GRU."""
    hidden_size: PositiveInt = 512
    """Width of the hidden state."""
    num_layers: PositiveInt = 1
    """Recurrent layers on top of each other."""
    input: Literal["embedding", "one-hot"] = "embedding"
    """How a token enters: through a learned embedding, or as a one-hot vector."""
    embedding_size: PositiveInt | None = None
    """Width of the embedding; as wide as the hidden state when left out."""
    tied: bool = False
    """Use the embedding's weights for the output layer too (needs embedding_size equal to hidden_size)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Probability of dropping a unit between layers and before the output, in training."""
    k1: PositiveInt = 64
    """Truncated BPTT: new steps per update."""
    k2: PositiveInt | None = None
    """Truncated BPTT: how many steps the gradient goes back; as many as k1 when left out."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.tied and self.input == "one-hot":
            raise ValueError("tied: expected an embedding to tie the output to, got input = 'one-hot'. Drop one of them.")
        if self.tied and self.embedding_size not in (None, self.hidden_size):
            raise ValueError(
                f"tied: expected embedding_size equal to hidden_size = {self.hidden_size}, got {self.embedding_size}. "
                "Leave embedding_size out."
            )
        return self
