"""Settings of translation. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from unrolled.config import Count, Depth, TrainingConfig, Width
from unrolled.data.sources import check_encoding


class Config(TrainingConfig):
    """An encoder and a decoder, and how they are trained."""

    evaluation_settings: ClassVar = ("beam", "length_power", "coverage", "longest", "encoding")

    data: tuple[str, ...] = ()
    """Pairs of sentences: two text files, SOURCE TARGET, that belong together line by line, or one table with a tab between
    source and target; plain or gzip."""
    validation: tuple[str, ...] = ()
    """Pairs for validation, in the form of DATA; of two files each is given with the flag: --validation val.en --validation
    val.de. By default validation_fraction."""
    validation_fraction: float = Field(0.05, ge=0, lt=1)
    """Without --validation: fraction of the pairs, drawn at random, held out for validation, but 1,000 at most."""
    encoding: str = "utf-8"
    """Encoding of the files, such as utf-16, latin-1 or cp1252; auto: by each file's byte order mark, else UTF-8."""
    unit: Literal["bpe", "word", "char"] = "bpe"
    """What a token is: a subword (byte-pair encoding), a word or sign, or a character."""
    vocabulary: Literal["joint", "separate"] = "joint"
    """One vocabulary for both sides, or one for each."""
    vocabulary_size: int = Field(6000, ge=260, le=10**7)
    """With --unit bpe: size of each vocabulary."""
    minimum_count: Count = 1
    """With --unit word or char: minimum frequency of a token in the vocabulary; rarer ones become unknown."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Recurrent cell: vanilla RNN, LSTM or GRU."""
    attention: Literal["none", "additive", "dot", "general", "between"] = "between"
    """None; additive, before each step (Bahdanau et al. 2015); dot or general, after it (Luong et al. 2015); or between the
    decoder's first layer and the second, where no step waits for another (fastest)."""
    heads: Width = 1
    """Number of attention heads, with --attention between."""
    input_feeding: bool = False
    """With --attention dot or general: the attentional output of each step is an input of the next (Luong et al. 2015)."""
    bidirectional: bool = True
    """Whether the encoder also reads from the end to the beginning."""
    reverse_source: bool = False
    """Read the source from its end to its beginning (Sutskever et al. 2014)."""
    encoder_layers: Depth = 1
    """Number of the encoder's recurrent layers."""
    num_layers: Depth = 2
    """Number of the decoder's recurrent layers; between needs at least two."""
    hidden_size: Width = 512
    """Width of the decoder's state, of the embeddings and of what attention reads."""
    encoder_size: Width | None = None
    """Width of the encoder's state in each direction; by default the hidden_size, shared by both directions."""
    residual: bool = False
    """Add what a layer above the first reads to what it says, in encoder and decoder."""
    tied: bool = True
    """Share weights between the target's embedding and the output layer."""
    shared: bool = True
    """With a joint vocabulary: share the embedding between source and target."""
    members: int = Field(1, gt=0, le=32)
    """Size of the ensemble: models trained together, which predict by the mean of their probabilities."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Dropout rate of the embeddings, between layers and before the output."""
    word_dropout: float = Field(0.0, ge=0, lt=1)
    """Word dropout: share of the tokens that encoder and decoder read in training that are hidden from them, as unknown ones
    (Sennrich and Zhang 2019, who found it the most useful with few pairs)."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing: share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    scheduled_sampling: float = Field(0.0, ge=0, le=1)
    """Scheduled sampling: share of the decoder's inputs that are its own predictions, growing from 0 to this at the end of
    training (Bengio et al. 2015)."""
    batch_size: Count = 64
    """Pairs per step on average, over all processes together. Batches are by length and hold as many tokens as each other: of
    short sentences more."""
    longest: int = Field(100, gt=0, le=10_000)
    """Maximum length of a sentence in tokens: in training, longer pairs are left out; in translation, longer sources are cut,
    and no more than this is written."""
    beam: int = Field(5, gt=0, le=1000)
    """Beam width in decoding; 1 is greedy."""
    length_power: NonNegativeFloat = 1.0
    """Length normalisation in decoding: log P is divided by length ** length_power (Wu et al. 2016)."""
    coverage: NonNegativeFloat = 0.0
    """Weight of the coverage penalty in decoding, which favours translations that attend to the whole source (Wu et al. 2016,
    eq. 14). With length_power 1 scores are means per token: begin with 0.005, theirs of 0.2 would outweigh everything else."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.attention == "between" and self.num_layers < 2:
            raise ValueError(
                f"attention: between expected num_layers of 2 or more, got {self.num_layers}. Add a layer, or take general."
            )
        if self.heads > 1 and (self.attention != "between" or self.hidden_size % self.heads):
            raise ValueError(
                f"heads: expected attention = between and a hidden_size that {self.heads} divides, "
                f"got {self.attention} and {self.hidden_size}."
            )
        if self.input_feeding and self.attention not in ("dot", "general"):
            raise ValueError(f"input_feeding: expected attention = dot or general, got {self.attention}. Drop one of them.")
        if self.coverage and self.attention == "none":
            raise ValueError("coverage: expected a model with attention, got attention = none. Leave it out.")
        if self.encoder_size is None and self.bidirectional and self.hidden_size % 2:
            raise ValueError(
                f"hidden_size: expected an even one for two directions, got {self.hidden_size}. Or give encoder_size."
            )
        return self
