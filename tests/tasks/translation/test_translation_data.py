"""Pairs in batches: each once in an epoch, alike long, alike many tokens; what is held out and what is left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.tasks.translation.tiny import TINY, write_numbers

from unrolled import tasks
from unrolled.data.sentences import END, PAD, START, UNKNOWN
from unrolled.errors import DataError, RunError
from unrolled.tasks.translation import data
from unrolled.tasks.translation.config import Config
from unrolled.tasks.translation.data import Batches, Encoded, Vocabularies

SENTENCES = [("the cat sat", "die Katze saß"), ("a dog", "ein Hund"), ("the dog sat", "der Hund saß"), ("a cat", "eine Katze")]


class Lengths:
    """Pairs of which only the lengths are known, such as people's sentences have: a few long ones, targets like sources."""

    class Side:
        def __init__(self, lengths: np.ndarray) -> None:
            self.lengths = lengths

    def __init__(self, source: np.ndarray, target: np.ndarray) -> None:
        self.source, self.target = self.Side(source), self.Side(target)

    def __len__(self) -> int:
        return len(self.source.lengths)


def people(count: int) -> Lengths:
    rng = np.random.default_rng(0)
    source = np.clip(rng.lognormal(2.6, 0.4, count), 3, 100).astype(np.int64)
    return Lengths(source, np.clip(source * rng.normal(1.05, 0.15, count), 3, 100).astype(np.int64))


def prepared(folder: Path, pairs=SENTENCES, **settings) -> tuple[list[str], Encoded, Vocabularies, list]:
    """What `prepare` says, and leaves in the folder."""
    for name, side in zip(("a.en", "a.de"), zip(*pairs, strict=True), strict=True):
        (folder / name).write_text("\n".join(side) + "\n")
    said: list[str] = []
    (folder / "run").mkdir()
    config = Config(**{"data": (str(folder / "a.en"), str(folder / "a.de")), "unit": "word"} | settings)
    data.prepare(config, folder / "run", said.append)
    vocabularies = Vocabularies.load(folder / "run")
    pairs = Encoded.open(folder / "run" / data.TRAINING, vocabularies)
    return said, pairs, vocabularies, data.read_validation(folder / "run")


def test_an_epoch_has_each_pair_once_in_batches_that_are_functions_of_the_step() -> None:
    pairs = people(1003)
    batches = Batches(Config(batch_size=32), pairs)
    per_epoch = batches.per_epoch
    assert per_epoch == 31
    epochs = [[batches[step].tolist() for step in range(e * per_epoch, (e + 1) * per_epoch)] for e in range(2)]
    for epoch in epochs:
        assert sorted(n for batch in epoch for n in batch) == list(range(1003))
    assert {frozenset(batch) for batch in epochs[0]} != {frozenset(batch) for batch in epochs[1]}
    lengths = [pairs.target.lengths[batch].mean() for batch in epochs[0]]
    assert lengths != sorted(lengths)
    assert Batches(Config(batch_size=32), pairs)[per_epoch + 3].tolist() == epochs[1][3]  # asked for alone
    assert Batches(Config(batch_size=32, seed=1), pairs)[0].tolist() != epochs[0][0]


def test_batches_have_as_many_tokens_as_each_other_and_little_padding() -> None:
    pairs = people(20_000)
    batches = Batches(Config(batch_size=64), pairs)
    totals, padded = [], 0
    for step in range(batches.per_epoch):
        batch = batches[step]
        sides = pairs.source.lengths[batch], pairs.target.lengths[batch]
        totals.append(sum(int(side.sum()) for side in sides))
        padded += sum(len(side) * int(side.max()) for side in sides)
    assert max(totals) - min(totals) <= 2 * 200  # a pair at either end
    padding = 1 - sum(totals) / padded
    assert batches.padding() == pytest.approx(padding)
    assert padding < 0.1


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("target", [[3, 3, 90, 3, 3, 3, 80], [3, 3, 1, 3, 3, 3, 3]], ids=["long targets", "long sources"])
def test_one_long_pair_among_short_ones_still_comes_once(target: list[int], batch_size: int) -> None:
    batches = Batches(Config(batch_size=batch_size), Lengths(np.array([3, 3, 90, 3, 3, 3, 80]), np.array(target)))
    epoch = [batches[step].tolist() for step in range(batches.per_epoch)]
    assert all(epoch)
    assert sorted(n for batch in epoch for n in batch) == list(range(7))


def test_a_batch_is_the_pairs_padded(tmp_path: Path) -> None:
    _, pairs, vocabularies, _ = prepared(tmp_path, validation_fraction=0)
    batch = data.batch_of(pairs, [1, 0])
    for row, n in enumerate((1, 0)):
        source, target = (side.encode(text) for side, text in zip(vocabularies, SENTENCES[n], strict=True))
        assert batch["source"][row].tolist() == [*source, END] + [PAD] * (3 - len(source))
        assert batch["tokens"][row].tolist() == [START, *target, END] + [PAD] * (3 - len(target))


@pytest.mark.parametrize(("unit", "block"), [("bpe", 1 << 24), ("word", 2), ("char", 7)])
def test_what_is_written_to_disk_is_what_was_given(
    tmp_path: Path, unit: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "BLOCK", block)
    _, pairs, vocabularies, _ = prepared(tmp_path, unit=unit, validation_fraction=0, vocabulary_size=300)
    assert [vocabularies.source.decode(ids) for ids in pairs.source] == [source for source, _ in SENTENCES]
    assert [vocabularies.target.decode(ids) for ids in pairs.target] == [target for _, target in SENTENCES]


def test_vocabularies_are_joint_or_separate(tmp_path: Path) -> None:
    for name in ("joint", "separate"):
        (tmp_path / name).mkdir()
        _, _, (source, target), _ = prepared(tmp_path / name, vocabulary=name, validation_fraction=0)
        assert UNKNOWN not in source.encode("the cat")
        assert (UNKNOWN in source.encode("die Katze")) == (UNKNOWN in target.encode("the cat")) == (name == "separate")
        assert (source.encode("a dog") == target.encode("a dog")) == (name == "joint")


def test_validation_is_drawn_by_the_seed_and_not_learned(tmp_path: Path) -> None:
    many = [(f"word{n}", f"Wort{n}") for n in range(100)]
    held_out = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, pairs, vocabularies, validation = prepared(folder, many, seed=seed, validation_fraction=0.2)
        learned = {vocabularies.source.decode(ids) for ids in pairs.source}
        assert len(validation) == 20
        assert learned | {source for source, _ in validation} == {source for source, _ in many}
        assert len(learned) == 80
        assert UNKNOWN in vocabularies.source.encode(validation[0][0])  # its words are not in the vocabulary
        held_out.append(validation)
    assert held_out[0] == held_out[1] != held_out[2]


def test_no_more_than_a_thousand_are_held_out(tmp_path: Path) -> None:
    _, pairs, _, validation = prepared(tmp_path, [("a", "b")] * 2200, validation_fraction=0.5)
    assert (len(pairs), len(validation)) == (1200, 1000)


def test_validation_of_its_own_leaves_all_pairs_to_learn_from(tmp_path: Path) -> None:
    (tmp_path / "v.tsv").write_text("one cat\teine Katze\n\tleer\n")
    _, pairs, _, validation = prepared(tmp_path, validation=(str(tmp_path / "v.tsv"),))
    assert len(pairs) == 4
    assert [tuple(pair) for pair in validation] == [("one cat", "eine Katze")]
    (tmp_path / "v.tsv").write_text("\t\n")
    written = [str(tmp_path / name) for name in ("a.en", "a.de")]
    with pytest.raises(
        DataError, match=r"v\.tsv: expected pairs of sentences to measure on in validation \(--validation\), got none"
    ):
        data.prepare(Config(data=tuple(written), validation=(str(tmp_path / "v.tsv"),)), tmp_path, print)


def test_what_is_too_long_or_empty_is_left_out_and_said(tmp_path: Path) -> None:
    pairs = [*SENTENCES, ("", "leer"), ("empty", "  "), ("a b c d e", "a"), ("a", "a b c d e")]
    said, kept, _, _ = prepared(tmp_path, pairs, longest=3, validation_fraction=0)
    assert len(kept) == 4
    assert said == [
        "left out 2 pairs of which a side is empty",
        "left out 2 of 6 pairs: longer than 3 tokens (longest, --longest)",
    ]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("", "leer")], "expected pairs of sentences to learn from, got none that is not empty"),
        ([("a b c", "a")], r"all pairs are longer than 2 tokens\. Raise longest \(--longest\)"),
    ],
)
def test_too_little_to_learn_from_leaves_nothing_behind(tmp_path: Path, pairs: list, said: str) -> None:
    (tmp_path / "pairs.tsv").write_text("".join("\t".join(pair) + "\n" for pair in pairs))
    with pytest.raises(DataError, match=said):
        tasks.train("translation", tmp_path / "pairs.tsv", run=tmp_path / "run", **TINY, longest=2)
    assert not (tmp_path / "run").exists()


def test_damaged_pairs_of_a_run_are_named(tmp_path: Path) -> None:
    _, _, vocabularies, _ = prepared(tmp_path, validation_fraction=0)
    folder = tmp_path / "run" / data.TRAINING
    tokens = folder / "source" / "tokens.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(content.replace(bytes([END]), bytes([UNKNOWN]), 1))
    with pytest.raises(RunError, match="as many sources as targets, got 3 and 4"):
        Encoded.open(folder, vocabularies)
    tokens.write_bytes(content[:-1])
    with pytest.raises(RunError, match=r"tokens\.bin: expected"):
        Encoded.open(folder, vocabularies)
    (tmp_path / "run" / data.VALIDATION).write_text(json.dumps([["one side"]]))
    with pytest.raises(RunError, match=r"validation\.json: damaged"):
        data.read_validation(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_layers": 1}, "between expected num_layers of 2 or more, got 1"),
        ({"heads": 5}, "a hidden_size that 5 divides, got between and 32"),
        ({"heads": 2, "attention": "dot"}, "expected attention = between and a hidden_size that 2 divides, got dot"),
        ({"input_feeding": True}, "expected attention = dot or general, got between"),
        ({"coverage": 0.2, "attention": "none"}, "expected a model with attention"),
        ({"hidden_size": 7}, "expected an even one for two directions, got 7"),
    ],
)
def test_settings_at_odds_are_refused(command, tmp_path: Path, settings: dict, said: str) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (TINY | settings).items() if value is not True]
    flags += [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is True]
    code, out, errors = command("train", "translation", *write_numbers(tmp_path), "--run", tmp_path / "run", *flags)
    assert (code, out) == (2, "")
    assert said in errors
    assert not (tmp_path / "run").exists()
