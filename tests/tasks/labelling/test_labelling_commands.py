"""Training, labelling and measuring, from the command line and from Python."""

import csv as csv_module
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from unrolled import tasks
from unrolled.data.sequences import Sequence
from unrolled.errors import DataError


def rows(out: str) -> list[dict[str, str]]:
    return list(csv_module.DictReader(io.StringIO(out)))


def test_words_come_back_in_their_format_with_only_the_labels_changed(command, trained, conllu: Path) -> None:
    run = trained(conllu, crf=True, embedding_size=5, character_size=4)
    code, out, errors = command("label", run.folder, conllu)
    assert (code, errors) == (0, "")
    before, after = (text.splitlines() for text in (conllu.read_text(), out))
    assert len(before) == len(after)
    labels = [label for one in run.label(conllu) for label in one.labels]
    for old, new in zip(before, after, strict=True):
        if old[:1].isdigit():
            cells = old.split("\t")
            assert new.split("\t") == [*cells[:3], labels.pop(0), *cells[4:]]
        else:
            assert new == old
    assert not labels


def test_numbers_come_back_as_csv_with_their_clock(command, trained, csv: Path) -> None:
    run = trained(csv, validation_fraction=0.2)
    code, out, _ = command("label", run.folder, csv)
    found = rows(out)
    assert code == 0
    assert len(found) == sum(len(one) for one in run.read(csv))
    assert list(found[0]) == ["sequence", "time", "label", "probability"]
    assert found[1]["time"] == "0.100"
    assert all(0.5 <= float(row["probability"]) <= 1 for row in found)  # the likelier of two


def test_one_label_for_the_whole_is_one_line(command, trained, csv: Path) -> None:
    run = trained(csv, per="sequence", validation_fraction=0.2)
    _, out, _ = command("label", run.folder, csv)
    assert [list(row) for row in rows(out)] == [["sequence", "label", "probability"]] * 12
    _, out, _ = command("label", run.folder, csv, "--json")
    assert {json.loads(line)["label"] for line in out.splitlines()} <= {"up", "down"}
    _, out, _ = command("evaluate", run.folder, csv, "--json")
    assert json.loads(out)["sequences"] == 12


def test_several_labels_stand_together_with_their_probabilities(command, trained, chords: Path) -> None:
    run = trained(chords, multi=True, bidirectional=False)
    run.model.output.bias.data[:] = 9.0
    found = list(run.label(chords))
    assert {label for one in found for label in one.labels} == {frozenset("CEG")}
    _, out, _ = command("label", run.folder, chords)
    assert all(row["label"].count("|") == row["probability"].count("|") for row in rows(out))
    _, out, _ = command("evaluate", run.folder, chords, "--json")
    metrics = json.loads(out)
    assert metrics["frame_nll"] == pytest.approx(metrics["loss"], rel=1e-5)
    assert {"precision", "recall"} <= metrics.keys()


def test_what_a_sequence_is_labelled_does_not_depend_on_the_others(trained, conllu: Path) -> None:
    run = trained(conllu)
    sequences = list(run.read(conllu))
    together = list(run.label(sequences))
    assert [one.sequence.name for one in together] == [one.name for one in sequences]
    for one in together[:9]:
        assert next(run.label([one.sequence])).labels == one.labels


def test_a_sequence_of_no_steps_gets_no_labels_and_keeps_its_place(trained, conllu: Path) -> None:
    run = trained(conllu)
    found = list(run.label([Sequence("none", []), Sequence("one", ["dog"])]))
    assert (found[0].labels, len(found[1].labels)) == ([], 1)


@pytest.mark.parametrize("per", ["step", "sequence"])
def test_a_file_of_no_steps_gets_no_label(command, trained, csv: Path, per: str) -> None:
    run = trained(csv, per=per)
    np.save(csv.parent / "none.npy", np.zeros((0, 2)))
    code, out, errors = command("label", run.folder, csv.parent / "none.npy")
    assert (code, errors, [row["label"] for row in rows(out)]) == (0, "", [""] if per == "sequence" else [])
    code, out, errors = command("label", run.folder, csv.parent / "none.npy", "--json")
    assert (code, errors, json.loads(out).get("label")) == (0, "", None)
    code, _, errors = command("evaluate", run.folder, csv.parent / "none.npy")
    assert (code, errors.count("\n")) == (2, 1)
    assert "got none that has a step" in errors


def test_evaluation_counts_by_name_and_labels_never_seen_as_wrong(command, trained, conllu: Path, tmp_path: Path) -> None:
    run = trained(conllu)
    found = next(run.label([Sequence("", ["the", "dog"])])).labels
    (tmp_path / "new.conll").write_text(f"the {found[0]}\ndog FOREIGN\n")
    code, out, _ = command("evaluate", run.folder, tmp_path / "new.conll", "--json")
    metrics = json.loads(out)
    assert (code, metrics["accuracy"], metrics["unseen_labels"], metrics["steps"]) == (0, 0.5, {"FOREIGN": 1}, 2)
    assert metrics["per_label"][found[0]]["recall"] == 1.0
    assert sum(metrics["confusion"]["FOREIGN"].values()) == 1


def test_bio_tags_are_scored_as_spans_and_numbers_as_segments(trained, csv: Path, tmp_path: Path) -> None:
    (tmp_path / "names.conll").write_text("Ann B-PER\nLee I-PER\nran O\n\nin O\nRome B-LOC\n\n" * 6)
    assert "entity_f1" in trained(tmp_path / "names.conll").evaluate(tmp_path / "names.conll")
    assert {"edit", "f1_10", "f1_25", "f1_50"} <= trained(csv).evaluate(csv).keys()


def test_the_loss_of_evaluation_is_that_of_training(trained, conllu: Path) -> None:
    """In batches of other sizes, and with words in an order of their own."""
    run = trained(conllu, evaluate_every=4, validation=(str(conllu),))
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert run.evaluate(conllu)["loss"] == pytest.approx(last["loss"], rel=1e-5)


def test_it_learns_words_from_their_letters(trained, tmp_path: Path) -> None:
    """Words that end in -ly against words that do not, none of which it has seen."""
    chance = np.random.default_rng(0)

    def sentence() -> str:
        lines = []
        for _ in range(8):
            stem = "".join(chance.choice(list("abdegmnorst"), 4))
            lines.append(f"{stem}ly ADV" if chance.random() < 0.5 else f"{stem} NOUN")
        return "\n".join(lines) + "\n\n"

    (tmp_path / "learn.conll").write_text("".join(sentence() for _ in range(60)))
    (tmp_path / "unseen.conll").write_text("".join(sentence() for _ in range(20)))
    settings = {
        "max_steps": 80,
        "batch_size": 10,
        "hidden_size": 16,
        "character_size": 16,
        "learning_rate": 2e-2,
        "dropout": 0.0,
    }
    run = trained(tmp_path / "learn.conll", **settings, evaluate_every=40, warmup_steps=5)
    assert run.evaluate(tmp_path / "unseen.conll")["accuracy"] > 0.97


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing.csv"], "nothing.csv: no such file or folder"),
        (["wide.csv"], "wide.csv: expected 2 numbers a step, as in training, got 3"),
        (["nan.csv"], "nan.csv, row 3, column y: expected a finite number, got nan"),
    ],
)
def test_what_cannot_be_labelled_is_said_in_one_line(command, trained, csv: Path, monkeypatch, arguments, problem: str) -> None:
    run = trained(csv)
    monkeypatch.chdir(csv.parent)
    Path("wide.csv").write_text("x,y,z\n1,2,3\n")
    Path("nan.csv").write_text("x,y\n1,2\n3,nan\n")
    code, out, errors = command("label", run.folder, *arguments)
    assert (code, out) == (2, "")
    assert problem in errors
    assert errors.count("\n") == 1


def test_labels_for_the_whole_are_asked_for_by_a_setting(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "ja", "label": "de"}\n{"text": "yes", "label": "en"}\n' * 5)
    with pytest.raises(DataError, match=r"expected a label for each step, got one for the whole\. Add --per sequence"):
        tasks.train("labelling", tmp_path / "texts.jsonl", run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("crf", [False, True])
def test_where_training_had_none_of_the_labels_there_is_no_loss(
    command, trained, conllu: Path, tmp_path: Path, crf: bool
) -> None:
    run = trained(conllu, crf=crf)
    (tmp_path / "new.conll").write_text("dog FOREIGN\n")
    code, out, _ = command("evaluate", run.folder, tmp_path / "new.conll", "--json")
    metrics = json.loads(out)
    assert (code, "loss" in metrics, metrics["accuracy"]) == (0, False, 0.0)


def test_times_are_written_of_steps_and_short(command, trained, csv: Path) -> None:
    sevenths = "x,y,time\n" + "".join(f"1,2,{n / 7}\n" for n in range(3))
    (csv.parent / "sevenths.csv").write_text(sevenths)
    _, out, _ = command("label", trained(csv).folder, csv.parent / "sevenths.csv", "--json")
    assert json.loads(out)["times"] == [0.0, 0.142857, 0.285714]
    _, out, _ = command("label", trained(csv, per="sequence").folder, csv.parent / "sevenths.csv", "--json")
    assert "times" not in json.loads(out)


def test_text_in_another_encoding_is_labelled_where_it_is_named(command, trained, conllu: Path, tmp_path: Path) -> None:
    run = trained(conllu)
    (tmp_path / "latin.conll").write_bytes("h\u00fctte\n".encode("latin-1"))
    code, out, errors = command("label", run.folder, tmp_path / "latin.conll")
    assert (code, out) == (2, "")
    assert "--encoding latin-1" in errors
    assert "--unit byte" not in errors
    code, out, errors = command("label", run.folder, tmp_path / "latin.conll", "--encoding", "latin-1")
    assert (code, errors, out[:6]) == (0, "", "h\u00fctte\t")


def test_an_evaluation_leaves_its_confusion_matrix_as_a_picture_and_as_numbers(
    command, trained, csv: Path, chords: Path, tmp_path: Path
) -> None:
    run, drawn = trained(csv), tmp_path / "drawn"
    code, out, _ = command("evaluate", run.folder, csv, "--json", "--show", drawn)
    figures = json.loads(out)
    assert code == 0
    assert sorted(path.name for path in drawn.iterdir()) == ["confusion.csv", "confusion.png"]
    names, *table = csv_module.reader((drawn / "confusion.csv").read_text().splitlines())
    found = {true: {name: int(n) for name, n in zip(names[1:], counts, strict=True) if int(n)} for true, *counts in table}
    assert {true: said for true, said in found.items() if said} == figures["confusion"]
    assert sum(sum(said.values()) for said in found.values()) == figures["steps"]
    code, _, error = command("evaluate", trained(chords, multi=True).folder, chords, "--show", drawn / "none")
    assert (code, (drawn / "none").exists()) == (2, False)
    assert "expected a run of one label at a step to draw a confusion matrix of, got --multi" in error


def test_info_says_the_labels_and_what_a_step_is_whatever_the_settings_left_open(command, trained, conllu: Path) -> None:
    run = trained(conllu)
    code, out, _ = command("info", run.folder, "--json")
    facts = json.loads(out)
    assert (code, facts["config"]["kind"], facts["kind"], facts["labels"]) == (0, "auto", "words", run.labels)
    _, out, _ = command("info", run.folder)
    assert f"{len(run.labels)}: {', '.join(run.labels)}\n" in out


def test_the_end_of_training_names_the_sequences_and_how_many_were_held_out(trained, csv: Path) -> None:
    preview = trained(csv, validation_fraction=0.5).preview()
    shown = preview.text.splitlines()
    assert (len(shown), all(line.startswith(f"{csv}, sequence ") for line in shown)) == (5, True)
    assert preview.measured_on == "6 sequences of 23 steps together"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_file_whose_name_is_no_utf_8_is_labelled(command, trained, csv: Path, arguments: list[str]) -> None:
    run = trained(csv)
    odd = csv.with_name(os.fsdecode(b"caf\xe9.csv"))
    try:
        odd.write_bytes(csv.read_bytes())
    except OSError:
        pytest.skip("a file system that has names in UTF-8 only")
    code, out, _ = command("label", run.folder, odd, *arguments)
    assert (code, "caf?.csv, sequence 0" in out) == (0, True)
