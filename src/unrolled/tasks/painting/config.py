"""Settings of painting. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from pydantic import Field

from unrolled.config import Count, CountOrZero, TrainingConfig, Width


class Config(TrainingConfig):
    """A painter, and how it is trained."""

    data: tuple[str, ...] = ()
    """Pictures to learn from: files and folders. What it learns beside them is generated."""
    generated: float = Field(0.5, ge=0, le=1)
    """Share of the training pictures that are generated: shapes and clouds of colour. 1 where there are no others."""
    hidden_size: Width = 256
    """Width of the painter's state."""
    strokes: int = Field(8, gt=0, le=64)
    """How many strokes a look lays in a window."""
    levels: int = Field(3, gt=0, le=5)
    """Levels, coarse to fine, that a training picture is painted at: of 24, 48, 96 ... pixels. In use there are as many as the
    budget of strokes is for."""
    looks: int = Field(2, gt=0, le=16)
    """How many looks at each level, in training."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Fraction of the pictures, drawn at random, held out for validation; as many generated ones are beside them."""
    batch_size: Count = 4
    """Pictures per step, over all processes together."""
    max_steps: Count = 10_000
    """Stop after this many optimizer steps; the learning rate reaches zero there."""
    evaluate_every: Count = 500
    """Steps between evaluations on the validation set; the best weights are kept."""
    save_every: Count = 500
    """Steps between checkpoints; a crash loses at most these."""
    sample_every: CountOrZero = 500
    """Steps between short samples on the screen; 0 shows none."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""
