"""The recurrent-network toolkit for PyTorch.

Names are loaded when first used, so that the command line starts without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unrolled.cell_layers import GRUCell, LSTMCell, RNNCell
    from unrolled.conversion import convert, restore
    from unrolled.estimators import SequenceClassifier, SequenceLabeller
    from unrolled.export import export_onnx
    from unrolled.layers import GRU, LSTM, RNN
    from unrolled.recurrence.plan import explain
    from unrolled.tasks import load, resume, train

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "SequenceClassifier",
    "SequenceLabeller",
    "__version__",
    "convert",
    "explain",
    "export_onnx",
    "load",
    "restore",
    "resume",
    "train",
]

_HOME = {
    "RNN": "unrolled.layers",
    "LSTM": "unrolled.layers",
    "GRU": "unrolled.layers",
    "RNNCell": "unrolled.cell_layers",
    "LSTMCell": "unrolled.cell_layers",
    "GRUCell": "unrolled.cell_layers",
    "explain": "unrolled.recurrence.plan",
    "convert": "unrolled.conversion",
    "restore": "unrolled.conversion",
    "export_onnx": "unrolled.export",
    "SequenceClassifier": "unrolled.estimators",
    "SequenceLabeller": "unrolled.estimators",
    "train": "unrolled.tasks",
    "resume": "unrolled.tasks",
    "load": "unrolled.tasks",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'unrolled' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
