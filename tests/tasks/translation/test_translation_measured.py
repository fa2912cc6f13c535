"""What evaluating a translator gives, against sacrebleu and sums by hand; shared out between processes the same."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from tests.tasks.translation.tiny import TINY

from unrolled import tasks
from unrolled.data.sentences import END, START
from unrolled.errors import DataError
from unrolled.task import Processes
from unrolled.tasks.translation import task

PAIRS = [
    ("six six six", "sechs sechs sechs"),
    ("", "nichts"),
    ("one", "zwei"),
    ("two one two", "zwei eins zwei"),
    ("two unheard", "zwei unerhört"),
    ("five four three two", ""),
    ("three", "drei"),
]


def table(folder: Path, pairs=PAIRS) -> str:
    (folder / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return str(folder / "pairs.tsv")


def test_the_figures_are_sacrebleus_of_the_lines_in_order_and_the_loss_is_a_sum_by_hand(
    translator: Path, tmp_path: Path
) -> None:
    run = tasks.load(translator)
    told: list[tuple[str, int, int]] = []
    found = run.evaluate(table(tmp_path), report=lambda *one: told.append(one))
    written, references = [one.translations[0].text for one in run.translate(s for s, _ in PAIRS)], [t for _, t in PAIRS]
    assert written[3] == references[3] != written[0]
    assert found["bleu"] == BLEU().corpus_score(written, [references]).score
    assert found["chrf"] == CHRF().corpus_score(written, [references]).score
    assert all(found[f"{name}_signature"].startswith("nrefs:1|") for name in ("bleu", "chrf"))
    assert found["exact"] == sum(map(str.__eq__, written, references)) / 7
    total, count = 0.0, 0
    for source, target in PAIRS:
        read, said = run.vocabularies.source.encode(source), run.vocabularies.target.encode(target)
        logits = run.model(run.model.encode(torch.tensor([[*read, END]])), torch.tensor([[START, *said]])).logits[0]
        total -= sum(float(row[i]) for row, i in zip(logits.detach().log_softmax(-1), [*said, END], strict=True))
        count += len(said) + 1
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert (found["pairs"], found["sources_cut"]) == (7, 0)
    assert found["unknown_share"] == pytest.approx(2 / 11)  # "nichts" and "unerhört"
    assert told[-1] == ("lines", 7, 7)
    assert set(found) == {
        *(
            "loss",
            "perplexity",
            "bleu",
            "bleu_signature",
            "chrf",
            "chrf_signature",
            "exact",
            "unknown_share",
            "pairs",
            "sources_cut",
        )
    }


class OneOf(Processes):
    """One process of two, which is given what the other came to."""

    def __init__(self, index: int, other: Any) -> None:
        super().__init__(index, 2)
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        if self.other is None:
            raise StopIteration(value)
        return [value, self.other] if self.index == 0 else [self.other, value]


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]], ids=["several", "one, so that a process has none"])
def test_two_processes_measure_half_each_and_get_the_same(translator: Path, pairs: list) -> None:
    run = tasks.load(translator)
    given = (run.model, run.vocabularies, pairs)
    settings = {"longest": 50, "beam": 2}
    whole = task.measure(*given, **settings)
    parts = []
    for index in (0, 1):
        with pytest.raises(StopIteration) as stopped:
            task.measure(*given, processes=OneOf(index, None), **settings)
        parts.append(stopped.value.value)
    assert sorted(n for _, _, texts in parts for n in texts) == list(range(len(pairs)))
    for index in (0, 1):
        half = task.measure(*given, processes=OneOf(index, parts[1 - index]), **settings)
        assert half["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert {name: half[name] for name in ("bleu", "chrf", "exact")} == {
            name: whole[name] for name in ("bleu", "chrf", "exact")
        }


def test_long_lines_are_measured_alone_and_long_sources_cut_and_counted(
    translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, int, int]] = []
    nats = task.nats

    def seen(model, batch):
        shapes.append((*batch["tokens"].shape, batch["source"].shape[1]))
        return nats(model, batch)

    monkeypatch.setattr(task, "nats", seen)
    long = " ".join(["one"] * 700), " ".join(["eins"] * 700)
    pairs = [*PAIRS[:1] * 30, long, ("two", long[1]), *PAIRS[:1] * 30]
    found = tasks.load(translator, longest=5, beam=1).evaluate(table(tmp_path, pairs))
    assert (found["pairs"], found["sources_cut"]) == (62, 1)
    assert sum(rows for rows, *_ in shapes) == 62
    assert sorted(shapes)[:2] == [(1, 702, 2), (1, 702, 6)]  # START, 700 and END; of the sources 5 and END
    assert all(rows * width <= 64 * 7 for rows, width, _ in shapes if rows > 1)
    assert max(rows for rows, *_ in shapes) > 10


def test_nothing_to_measure_on_is_refused(translator: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs\.tsv: expected pairs of sentences to measure on, got none"):
        tasks.load(translator).evaluate(table(tmp_path, []))


def test_training_needs_no_package_of_scores_and_measuring_says_which(
    translator: Path, numbers: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sacrebleu" else find(name))
    outcome = tasks.train("translation", list(numbers), run=tmp_path / "run", **{**TINY, "max_steps": 2})
    assert outcome.metrics.keys() == {"loss", "perplexity"}
    found = tasks.load(translator).evaluate(*numbers)
    assert "pip install 'unrolled[translation]'" in found.pop("not_measured")
    monkeypatch.undo()
    whole = tasks.load(translator).evaluate(*numbers)
    assert whole.keys() - found.keys() == {"bleu", "bleu_signature", "chrf", "chrf_signature"}
    assert found == {name: whole[name] for name in found}
