"""Flips coins, and learns the parity of the heads."""

from pathlib import Path

import numpy as np

from unrolled.task import Demo


def demo(folder: Path) -> Demo:
    """A file of bits to learn from, and one to measure on."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for name, bits in (("bits.txt", 2000), ("unseen.txt", 500)):
        (folder / name).write_text("".join(map(str, chance.integers(2, size=bits))))
    settings = {"max_steps": 800, "learning_rate": 1e-2}
    return Demo(data=(str(folder / "bits.txt"),), unseen=(str(folder / "unseen.txt"),), settings=settings)
