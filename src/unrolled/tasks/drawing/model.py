"""The network that the settings ask for.

Each takes images (B, C, height, width), levels from 0 to L - 1 as floats. DRAW answers with its bound (`draw.Bound`); a
PixelRNN has `log_likelihood(images)`, exact, (B,) in nats, and `sample(count, generator, given, known)`, levels.
"""

from __future__ import annotations

from torch import Tensor

from unrolled.data.image_parts import Facts
from unrolled.tasks.drawing.config import Config
from unrolled.tasks.drawing.draw import Draw
from unrolled.tasks.drawing.pixel_rnn import PixelRNN


def build(config: Config, facts: Facts, mean: Tensor | None = None) -> Draw | PixelRNN:
    """The model of `config.model`, with fresh weights.

    Args:
        config: the settings.
        facts: of the images.
        mean: of the training images, (C, height, width), 0..1, from which DRAW's canvas starts.
    """
    if config.model != "draw":
        shape = config.levels, config.hidden_size, config.num_layers
        return PixelRNN(config.model, *facts.shape, *shape, dropout=config.dropout)
    return Draw(config, facts.shape, len(facts.classes) if config.conditional else 0, mean)
