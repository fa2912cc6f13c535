"""What only a trained language model can do: `unrolled sample`. Imports no torch, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rich_click as click

from unrolled import flags


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--prompt", default="", help="Text to continue.")
@click.option(
    "--length", default=500, show_default=True, type=click.IntRange(min=1, max=2**53), help="Tokens to write at most."
)
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=flags.Number(min=0),
    help="Divides the logits: below 1 prefers likely tokens, above 1 evens them out; 0 always takes the likeliest (greedy).",
)
@click.option("--top-k", type=click.IntRange(min=1, max=2**53), help="Sample among the k likeliest tokens only.")
@click.option(
    "--top-p",
    type=flags.Number(min=0, max=1, min_open=True),
    help="Sample among the fewest likeliest tokens whose probabilities reach this sum (nucleus sampling).",
)
@click.option("--seed", type=flags.SEED, help="Random seed: the same seed gives the same text.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Number format of the weights: fewer bits are faster and a little less exact.",
)
def sample(run: Path, prompt: str, **settings: Any) -> None:
    """Write text with a trained language model, printed as it is generated.

    unrolled sample runs/my-run --prompt "To be" --temperature 0.7
    """
    from unrolled.tasks import load

    texts = load(run, task="language-model").sample(prompt, **settings)
    sys.stdout.write(prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))  # it may be bytes that are no text
    for text in texts:
        sys.stdout.write(text)
        if sys.stdout.isatty():
            sys.stdout.flush()
    sys.stdout.write("\n")


COMMANDS = [sample]
