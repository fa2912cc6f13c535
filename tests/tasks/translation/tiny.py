"""Sizes and settings of translation's tests: a model of random weights, pairs that are learned in a moment."""

from pathlib import Path

import torch
from torch import nn

from unrolled.data.sentences import END, PAD
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.model import Translator

H, SOURCES, TARGETS = 6, 11, 13
ATTENTIONS = ("none", "additive", "dot", "general", "between")
TINY = {
    "unit": "word",
    "hidden_size": 32,
    "batch_size": 16,
    "max_steps": 12,
    "warmup_steps": 4,
    "evaluate_every": 6,
    "save_every": 6,
    "sample_every": 0,
    "dropout": 0.1,
}
NUMBERS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf", "six": "sechs"}


def model(**how) -> Translator:
    """In double precision and evaluation mode, with embeddings of their own."""
    torch.manual_seed(0)
    return Translator(Config(**{"hidden_size": H, "shared": False} | how), SOURCES, TARGETS).double().eval()


def sources(*lengths: int) -> torch.Tensor:
    """Random sentences (N, S), END behind each and then PAD."""
    rows = [torch.cat([torch.randint(4, SOURCES, (length,)), torch.tensor([END])]) for length in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)


def targets(count: int, length: int) -> torch.Tensor:
    """Random tokens (count, length)."""
    return torch.randint(4, TARGETS, (count, length))


def write_numbers(folder: Path) -> tuple[str, str]:
    """Two files, English numbers and their German ones, of one to three words."""
    several = [[a, b, c][:n] for n in (1, 2, 3) for a in NUMBERS for b in list(NUMBERS)[:n] for c in list(NUMBERS)[:n]]
    paths = folder / "numbers.en", folder / "numbers.de"
    paths[0].write_text("".join(" ".join(line) + "\n" for line in several))
    paths[1].write_text("".join(" ".join(NUMBERS[word] for word in line) + "\n" for line in several))
    return str(paths[0]), str(paths[1])
