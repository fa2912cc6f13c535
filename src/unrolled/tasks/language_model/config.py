"""Settings of the language model. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from unrolled.config import Count, Depth, TrainingConfig, Width
from unrolled.data.sources import check_encoding


class Config(TrainingConfig):
    """A recurrent language model and how it is trained."""

    evaluation_settings: ClassVar = ("encoding",)

    data: tuple[str, ...] = ()
    """Text to learn from: files, folders (searched whole), patterns such as "src/*.py", or - for standard input."""
    encoding: str = "utf-8"
    """Encoding of the text files, such as utf-16, latin-1 or cp1252; auto: by each file's byte order mark, else UTF-8."""
    unit: Literal["char", "byte", "word", "bpe"] = "char"
    """What a token is: a character, a byte (any file), a word, or a subword (byte-pair encoding)."""
    vocabulary_size: int = Field(8000, ge=260, le=10**7)
    """With --unit word or bpe: vocabulary size; rarer words are split into smaller subwords (bpe) or become unknown (word)."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Fraction of the text, taken from its end, held out for validation; 0 for none."""
    documents: bool = False
    """Treat each file as a document of its own: the state is reset where one ends."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Recurrent cell: vanilla RNN, LSTM or GRU."""
    hidden_size: Width = 512
    """Width of the hidden state."""
    num_layers: Depth = 1
    """Number of recurrent layers."""
    input: Literal["embedding", "one-hot"] = "embedding"
    """Input representation of a token: a learned embedding, or a one-hot vector."""
    embedding_size: Width | None = None
    """Width of the embedding; by default that of the hidden state."""
    tied: bool = False
    """Share weights between the embedding and the output layer; needs embedding_size equal to hidden_size."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate between layers and before the output."""
    k1: Count = 64
    """Truncated BPTT: time steps between updates."""
    k2: Count | None = None
    """Truncated BPTT: time steps that the gradient flows back; by default k1."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.unit == "byte" and self.encoding != "utf-8":
            raise ValueError(f"encoding: bytes are learned as they are (unit = byte), got {self.encoding}. Leave it out.")
        if self.tied and self.input == "one-hot":
            raise ValueError("tied: expected an embedding to tie the output to, got input = 'one-hot'. Drop one of them.")
        if self.tied and self.embedding_size not in (None, self.hidden_size):
            raise ValueError(
                f"tied: expected embedding_size equal to hidden_size = {self.hidden_size}, got {self.embedding_size}. "
                "Leave embedding_size out."
            )
        return self
