"""Settings of drawing. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from unrolled.config import Count, Depth, TrainingConfig, Width

_OF_A_PIXEL_RNN = 48
"""Units of a layer, which three channels can share: a pixel is a step, and there are many."""


class Config(TrainingConfig):
    """A recurrent network that makes images, and how it is trained."""

    evaluation_settings: ClassVar = ("samples",)

    data: tuple[str, ...] = ()
    """Images: folders of them (folders in it are their classes), IDX files of MNIST, or .npz files with images and labels."""
    validation: tuple[str, ...] = ()
    """Images for validation, in the form of DATA; by default validation_fraction."""
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    """Without --validation: fraction of the images, drawn at random, held out for validation."""
    size: int = Field(0, ge=0, le=256)
    """Height and width in pixels that images are resized to; 0 takes them as they are, all of one size."""
    colour: bool = False
    """Three channels instead of grey."""
    invert: bool = False
    """White becomes black: for dark strokes on light paper."""
    levels: int = Field(2, ge=2, le=256)
    """Levels of a pixel, in each channel. 2: black or white, white with a probability that is the pixel's brightness, drawn
    once by a fixed seed."""
    model: Literal["draw", "row_lstm", "diagonal_bilstm"] = "draw"
    """DRAW, or one of the two PixelRNNs."""
    hidden_size: Width = 256
    """Width of the recurrent state: of DRAW's encoder and decoder each, of each layer of a PixelRNN, by default 48 there."""
    num_layers: Depth = 1
    """PixelRNN: how many layers."""
    steps: int = Field(32, gt=0, le=1024)
    """DRAW: how many times it adds to the canvas."""
    latent_size: Width = 100
    """DRAW: width of the latent variable of each step."""
    attention: bool = True
    """DRAW: whether it reads and writes through windows; without, the whole image at every step."""
    read_size: int = Field(5, ge=1, le=256)
    """DRAW: filters on each side of the window that it reads through."""
    write_size: int = Field(5, ge=1, le=256)
    """DRAW: filters on each side of the window that it writes through."""
    conditional: bool = False
    """DRAW: whether it is told the image's class, so that it can be asked for one."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout rate: in DRAW of what goes from the recurrent states to the latent variables and to the canvas; in a
    PixelRNN of each layer's output."""
    resample: bool = False
    """Of 2 levels: draw black and white anew each time a training image is shown, instead of once. Those that are measured on
    stay as they are."""
    distort: float = Field(0.0, ge=0, le=0.5)
    """Training images are turned, stretched, sheared and moved at random, by about this share of their size; 0.05 is little."""
    samples: Count = 50
    """DRAW: in `unrolled evaluate`, how many samples the importance-weighted estimate takes for each image."""
    batch_size: Count = 64
    """Images per step, over all processes together."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW: linear warm-up, then cosine decay to zero."""

    @model_validator(mode="before")
    @classmethod
    def _width_by_model(cls, given: Any) -> Any:
        return {"hidden_size": _OF_A_PIXEL_RNN, **given} if given.get("model", "draw") != "draw" else given

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.conditional and self.model != "draw":
            raise ValueError(f"conditional: expected model draw, got {self.model}. Leave out one of the two.")
        if self.colour and self.model != "draw" and self.hidden_size % 3:
            raise ValueError(
                f"hidden_size: expected a multiple of 3, as three channels share the units, got {self.hidden_size}."
            )
        if self.resample and self.levels != 2:
            raise ValueError(f"resample: expected 2 levels, got {self.levels}. Leave out one of the two.")
        if self.distort and self.levels == 2 and not self.resample:
            raise ValueError("distort: of 2 levels it needs resample: what was grey is drawn black and white after it.")
        return self
