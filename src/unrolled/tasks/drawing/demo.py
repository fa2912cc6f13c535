"""Learns scikit-learn's handwritten digits, and draws new ones, each from a blur to its strokes."""

from __future__ import annotations

from pathlib import Path

from unrolled.task import Demo


def demo(folder: Path) -> Demo:
    """Writes folder/digits.npz and folder/unseen.npz, as `save_digits` has them, of 20 x 20 pixels."""
    from unrolled.data.digits import save_digits

    digits, unseen = save_digits(folder, contrasted)
    return Demo(
        data=(digits,),
        settings={
            "steps": 12,
            "hidden_size": 128,
            "latent_size": 16,
            "read_size": 4,
            "write_size": 4,
            "conditional": True,
            "resample": True,
            "distort": 0.02,
            "batch_size": 64,
            "learning_rate": 3e-3,
            "max_steps": 2000,
            "evaluate_every": 400,
            "sample_every": 400,
            "save_every": 400,
        },
        unseen=(unseen,),
    )


def contrasted(images):  # type: ignore[no-untyped-def]  # NumPy is not loaded before the demo runs
    """(N, 16, 16) -> (N, 20, 20), uint8: with more contrast, and a margin around."""
    import numpy as np

    strokes = (4 * (images.astype(np.float64) - 110) + 128).clip(0, 255)
    return np.pad(strokes.astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
