"""The hidden units of a labeller are those of its layers, and the labels of its data are what they may track."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.tolerance import assert_same

from unrolled.errors import RunError


def test_units_are_the_layers_outputs_and_labels_those_of_the_file(conllu: Path, trained: Callable) -> None:
    run = trained(conllu, bidirectional=True, num_layers=2)
    found = run.activations(conllu)
    [first, second, *_] = run.read(conllu, labelled=True)
    assert "".join(found.pieces).startswith(f"{' '.join(first.inputs)} \n{' '.join(second.inputs)} \n")
    assert [*found.units] == ["l0", "l0_reverse", "l1", "l1_reverse"]
    with torch.no_grad():
        x = run.model.front(run.encoding.collate([second.inputs]))
        states = run.model.layers.states(x)
    steps = slice(len(first), len(first) + len(second))
    for (name, values), state in zip(found.units.items(), states, strict=True):
        assert values.shape[0] == len(found.pieces), name
        assert_same(values[steps], (state.h if state.c is None else state.c.tanh())[0])
    for name, flags in found.labels.items():
        assert [f'label "{label}"' == name for label in second.labels] == [bool(flag) for flag in flags[steps]]
    assert {f'label "{label}"' for label in run.labels} == set(found.labels)


def test_a_run_that_reads_no_text_is_refused(csv: Path, trained: Callable, conllu: Path, command: Callable) -> None:
    code, _, err = command("inspect", "units", trained(csv).folder, csv)
    assert (code, err) == (
        2, "error: units: expected a run that reads text, got one of numbers. Give one of words or characters.\n"
    )  # fmt: skip
    with pytest.raises(RunError, match="which has no hidden units"):
        trained(conllu, cell="none").activations(conllu)
