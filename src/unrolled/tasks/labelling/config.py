"""Settings of labelling. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from unrolled.config import Count, CountOrZero, Depth, TrainingConfig, Width
from unrolled.data.sources import check_encoding


class Config(TrainingConfig):
    """A recurrent network that labels sequences, and how it is trained."""

    evaluation_settings: ClassVar = ("encoding", "word_column", "label_column", "sequence_column", "unlabelled")

    data: tuple[str, ...] = ()
    """Labelled sequences: files of CoNLL columns or CoNLL-U (words), of JSON lines (characters), NumPy arrays, CSV or Parquet
    tables (numbers), recordings, videos, tar archives or folders of frames; folders of such files. Of recordings and videos the
    folder's name is the label, unless DATA is a CSV of them: file, label, or file, start, end, label (seconds)."""
    validation: tuple[str, ...] = ()
    """Files for validation, in the form of DATA; by default validation_fraction."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Without --validation: fraction of the sequences, drawn at random, held out for validation."""
    kind: Literal["auto", "words", "characters", "numbers", "audio", "video"] = "auto"
    """What a step is; auto: by the endings of the files."""
    per: Literal["step", "sequence"] = "step"
    """A label for every step, or one for the whole sequence."""
    multi: bool = False
    """Several labels at once, or none, in the file with | between them: each is predicted for itself."""
    encoding: str = "utf-8"
    """Encoding of text files, such as utf-16, latin-1 or cp1252; auto: by each file's byte order mark, else UTF-8."""
    word_column: str | None = None
    """Column of the words: a number from 1, or in CoNLL-U a name.  By default 1, in CoNLL-U FORM."""
    label_column: str | None = None
    """Column of the labels: a number from 1, or a name where columns have names. By default the last one, in CoNLL-U UPOS, in
    tables and arrays label."""
    sequence_column: str = "sequence"
    """In tables: the column that says to which sequence a row belongs. Without it, a file is one sequence."""
    unlabelled: str = ""
    """Per step: name that stands for no label; such steps count in no loss and no metric. Steps with an empty name never do."""
    sampling_rate: int = Field(16000, ge=1000, le=192_000)
    """Audio: samples per second, to which recordings are resampled."""
    mel_bands: int = Field(40, ge=4, le=256)
    """Audio: number of log-mel features of a step."""
    hop: float = Field(0.01, ge=0.001, le=1)
    """Audio: seconds from one step to the next."""
    frames_per_second: float = Field(5, gt=0, le=240)
    """Video: steps per second, at which it is sampled; folders and archives of frames are taken to have as many."""
    frame_size: int = Field(64, ge=8, le=512)
    """Video: side in pixels of the square that frames are resized to, without encoder."""
    encoder: str = "none"
    """Video: pretrained CNN whose features are read, kept on disk: efficientnet-lite0, timm:NAME or hf:NAME. None: the frames
    themselves, through the front's small CNN, which learns (LRCN, Donahue et al. 2015)."""
    minimum_count: Count = 1
    """Minimum frequency of a word or character in the vocabulary; rarer ones become unknown."""
    embedding_size: Width = 100
    """Width of the embeddings of words or characters."""
    character_size: CountOrZero = 50
    """Words: width of the character-level recurrence in each direction, which reads their letters; 0 leaves it out."""
    front: Literal["auto", "none", "linear", "conv", "cnn"] = "auto"
    """Numbers, audio, video: what stands before the recurrence: nothing, a linear map, a 1-D convolution over the steps, or a
    CNN over each image. Auto: conv for audio, cnn for images, linear for features of video, else none."""
    front_size: Width = 64
    """Width of the front's output."""
    cell: Literal["none", "rnn", "lstm", "gru"] = "lstm"
    """Recurrent cell: vanilla RNN, LSTM or GRU; none: no recurrence, a baseline that sees each step alone."""
    bidirectional: bool = True
    """Whether it also reads from the end to the beginning. Live use needs --no-bidirectional."""
    num_layers: Depth = 1
    """Number of recurrent layers."""
    hidden_size: Width = 128
    """Width of the recurrent state in each direction."""
    crf: bool = False
    """Per step: conditional random field as the output layer, which learns what label follows what (Lafferty et al. 2001)."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate before, between and after the recurrent layers."""
    word_dropout: float = Field(0.2, ge=0, lt=1)
    """Words: share of the words that are read as unknown in training, so that the network learns to go by their letters."""
    batch_size: Count = 32
    """Sequences per step on average, over all processes together. Batches are by length and hold as many steps as each other:
    of short sequences more."""
    longest: Count = 1000
    """Per step: in training, longer sequences are cut into parts of at most this many steps."""
    max_steps: Count = 2000
    """Stop after this many optimizer steps; the learning rate reaches zero there."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.crf and (self.per == "sequence" or self.multi):
            got = "--per sequence" if self.per == "sequence" else "--multi"
            raise ValueError(f"crf: expected one label for every step, got {got}. Drop one of them.")
        return self
