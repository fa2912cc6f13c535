"""What the hidden units are while the model reads a text."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unrolled.data import sources
from unrolled.data.token_streams import encode_documents
from unrolled.data.tokenizers import Tokenizer
from unrolled.errors import DataError
from unrolled.task import LONGEST_READ, Activations
from unrolled.tasks.language_model.model import LanguageModel


@torch.inference_mode()
def read(model: LanguageModel, tokenizer: Tokenizer, paths: list[str], encoding: str) -> Activations:
    """The activations after each of the first 40,000 tokens: h_t, and of an LSTM tanh(c_t), where it keeps things.

    Raises:
        DataError: as `encode`.
    """
    ids, unknown = encode(tokenizer, paths, encoding)
    device = next(model.parameters()).device
    tokens = torch.from_numpy(ids).to(device)[None]
    resets = tokens == tokenizer.end if model.reset_at_end else None
    table = model.encoder.weight if model.encoder else None
    layers = model.layers.states(tokens, resets=resets, embedding=table)
    units: dict[str, Tensor] = {
        f"l{number}": (state.h if state.c is None else state.c.tanh())[0].float().cpu() for number, state in enumerate(layers)
    }
    return Activations(pieces(ids, tokenizer), units, unknown)


def encode(tokenizer: Tokenizer, paths: list[str], encoding: str) -> tuple[np.ndarray, int]:
    """The first 40,000 tokens of a text, and how many of them the model never saw.

    Raises:
        DataError: no text, or more than a tenth of it in characters or words that the model never saw.
    """
    documents = sources.find(paths, binary=tokenizer.unit == "byte", encoding=encoding, byte_unit=True)
    ids = np.empty(0, np.int64)
    for block in encode_documents(documents, tokenizer):
        ids = np.concatenate([ids, block])[:LONGEST_READ]
        if len(ids) == LONGEST_READ:
            break
    unknown = int((ids == tokenizer.unknown).sum())
    if not len(ids) or unknown > len(ids) / 10:
        got = f"{unknown:,} of {len(ids):,} tokens that it never saw" if unknown else "nothing"
        raise DataError(f"{', '.join(paths)}: expected text of the kind that the run learned, got {got}. Give such text.")
    return ids, unknown


def pieces(ids: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The text of each token; of one that ends a document, nothing. A character of several bytes is its last byte's."""
    texts = iter(tokenizer.decode_stream(ids[ids != tokenizer.end].tolist()))
    return ["" if token == tokenizer.end else next(texts) for token in ids]
