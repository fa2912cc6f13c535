"""One step at a time, natively."""

from .streamer import PRECISIONS, Streamer, isas, supported

__all__ = ["PRECISIONS", "Streamer", "isas", "supported"]
