"""Settings of captioning. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from unrolled.config import TrainingConfig


class Config(TrainingConfig):
    """A captioner and how it is trained."""

    data: tuple[str, ...] = ()
    """Captions of photos: a CSV or TSV of (image, caption), COCO's JSON, Flickr's token file, or a folder with one of these."""
    images: str | None = None
    """Folder or .tar of the photos; looked for beside the captions when left out."""
    train_list: str | None = None
    """File that names the photos to learn from, one a line; all others are left out."""
    validation_list: str | None = None
    """File that names the photos to measure on, one a line; a tenth of all, by chance, when both lists are left out."""
    encoder: str = "efficientnet-lite0"
    """Pretrained CNN: efficientnet-lite0, or timm:NAME or hf:NAME, a model of those libraries in your cache or a folder."""
    photo_size: PositiveInt | None = None
    """Side of the square, in pixels, as which the CNN gets a photo; the one it was trained at when left out."""
    fine_tune_from: PositiveInt | None = None
    """Epoch, from 1, from which on the CNN's weights learn too; never when left out: features are then taken once."""
    encoder_rate: float = Field(0.2, gt=0, le=1)
    """The CNN's learning rate when it learns too, as a share of the others'."""
    crops: float = Field(0.6, gt=0, le=1)
    """Share of a photo's area that is shown at least where the CNN learns: another part of it each time; 1 shows all."""
    flips: bool = True
    """Show each photo as it is or mirrored, by chance, in training."""
    unit: Literal["word", "bpe"] = "word"
    """What a token is: a word in lower case, or a piece of a word (byte-pair encoding)."""
    minimum_count: PositiveInt = 5
    """With --unit word: words that fewer captions hold are unknown."""
    vocabulary_size: int = Field(4000, ge=260)
    """With --unit bpe: how many tokens there are."""
    cell: Literal["rnn", "lstm", "gru"] = "lstm"
    """The recurrence: vanilla RNN, LSTM or GRU."""
    image: Literal["initial", "every-step", "attention", "attention-between"] = "attention-between"
    """How the photo enters: initial state; extra term at every step; attention of the state before; of the layer below."""
    attention: Literal["additive", "dot"] = "dot"
    """How a place's weight comes about: by an additive score, or by a scaled dot product."""
    heads: PositiveInt = 1
    """Weightings side by side, with --attention dot."""
    hidden_size: PositiveInt = 512
    """Width of the hidden state, of the word embedding, and of what is kept of each place of the photo."""
    num_layers: PositiveInt = 2
    """Recurrent layers on top of each other; attention-between needs two or more."""
    members: PositiveInt = 1
    """Decoders on the same CNN that learn side by side and write together, by the mean of their probabilities."""
    tied: bool = True
    """Use the embedding's weights for the output layer too."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Probability of dropping a unit of the embedding, between layers and before the output, in training."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target's probability that is spread over all words (Szegedy et al. 2016)."""
    doubly_stochastic: NonNegativeFloat = 0.0
    """Weight of the penalty on places that a caption looks at more or less than once in all (Xu et al. 2015, eq. 14)."""
    objective: Literal["likelihood", "self-critical"] = "likelihood"
    """Learn the words people wrote, or, in a second phase, the CIDEr of the model's own captions (Rennie et al. 2017)."""
    start: str | None = None
    """A trained run whose weights and vocabulary to begin with; the self-critical phase needs one."""
    samples: int = Field(5, ge=2)
    """Captions drawn per photo in the self-critical phase; the mean of the others is each one's baseline."""
    batch_size: PositiveInt = 32
    """Photos per step, over all processes together, each with all its captions."""
    longest: PositiveInt = 20
    """Words of a caption that are learned, and written, at most."""
    beam: PositiveInt = 3
    """Sentences kept while the trained model searches for the likeliest, unless it is told otherwise; 1 is greedy."""
    consensus: NonNegativeInt = 0
    """Captions it draws for each photo, unless told otherwise, to take what agrees best with them; 0 takes the likeliest."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW, after warm-up; it then falls to zero along a cosine."""
    weight_decay: NonNegativeFloat = 0.05
    """AdamW's decoupled weight decay, for matrices only."""
    clip_norm: float = Field(10.0, gt=0)
    """Scale gradients down to this norm when they exceed it; the loss is a sum over a caption's steps, hence large."""

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
        if self.objective == "self-critical" and not self.start:
            raise ValueError("objective: self-critical expected a trained run to begin from. Name it with start (--start RUN).")
        return self
