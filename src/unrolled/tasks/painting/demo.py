"""Learns from one of scikit-learn's two photos and from pictures that it makes up, then paints the other photo."""

from __future__ import annotations

from pathlib import Path

from unrolled.task import Demo


def demo(folder: Path) -> Demo:
    """Reads scikit-learn's photos where they are; writes nothing.

    Raises:
        DataError: scikit-learn is not installed.
    """
    from unrolled.data.photos import sample_photos

    china, flower = sample_photos()
    return Demo(
        data=(str(china),),
        settings={"max_steps": 300, "batch_size": 2, "evaluate_every": 100, "sample_every": 100, "save_every": 100},
        unseen=(str(flower),),
    )
