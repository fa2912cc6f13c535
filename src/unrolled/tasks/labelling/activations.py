"""What the hidden units are while the model reads words or characters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from unrolled.data.sequences import Sequence
from unrolled.errors import DataError, RunError
from unrolled.layers import Recurrent
from unrolled.task import LONGEST_READ, Activations
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.model import Labeller


@torch.inference_mode()
def read(model: Labeller, encoding: Encoding, sequences: Iterable[Sequence]) -> Activations:
    """The activations after each word or character, sequence by sequence, and as labels what each of these is labelled.

    Raises:
        RunError: a run of numbers, sound or video, or one without recurrent layers.
        DataError: nothing to read.
    """
    layers = model.layers
    if encoding.kind not in ("words", "characters"):
        raise RunError(f"units: expected a run that reads text, got one of {encoding.kind}. Give one of words or characters.")
    if not isinstance(layers, Recurrent):
        raise RunError("units: expected a run with recurrent layers, got one of cell = 'none', which has no hidden units.")
    suffixes = [f"l{n}{end}" for n in range(layers.num_layers) for end in ("", "_reverse")[: layers.num_directions]]
    units: dict[str, list[Tensor]] = {suffix: [] for suffix in suffixes}
    pieces: list[str] = []
    labels: list[object] = []
    device = next(model.parameters()).device
    for one in sequences:
        if len(pieces) >= LONGEST_READ:
            break
        if not len(one):
            continue
        batch = {name: value.to(device) for name, value in encoding.collate([one.inputs]).items()}
        for suffix, state in zip(suffixes, layers.states(model.front(batch)), strict=True):
            units[suffix].append((state.h if state.c is None else state.c.tanh())[0].float().cpu())
        own = list(one.inputs) if encoding.kind == "characters" else [f"{word} " for word in one.inputs]
        pieces += [*own[:-1], own[-1] + "\n"]
        labels += one.labels if isinstance(one.labels, list) else [None] * len(one)
    if not pieces:
        raise DataError("units: expected text to read, got none.")
    named = {label for each in labels for label in _several(each)}
    found = {f'label "{name}"': [float(name in _several(each)) for each in labels] for name in sorted(named)}
    return Activations(pieces, {suffix: torch.cat(parts) for suffix, parts in units.items()}, labels=found)


def _several(label: object) -> frozenset[str]:
    """The labels of a step: none, one or several."""
    if isinstance(label, frozenset):
        return label
    return frozenset([label]) if isinstance(label, str) and label else frozenset()
