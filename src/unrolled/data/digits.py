"""scikit-learn's handwritten digits as files, for demos that read and draw images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from unrolled.errors import DataError

_UNSEEN = 300


def save_digits(folder: Path, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> tuple[str, str]:
    """Write folder/digits.npz and, of 300 that are held out, folder/unseen.npz; return their paths.

    Args:
        folder: made here.
        change: of the images, which are 8 x 8 pixels enlarged to 16 x 16: (1797, 16, 16), uint8, in, and uint8 out.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError("the demo's digits are scikit-learn's: pip install 'unrolled[drawing]'") from None
    rows, labels = load_digits(return_X_y=True)
    small = (np.asarray(rows).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    images = change(np.stack([np.asarray(Image.fromarray(one).resize((16, 16), Image.Resampling.BICUBIC)) for one in small]))
    order = np.random.default_rng(0).permutation(len(images))
    folder.mkdir(parents=True)
    paths = folder / "digits.npz", folder / "unseen.npz"
    for path, chosen in zip(paths, (order[:-_UNSEEN], order[-_UNSEEN:]), strict=True):
        np.savez_compressed(path, images=images[chosen], labels=np.asarray(labels)[chosen])
    return str(paths[0]), str(paths[1])
