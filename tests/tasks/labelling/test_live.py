"""Live labels are those of the whole sequence, printed as each step arrives."""

import contextlib
import io
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import pytest
import torch
from tests.tolerance import assert_same

import unrolled
from unrolled.cli import cli, main
from unrolled.data import live_rows
from unrolled.data.sequences import Sequence
from unrolled.errors import DataError, NotFiniteError, RunError
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.generate import generate
from unrolled.tasks.labelling.live import Follower
from unrolled.tasks.labelling.model import Labeller

T, F = 9, 3


def labeller(**settings) -> tuple[Labeller, Encoding, Config]:
    torch.manual_seed(0)
    config = Config(**{"hidden_size": 7, "bidirectional": False, "front_size": 5, **settings})
    encoding = Encoding(kind="numbers", labels=["a", "b", "c", "d"], mean=[1.0, -2.0, 0.5], deviation=[2.0, 3.0, 0.5])
    return Labeller(config, encoding).eval(), encoding, config


def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (T, F)).astype(np.float32)


def live(follower: Follower, rows: np.ndarray) -> list:
    return [one for row in rows for one in follower.step(row)] + follower.finish()


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("front", ["none", "linear", "conv"])
@pytest.mark.parametrize("cell", ["none", "rnn", "lstm", "gru"])
def test_steps_are_labelled_as_in_the_whole_sequence(cell: str, front: str, multi: bool) -> None:
    model = labeller(cell=cell, front=front, multi=multi, num_layers=2)
    for steps in (1, 2, 3, T):
        offline = next(generate(*model, [Sequence("", inputs()[:steps])]))
        found = live(Follower(*model), inputs()[:steps])
        assert [one.step for one in found] == list(range(steps))
        assert [one.labels for one in found] == offline.labels
        assert_same(torch.tensor(np.stack([one.probabilities for one in found])), torch.tensor(offline.probabilities))


def test_a_label_for_the_whole_is_that_of_what_was_read_so_far() -> None:
    model = labeller(cell="gru", per="sequence")
    for one in live(Follower(*model), inputs()):
        offline = next(generate(*model, [Sequence("", inputs()[: one.step + 1])]))
        assert one.labels == offline.labels
        assert_same(torch.tensor(one.probabilities), torch.tensor(offline.probabilities))


def test_a_label_comes_at_once_or_as_many_steps_later_as_the_front_looks_ahead() -> None:
    assert [len(Follower(*labeller()).step(inputs()[0]))] == [1]
    follower = Follower(*labeller(front="conv"))
    assert [len(follower.step(row)) for row in inputs()] == [0, 0, *[1] * (T - 2)]
    assert len(follower.finish()) == 2
    assert follower.finish() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bidirectional": True}, "one direction, got a bidirectional one. Train with --no-bidirectional"),
        ({"crf": True}, "without a CRF"),
        ({"cell": "none", "per": "sequence"}, "a mean over all steps"),
    ],
)
def test_what_needs_the_whole_sequence_is_refused(settings, message: str) -> None:
    with pytest.raises(RunError, match=message):
        Follower(*labeller(**settings))


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(DataError, match="row 7: expected 3 numbers a step, as in training, got 2"):
        Follower(*labeller()).step(np.zeros(2), "standard input, row 7")


@pytest.mark.parametrize("multi", [False, True])
def test_what_has_no_probability_is_no_answer(multi: bool) -> None:
    model = labeller(front="linear", multi=multi)
    front: Any = model[0].front
    front.deviation.fill_(0.01)  # of columns that hardly changed in training
    rows = np.full((2, F), 3e38, np.float32) * np.array([1, -1, 1], np.float32)
    for labels in (lambda: list(generate(*model, [Sequence("a.csv", rows)])), lambda: live(Follower(*model), rows)):
        with pytest.raises(
            NotFiniteError, match=r"(a\.csv|row 1): expected scores to label by, got NaN: its numbers are far larger"
        ):
            labels()


def test_a_growing_file_gives_each_row_when_its_line_is_whole(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "sensor.csv"
    path.write_text("x,label,y\n1,walk,2\n3,wa")
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        with open(path, "a") as file:
            file.write("lk,4\n" if len(waits) == 1 else "5,run,6\r\n")

    monkeypatch.setattr(live_rows.time, "sleep", wait)
    rows = live_rows.rows(str(path), ("label",))
    assert next(rows).inputs.tolist() == [1, 2]
    assert waits == []
    assert next(rows).inputs.tolist() == [3, 4]
    assert next(rows)[0::2][0] == f"{path}, row 4"
    assert len(waits) == 2
    path.write_text("")
    with pytest.raises(DataError, match="has become shorter"):
        next(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1,2\n3\n", "standard input, row 2: expected 2 columns, got 1"),
        (b"1,2\n3,nan\n", "row 2, column 2: expected a finite number, got nan"),
        (b"x,y\n1,2\n\n3,up\n", "row 4, column y: expected a number, got 'up'"),
        (b"1,2\n\xff,3\n", "row 2: expected a row of numbers as CSV in UTF-8"),
    ],
)
def test_a_bad_row_is_named(text: bytes, message: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))
    with pytest.raises(DataError, match=message):
        list(live_rows.rows())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    for n in range(4):
        rows = [f"{x},{-x},{'up' if x % 2 else 'down'}" for x in range(n, n + 9)]
        (folder / f"{n}.csv").write_text("\n".join(["x,y,label", *rows]) + "\n")
    unrolled.train("labelling", str(folder), run=folder / "run", max_steps=2, hidden_size=8, bidirectional=False)
    return folder / "run"


def test_the_command_prints_what_it_prints_for_the_file_and_then_the_latency(run: Path) -> None:
    file = run.parent / "0.csv"
    offline = click.testing.CliRunner().invoke(cli, ["label", str(run), str(file)])
    found = click.testing.CliRunner().invoke(cli, ["label", str(run), "--follow"], input=file.read_text())
    assert found.exit_code == 0, found.output
    rows = [line.split(",", 1)[1] for line in offline.stdout.splitlines()]
    assert found.stdout.splitlines() == rows
    assert found.stderr.startswith("9 steps; latency from arrival to label: median ")
    as_json = click.testing.CliRunner().invoke(cli, ["label", str(run), "--follow", "--json"], input="1,2\n")
    assert sorted(first := json.loads(as_json.stdout)) == ["label", "probability", "step"]
    assert first["step"] == 0


def test_ctrl_c_ends_it_with_the_latency(run: Path, monkeypatch) -> None:
    def interrupted(*_):
        yield live_rows.Arrived("row 1", 0.0, np.zeros(2, np.float32))
        raise KeyboardInterrupt

    monkeypatch.setattr(live_rows, "rows", interrupted)
    found = click.testing.CliRunner().invoke(cli, ["label", str(run), "--follow"])
    assert found.exit_code == 130
    assert len(found.stdout.splitlines()) == 2
    assert found.stderr.startswith("1 steps;")
    assert len(found.stderr.splitlines()) == 1


def test_a_reader_that_has_enough_ends_it_quietly(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "argv", ["unrolled", "label", str(run), "--follow"])
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"1,2\n3,4\n")))
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 1  # as every command of which nobody reads what it prints
    assert capsys.readouterr().err == ""


def test_pictures_come_as_they_are_or_as_rows_of_their_numbers() -> None:
    config = Config(hidden_size=7, bidirectional=False, front_size=5)
    encoding = Encoding(kind="numbers", labels=["a", "b"], mean=[1.0], deviation=[2.0], shape=[8, 6, 1])
    model = Labeller(config, encoding).eval(), encoding, config
    pictures = np.random.default_rng(0).normal(0, 3, (T, 8, 6, 1)).astype(np.float32)
    offline = next(generate(*model, [Sequence("", pictures)]))
    for form in (pictures, pictures[..., 0], pictures.reshape(T, -1)):
        found = live(Follower(*model), form)
        assert_same(torch.tensor(np.stack([one.probabilities for one in found])), torch.tensor(offline.probabilities))
    for wrong in (pictures[0, :, :, 0].T, pictures[0, 1:]):
        with pytest.raises(DataError, match="row 1: expected 8 x 6 x 1 numbers a step, as in training, got "):
            Follower(*model).step(wrong)
