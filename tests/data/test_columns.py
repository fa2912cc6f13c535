"""Words in columns: what is read of them, and that everything else comes back."""

from pathlib import Path

import pytest

from unrolled.data.columns import Columns
from unrolled.data.sources import Source
from unrolled.errors import DataError

CONLLU = """# sent_id = 1
# text = Don't go
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
1\tDo\tdo\tAUX\tPRES\tMood=Imp|Number=Sing\t3\taux\t_\t_
2\tn't\tnot\tPART\t_\t_\t3\tadvmod\t_\t_
2.1\tgone\t_\t_\t_\t_\t_\t_\t_\t_
3\tgo\tgo\t_\tINF\t_\t0\troot\t_\t_

1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_
"""
CONLL = """-DOCSTART- -X- O

EU  NNP B-ORG
rejects VBZ O

#\tSYM\tO
"""


def file(tmp_path: Path, text: str) -> Source:
    path = tmp_path / "words.txt"
    path.write_text(text, encoding="utf-8", newline="")
    return Source(str(path))


def test_of_conllu_the_words_and_their_upos_are_read(tmp_path: Path) -> None:
    first, second = Columns(file(tmp_path, CONLLU)).sentences()
    assert (first.inputs, first.labels) == (["Do", "n't", "go"], ["AUX", "PART", ""])
    assert (second.inputs, second.labels) == (["#"], ["SYM"])
    assert second.name.endswith("words.txt, sentence 2")


def test_columns_go_by_name_or_number_and_may_have_several_labels(tmp_path: Path) -> None:
    source = file(tmp_path, CONLLU)
    by_name = next(Columns(source, "LEMMA", "feats", multi=True).sentences())
    by_number = next(Columns(source, "3", "6", multi=True).sentences())
    assert by_name == by_number
    assert (by_name.inputs, by_name.labels[:2]) == (["do", "not", "go"], [{"Mood=Imp", "Number=Sing"}, frozenset()])


def test_of_other_columns_the_first_is_the_word_and_the_last_the_label(tmp_path: Path) -> None:
    sentences = list(Columns(file(tmp_path, CONLL)).sentences())
    assert [(one.inputs, one.labels) for one in sentences] == [(["EU", "rejects"], ["B-ORG", "O"]), (["#"], ["O"])]


@pytest.mark.parametrize("text", [CONLLU, CONLL, "\ufeff" + CONLLU, CONLL.replace("\n", "\r\n")])
def test_its_own_labels_filled_in_give_the_file(tmp_path: Path, text: str) -> None:
    columns = Columns(file(tmp_path, text))
    labels = [[label or "_" for label in one.labels] for one in columns.sentences()]
    assert "".join(f"{line}\n" for line in columns.filled(labels)) == text


def test_labels_are_put_behind_lines_that_end_before_their_column(tmp_path: Path) -> None:
    assert list(Columns(file(tmp_path, "It\nrains\n")).filled([["PRON", "VERB"]])) == ["It\tPRON", "rains\tVERB"]
    assert list(Columns(file(tmp_path, "It a\nrains b\n"), label="3").filled([["PRON", "VERB"]])) == [
        "It a PRON",
        "rains b VERB",
    ]


def test_a_line_of_too_few_columns_is_named(tmp_path: Path) -> None:
    columns = Columns(file(tmp_path, "It PRON\n\nrains\n"))
    with pytest.raises(DataError, match=r"words.txt, line 3: expected 2 columns or more, got 1: 'rains'"):
        list(columns.sentences())
    assert [one.inputs for one in columns.sentences(labelled=False)] == [["It"], ["rains"]]


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected --label-column to be .* Did you mean 'XPOS'\? Got 'XPSO'"):
        Columns(file(tmp_path, CONLLU), label="XPSO")
    with pytest.raises(DataError, match=r"expected --word-column to be the number of a column, from 1. Got '0'"):
        Columns(file(tmp_path, CONLL), word="0")


def test_only_spaces_and_tabs_part_columns(tmp_path: Path) -> None:
    """Not those within a number as French has it, nor signs that other programs take for the end of a line."""
    source = file(tmp_path, "10\u00a0000 NUM\na\u2028b X\n\u00a0 PUNCT\n")
    (one,) = Columns(source).sentences()
    assert (one.inputs, one.labels) == (["10\u00a0000", "a\u2028b", "\u00a0"], ["NUM", "X", "PUNCT"])
    assert list(Columns(source).filled([["A", "B", "C"]])) == ["10\u00a0000 A", "a\u2028b B", "\u00a0 C"]
