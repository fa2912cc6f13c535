"""What is learned of labelled sequences, what is kept of them, and what cannot be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tolerance import assert_same
from unrolled.data.batches import LengthBatches
from unrolled.data.sequences import Sequence
from unrolled.errors import DataError
from unrolled.tasks.labelling import data
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import PAD, UNKNOWN, UNLABELLED, Encoding, Kept, Numbering, batch_of, cut, learn


def prepared(tmp_path: Path, *files: Path, **settings) -> tuple[Config, Encoding, Kept, Kept]:
    config, folder = Config(data=tuple(map(str, files)), **settings), tmp_path / "prepared"
    folder.mkdir()
    data.prepare(config, folder, lambda line: None)
    encoding = Encoding.load(folder)
    return config, encoding, *(Kept(folder / part, config, encoding) for part in (data.TRAINING, data.VALIDATION))


def test_words_are_kept_as_they_were(tmp_path: Path, conllu: Path) -> None:
    from unrolled.data.columns import Columns
    from unrolled.data.sources import Source

    _, encoding, training, validation = prepared(tmp_path, conllu, validation_fraction=0.2)
    assert (len(training), len(validation), encoding.labels) == (24, 6, ["ADV", "DET", "NOUN", "VERB"])
    kept = [(one.inputs, [encoding.labels[n] for n in one.labels]) for part in (training, validation) for one in part]
    read = [(one.inputs, one.labels) for one in Columns(Source(str(conllu))).sentences()]
    assert sorted(kept) == sorted(read)


def test_a_word_has_the_same_numbers_wherever_it_stands() -> None:
    encoding = Encoding(kind="words", labels=["a", "b"], words=["dog", "the"], characters=["d", "g", "o"])
    batch = encoding.collate([["the", "dog", "dodo"], ["dog"]])
    assert batch["words"].tolist() == [[3, 2, UNKNOWN], [2, PAD, PAD]]
    assert batch["characters"][0, 1].tolist() == batch["characters"][1, 0].tolist() == [2, 4, 3, PAD]
    assert batch["characters"][0, 2].tolist() == [2, 4, 2, 4]
    assert batch["forms"][0, 1] == batch["forms"][1, 0] != batch["forms"][0, 2]
    assert batch["lengths"].tolist() == [3, 1]


def test_statistics_are_those_of_all_steps_together() -> None:
    parts = [np.random.default_rng(n).normal(100, 1 + n, (3 + n, 2)).astype(np.float32) for n in range(4)]
    parts = [np.column_stack([part, np.full(len(part), 7, np.float32)]) for part in parts]
    sequences = [Sequence(str(n), part, ["ab"[(n + k) % 2] for k in range(len(part))]) for n, part in enumerate(parts)]
    encoding, whole = learn(Config(), "numbers", sequences), np.concatenate(parts).astype(np.float64)
    assert_same(torch.tensor(encoding.mean), torch.tensor(whole.mean(0)).float())
    assert_same(torch.tensor(encoding.deviation), torch.tensor([*whole.std(0)[:2], 1.0]).float())  # 1 for what never changes


def test_long_sequences_are_cut_per_step_and_stay_whole_per_sequence() -> None:
    one = Sequence("long", "abcdefg", list("xyxyxyx"))
    parts = list(cut(one, Config(longest=3)))
    assert ["".join(part.inputs) for part in parts] == ["ab", "cd", "efg"]
    assert [label for part in parts for label in part.labels] == one.labels
    assert [part.inputs for part in cut(one, Config(longest=3, per="sequence"))] == ["abcdefg"]


def test_labels_that_training_never_had_get_numbers_behind_the_others() -> None:
    numbering = Numbering(Config(), ["a", "b"])
    assert numbering.example(Sequence("", "wxyz", ["b", "new", "", "a"])).labels.tolist() == [1, 2, UNLABELLED, 0]
    assert numbering.names == ["a", "b", "new"]


def test_a_batch_of_several_labels_is_true_where_a_step_has_them() -> None:
    config = Config(multi=True)
    encoding = Encoding(kind="numbers", labels=["C", "E"], mean=[0.0], deviation=[1.0])
    numbering = Numbering(config, encoding.labels)
    several = [
        Sequence("", np.zeros((2, 1), np.float32), [frozenset("CE"), frozenset()]),
        Sequence("", np.zeros((1, 1), np.float32), [frozenset("E")]),
    ]
    batch = batch_of([numbering.example(one) for one in several], encoding, config)
    assert batch["labels"].int().tolist() == [[[1, 1], [0, 0]], [[0, 1], [0, 0]]]


def test_batches_hold_every_sequence_once_an_epoch_and_alike_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 101)
    batches = LengthBatches(lengths, batch_size=8, seed=3)
    epochs = [[batches[epoch * batches.per_epoch + n] for n in range(batches.per_epoch)] for epoch in (0, 1)]
    for epoch in epochs:
        assert sorted(np.concatenate(epoch).tolist()) == list(range(101))
    assert [batch.tolist() for batch in epochs[0]] != [batch.tolist() for batch in epochs[1]]
    assert batches.padding() < 0.2


@pytest.mark.parametrize(
    ("text", "settings", "problem"),
    [
        ("x,label\n1,a\n2,a\n", {}, "expected labels of at least two names to tell apart, got only 'a'"),
        ("x\n1\n2\n", {}, "expected labels to learn from or to compare with, got none"),
        ("x,label\n", {}, "expected sequences to learn from, got none that has a step"),
        ("x,label\n1,a\n2,b\n", {"per": "sequence"}, "expected one label for the whole .--per sequence., got steps of 2"),
        ("x,label\n1,a\n2,\n", {"crf": True}, "expected a label for every step, which crf needs"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, text: str, settings: dict, problem: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        prepared(tmp_path, tmp_path / "table.csv", **settings)


def test_a_pipe_is_not_learned_from_for_it_can_be_read_only_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="-: expected files to learn from, which are read several times, got a pipe"):
        prepared(tmp_path, Path("-"), kind="words")


def test_two_widths_are_refused_and_both_files_named(tmp_path: Path) -> None:
    for name, columns in (("one", 2), ("two", 3)):
        np.savez(tmp_path / f"{name}.npz", inputs=np.zeros((4, columns)), label=np.array(list("abab")))
    with pytest.raises(DataError, match=r"two.npz: expected 2 numbers a step, as in .*one.npz, got 3"):
        prepared(tmp_path, tmp_path / "one.npz", tmp_path / "two.npz")


@pytest.mark.parametrize("text", ["the DET\ndog NOUN\n\na DET\n", '{"text": "ab", "labels": ["X", "Y"]}\n'])
def test_so_few_sequences_that_none_is_held_out_are_learned_from(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("few.jsonl" if text.startswith("{") else "few.conll")
    path.write_text(text)
    _, _, training, validation = prepared(tmp_path, path)
    assert (len(training), len(validation)) == (text.count("\n\n") + 1, 0)
