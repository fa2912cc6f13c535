"""Reading text by the names that it had here first; they are in `sources` and `token_streams`."""

from unrolled.data.sources import Source, find
from unrolled.data.token_streams import TokenStreams, open_tokens, write_tokens

__all__ = ["Source", "TokenStreams", "find", "open_tokens", "write_tokens"]
