"""One step at a time, natively.

interface.py        what the compiled engine is told, and what it can compute here
packed_weights.py   the copy of the weights
generation.py       tokens chosen one after another
streamer.py         the state, and steps from one to the next
"""

from .interface import PRECISIONS, isas, supported
from .streamer import Streamer

__all__ = ["PRECISIONS", "Streamer", "isas", "supported"]
