"""Settings of glimpses. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from unrolled.config import Count, CountOrZero, TrainingConfig, Width


class Config(TrainingConfig):
    """A recurrent network that looks at parts of an image, and how it is trained."""

    evaluation_settings: ClassVar = ("glimpses", "samples")

    data: tuple[str, ...] = ()
    """Images with classes: folders of class folders, IDX files of MNIST, or .npz files with images and labels."""
    validation: tuple[str, ...] = ()
    """Images for validation, in the form of DATA; by default validation_fraction."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Without --validation: fraction of the images, drawn at random, held out for validation."""
    size: int = Field(0, ge=0, le=256)
    """Height and width in pixels that images are resized to; 0 takes them as they are, all of one size."""
    colour: bool = False
    """Three channels instead of grey."""
    invert: bool = False
    """Exchange light and dark, for images that are dark on light: what is beside an image counts as black."""
    canvas: int = Field(0, ge=0, le=256)
    """Height and width of a black canvas on which each image is placed at random, anew each time in training; 0: none."""
    curriculum: CountOrZero = 0
    """In the first so many steps places on the canvas spread from its middle to all of it; what looks learns to follow."""
    clutter: int = Field(0, ge=0, le=256)
    """How many pieces of other images are strewn over the canvas."""
    clutter_size: int = Field(8, ge=1, le=256)
    """Height and width of such a piece."""
    objects: int = Field(0, ge=0, le=64)
    """Labels are sequences: at most so many symbols are read from an image, one after another, until END. On a canvas there are
    one to so many images side by side, read from left to right; without, the symbols are a class's words, or characters where
    no class has a space. 0: an image is of one class."""
    distort: float = Field(0.0, ge=0, le=0.5)
    """Training images are turned, stretched, sheared and moved at random, by about this share of their size; 0.05 is little."""
    attention: Literal["hard", "soft", "random"] = "hard"
    """hard: glimpses of whole pixels, drawn around where the policy looks, which learns by REINFORCE. soft: between the pixels,
    so that gradients reach the place. random: anywhere, which shows what looking is worth."""
    glimpses: int = Field(6, ge=1, le=1024)
    """How often it looks at an image; with objects, for each symbol and for END."""
    glimpse_size: int = Field(8, ge=1, le=256)
    """Height and width of a glimpse at its finest scale, and how many numbers it has in each direction at every scale."""
    scales: int = Field(1, ge=1, le=8)
    """How many scales a glimpse has around the same place, each twice as wide as the one before, and as much coarser."""
    glimpse_features: Width = 128
    """Width of the two layers that read what is in a glimpse, and where it was."""
    cell: Literal["rnn", "lstm", "gru"] = "rnn"
    """Of the recurrence from glimpse to glimpse; rnn is the paper's, with ReLU."""
    hidden_size: Width = 256
    """Width of the recurrent state, and of what is read from a glimpse."""
    deviation: float = Field(0.1, gt=0, le=2)
    """hard: standard deviation of the policy in each direction, where the image is 2 wide and 2 high."""
    every_glimpse: bool = False
    """Learn to say the class after every glimpse, and be rewarded for each, rather than after the last one alone."""
    policy_weight: float = Field(0.01, ge=0, le=1000)
    """hard: weight of REINFORCE in the loss. Small, so that its noise does not fill the gradient's norm, which is clipped."""
    samples: CountOrZero = 1
    """hard and random, in evaluation: how many paths are drawn for each image; of several the probabilities are averaged. 0: no
    drawing, the mean of the policy."""
    batch_size: Count = 64
    """Images per step, over all processes together."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.clutter and not self.canvas:
            raise ValueError(f"clutter: {self.clutter} pieces need a canvas to lie on. Give a canvas, or leave out clutter.")
        if self.curriculum and not self.canvas:
            raise ValueError("curriculum: places spread on a canvas, and there is none. Give canvas, or leave out curriculum.")
        if self.canvas and self.clutter and self.clutter_size > self.canvas:
            raise ValueError(f"clutter_size: expected at most the canvas, {self.canvas}, got {self.clutter_size}.")
        if self.attention == "random" and not self.samples:
            raise ValueError("samples: random glimpses have no policy, so no mean of it; expected at least 1, got 0.")
        return self
