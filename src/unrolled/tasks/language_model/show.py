"""A text coloured by how likely the model took each token to be, before it read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unrolled.inspection import coloured_text
from unrolled.inspection.label_styles import Style
from unrolled.tasks.language_model import activations

if TYPE_CHECKING:
    from unrolled.tasks.language_model.task import Run

SAMPLED = 2000
"""Tokens of its own, where no text is given."""
LIKELY = ("below 0.1%", "0.1% to 1%", "1% to 10%", "10% to 50%", "above 50%")
_BOUNDS = (0.001, 0.01, 0.1, 0.5)
_COLOURS = ("#B35806", "#F1A340", "#FEE0B6", "#D8DAEB", "#998EC3")
LOOKS = {
    name: Style(colour, "#FFFFFF" if number == 0 else "#000000", 0)
    for number, (name, colour) in enumerate(zip(LIKELY, _COLOURS, strict=True))
}


@torch.inference_mode()
def draw(folder: Path, run: Run, paths: list[str]) -> list[Path]:
    """Write text.html and text.png; of what no text is given for, a sample with the seed 0.

    Raises:
        DataError: as `activations.encode`.
    """
    if paths:
        ids, _ = activations.encode(run.tokenizer, paths, run.config.encoding)
    else:
        ids = run.tokenizer.encode("".join(run.sample(length=SAMPLED, seed=0)))
    tokens = torch.from_numpy(ids).to(next(run.model.parameters()).device)[None]
    logits, _ = run.model(tokens)
    likely = torch.softmax(logits[0, :-1].float(), -1).gather(1, tokens[0, 1:, None])[:, 0].cpu().numpy()
    labels = [None, *(LIKELY[level] for level in np.digitize(likely, _BOUNDS))]  # before the first token it was asked nothing
    pieces = activations.pieces(ids, run.tokenizer)
    return [
        coloured_text.draw(folder / f"text{ending}", pieces, labels, looks=LOOKS, title="How likely each token was taken to be")
        for ending in (".html", ".png")
    ]
