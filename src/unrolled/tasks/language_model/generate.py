"""Writing: feed the model its own last token, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unrolled import streaming
from unrolled.data.tokenizers import Tokenizer
from unrolled.decoding import choose
from unrolled.errors import ConfigError
from unrolled.tasks.language_model.model import LanguageModel


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
    precision: str = "fp32",
) -> Iterator[str]:
    """Text after the prompt, as it is generated: `length` tokens, or fewer where the model ends the document itself.

    Without a prompt the model starts as after the end of a document, or, if it knows none, after a newline.

    Args:
        model: tokens (B, T) and a state -> logits (B, T, V) and a state.
        tokenizer: the one it was trained with.
        prompt: text to go on from; not repeated in the result.
        length: tokens to write at most.
        temperature: divides the logits; 0 is greedy.
        top_k: sample among the k likeliest only.
        top_p: nucleus sampling: among the fewest likeliest whose probabilities reach p.
        seed: of sampling; another text each time when left out.

    Raises:
        DataError: the prompt has something that the model never saw.
        ValueError: an impossible temperature, top_k or top_p.
    """
    if length < 1:
        raise ValueError(f"expected a length of at least 1 token, got {length}.")
    device = next(model.parameters()).device
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    ids = tokenizer.encode_prompt(prompt) if prompt else tokenizer.encode("\n")
    first = [tokenizer.end] if tokenizer.documents else []
    context = [*first, *ids.tolist()] if prompt else first or [int(i) for i in ids if i != tokenizer.unknown] or [2]
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    forbidden = [tokenizer.unknown] if tokenizer.documents else [tokenizer.unknown, tokenizer.end]
    if isinstance(model, LanguageModel) and streaming.supported(model.layers, precision) is None:
        streamer = streaming.Streamer(model.layers, **model.tables(), precision=precision)
        context_ids = torch.tensor(context)
        ids = streamer.stream(length, context=context_ids, seed=seed, forbidden=forbidden, stop=tokenizer.end, **settings)
        return tokenizer.decode_stream(i for i in ids if i != tokenizer.end)
    if precision != "fp32":
        reason = streaming.supported(getattr(model, "layers", model), precision)
        raise ConfigError(
            f"precision: expected fp32 of a model that the streaming engine does not run ({reason}), got {precision}.",
            ["precision"],
        )
    return tokenizer.decode_stream(_tokens(model, context, length, forbidden, tokenizer.end, generator, settings))


@torch.inference_mode()
def _tokens(
    model: nn.Module,
    context: list[int],
    length: int,
    forbidden: list[int],
    stop: int,
    generator: torch.Generator,
    settings: dict[str, Any],
) -> Iterator[int]:
    """The same in Python, where the streaming engine is not: on an accelerator, or where it was not built."""
    model.eval()
    logits, state = model(torch.tensor([context], device=generator.device))
    for _ in range(length):
        scores = logits[:, -1]
        scores[:, forbidden] = -torch.inf
        token = choose(scores, **settings, generator=generator)
        if int(token) == stop:
            return
        yield int(token)
        logits, state = model(token[:, None], state)
