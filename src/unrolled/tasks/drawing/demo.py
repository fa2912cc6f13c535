"""Learns scikit-learn's handwritten digits, and draws new ones, each from a blur to its strokes."""

from __future__ import annotations

from pathlib import Path

from unrolled.errors import DataError
from unrolled.task import Demo


def demo(folder: Path) -> Demo:
    """Writes folder/digits.npz and folder/unseen.npz: 1,797 digits of 8 x 8 pixels, enlarged."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError("the demo's digits are scikit-learn's: pip install 'unrolled[drawing]'") from None
    rows, labels = load_digits(return_X_y=True)
    images = enlarged(np.asarray(rows).reshape(-1, 8, 8) * (255 / 16))
    order = np.random.default_rng(0).permutation(len(images))
    folder.mkdir(parents=True)
    for name, chosen in (("digits", order[:-300]), ("unseen", order[-300:])):
        np.savez_compressed(folder / f"{name}.npz", images=images[chosen], labels=np.asarray(labels)[chosen])
    return Demo(
        data=(str(folder / "digits.npz"),),
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
        unseen=(str(folder / "unseen.npz"),),
    )


def enlarged(images):  # type: ignore[no-untyped-def]  # NumPy is not loaded before the demo runs
    """(N, 8, 8), 0..255 -> (N, 20, 20), uint8: twice as large, smooth, with more contrast, and a margin around."""
    import numpy as np
    from PIL import Image

    large = [Image.fromarray(one.astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC) for one in images]
    strokes = (4 * (np.stack([np.asarray(one) for one in large]).astype(np.float64) - 110) + 128).clip(0, 255)
    return np.pad(strokes.astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
