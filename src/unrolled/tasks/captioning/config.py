"""Settings of captioning. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from unrolled.config import Count, Depth, TrainingConfig, Width
from unrolled.data.sources import check_encoding


class Config(TrainingConfig):
    """A captioner and how it is trained."""

    evaluation_settings: ClassVar = ("beam", "consensus", "longest", "encoding")

    data: tuple[str, ...] = ()
    """Captions of photos: a table of (image, caption), COCO's or Karpathy's JSON, JSON lines, Flickr's token file, or a folder
    with one of these or with a .txt beside each photo."""
    images: str | None = None
    """Folder or .tar of the photos; by default looked for beside the captions."""
    encoding: str = "auto"
    """Encoding of captions and lists, such as latin-1 or utf-16-le; auto: by each file's byte order mark, else UTF-8."""
    train_list: str | None = None
    """Training split: file of photo names, one per line."""
    validation_list: str | None = None
    """Validation split: file of photo names, one per line; without either list the captions' own, else a random tenth."""
    encoder: str = "efficientnet-lite0"
    """Pretrained CNN: efficientnet-lite0, or timm:NAME or hf:NAME, from the cache of those libraries or a folder. Or
    small: a few convolutions trained from fresh weights (with fine_tune_from = 1), for drawings."""
    photo_size: int | None = Field(None, gt=0, le=4096)
    """Input resolution of the CNN: side of the square in pixels; by default the one it was trained at."""
    fine_tune_from: Count | None = None
    """Epoch, from 1, at which fine-tuning of the CNN begins; by default it stays frozen and features are computed once."""
    encoder_rate: float = Field(0.2, gt=0, le=1)
    """Fine-tuning: learning rate of the CNN, as a fraction of learning_rate."""
    crops: float = Field(0.6, gt=0, le=1)
    """Fine-tuning: random crops of at least this fraction of the photo's area; 1 turns them off."""
    flips: bool = True
    """Augmentation by random horizontal flips in training."""
    unit: Literal["word", "bpe"] = "word"
    """What a token is: a lower-case word, or a subword (byte-pair encoding)."""
    minimum_count: Count = 5
    """With --unit word: minimum frequency of a word in the vocabulary; rarer ones become unknown."""
    vocabulary_size: int = Field(4000, ge=260, le=10**7)
    """With --unit bpe: vocabulary size."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """Recurrent cell: vanilla RNN, LSTM or GRU."""
    image: Literal["initial", "every-step", "attention", "attention-between"] = "attention-between"
    """Image conditioning: as the initial state; as an input at every step; by attention from the last state, into the first
    layer (attention); by attention from the first layer's output, into the second (attention-between)."""
    attention: Literal["additive", "dot"] = "dot"
    """Attention score: additive, or scaled dot product."""
    heads: Width = 1
    """Number of attention heads, with --attention dot."""
    hidden_size: Width = 512
    """Width of the hidden state, of the word embedding and of the image features."""
    num_layers: Depth = 2
    """Number of recurrent layers; attention-between needs at least two."""
    members: int = Field(1, gt=0, le=32)
    """Size of the ensemble: decoders trained together on one CNN, which predict by the mean of their probabilities."""
    tied: bool = True
    """Share weights between the embedding and the output layer."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate of the embedding, between layers and before the output."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing: share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016)."""
    doubly_stochastic: NonNegativeFloat = 0.0
    """Weight of the doubly stochastic attention penalty (Xu et al. 2015, eq. 14); 0 turns it off."""
    objective: Literal["likelihood", "self-critical"] = "likelihood"
    """Training objective: likelihood, or, in a second phase, the CIDEr of sampled captions (Rennie et al. 2017)."""
    start: str | None = None
    """Run folder to initialise weights and vocabulary from; required by the self-critical objective."""
    samples: int = Field(5, ge=2, le=1000)
    """Self-critical: captions sampled per photo; the baseline of each is the mean reward of the others."""
    batch_size: Count = 32
    """Photos per step, over all processes together, each with all its captions."""
    longest: int = Field(20, gt=0, le=1000)
    """Maximum length of a caption in tokens, in training and in decoding."""
    beam: int = Field(3, gt=0, le=1000)
    """Beam width in decoding; 1 is greedy."""
    consensus: int = Field(0, ge=0, le=1000)
    """Minimum Bayes risk decoding: samples per photo; 0 ranks by likelihood."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""
    weight_decay: NonNegativeFloat = 0.05
    """Decoupled weight decay of AdamW, of matrices only (no biases, no norms)."""
    clip_norm: float = Field(10.0, gt=0)
    """Gradient clipping: maximum norm of all gradients together; large because the loss is summed over a caption's steps."""

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        return check_encoding(encoding)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.image == "attention-between" and self.num_layers < 2:
            raise ValueError(
                f"image: attention-between expected num_layers of 2 or more, got {self.num_layers}. "
                "Add a layer, or take image = attention."
            )
        if self.heads > 1 and (self.attention != "dot" or self.hidden_size % self.heads):
            raise ValueError(
                f"heads: expected attention = dot and a hidden_size that {self.heads} divides, "
                f"got {self.attention} and {self.hidden_size}."
            )
        if self.doubly_stochastic and not self.image.startswith("attention"):
            raise ValueError(
                f"doubly_stochastic: expected image = attention, got {self.image}: there are no weights to even out."
            )
        if self.encoder == "small" and not (self.fine_tune_from or self.start):
            raise ValueError("encoder: small has fresh weights, which have to learn: expected fine_tune_from = 1, got none.")
        if self.objective == "self-critical" and not self.start:
            raise ValueError("objective: self-critical expected a trained run to begin from. Name it with start (--start RUN).")
        return self
