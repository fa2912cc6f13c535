"""Writing: feed the model its own last token, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from unrolled.data.tokenizers import Tokenizer
from unrolled.decoding import choose


def generate(
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    prompt: str = "",
    length: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """Text after the prompt, in pieces as they come: `length` tokens, or fewer where the model ends the document itself.

    Without a prompt the model starts as after the end of a document, or, if it knows none, after a newline.

    Raises:
        DataError: the prompt has something that the model never saw.
        ValueError: an impossible temperature, top_k or top_p.
    """
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    ids = tokenizer.check_prompt(prompt) if prompt else tokenizer.encode("\n")
    first = [tokenizer.end] if tokenizer.documents else []
    context = [*first, *ids.tolist()] if prompt else first or [int(i) for i in ids if i != tokenizer.unknown] or [2]
    return tokenizer.pieces(_tokens(model, tokenizer, context, length, temperature, top_k, top_p, generator))


@torch.inference_mode()
def _tokens(
    model: nn.Module,
    tokenizer: Tokenizer,
    context: list[int],
    length: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Iterator[int]:
    model.eval()
    logits, state = model(torch.tensor([context], device=generator.device))
    for _ in range(length):
        scores = logits[:, -1]
        scores[:, tokenizer.unknown] = -torch.inf  # nothing to print
        if not tokenizer.documents:
            scores[:, tokenizer.end] = -torch.inf
        token = choose(scores, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        if int(token) == tokenizer.end:
            return
        yield int(token)
        logits, state = model(token[:, None], state)
