"""An LSTM learns to write Python, character by character, from the source code of Python's standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from unrolled.task import Demo


def demo(folder: Path) -> Demo:
    """The modules of the standard library, which every machine has; nothing is made in `folder`."""
    library = Path(sysconfig.get_path("stdlib"))
    return Demo(
        data=(str(library / "*.py"),),
        unseen=(str(library / "json"),),
        settings={
            "validation_fraction": 0.02,
            "hidden_size": 384,
            "embedding_size": 128,
            "batch_size": 32,
            "k1": 64,
            "learning_rate": 4e-3,
            "max_steps": 1500,
            "evaluate_every": 300,
            "sample_every": 200,
            "save_every": 300,
            "precision": "bf16",
        },
    )
