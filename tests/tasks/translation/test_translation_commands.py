"""Translation from the command line, lines that are typed and files that are no text included."""

import gzip
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tasks.translation.tiny import TINY


def flags(settings: dict = TINY) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put this on standard input, of the process itself."""
    kept = os.dup(0)

    def give(content: bytes) -> None:
        (tmp_path / "typed").write_bytes(content)
        with open(tmp_path / "typed", "rb") as file:
            os.dup2(file.fileno(), 0)

    yield give
    os.dup2(kept, 0)
    os.close(kept)


def test_the_commands_train_translate_and_evaluate(command, numbers: tuple[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    validation = [part for path in numbers for part in ("--validation", path)]
    code, _, errors = command("train", "translation", *numbers, *validation, "--run", run, *flags())
    assert code == 0, errors
    assert "pairs to learn from, 84 to measure on" in errors
    assert "% padding" in errors
    code, out, errors = command("translate", run, numbers[0], "--json", "--n-best", "2", "--beam", "3")
    assert (code, errors) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["source"] for answer in answers] == Path(numbers[0]).read_text().splitlines()
    assert all([set(each) for each in answer["translations"]] == [{"translation", "score"}] * 2 for answer in answers)
    code, out, _ = command("evaluate", run, *numbers, "--json", "--set", "beam=1")
    assert code == 0
    assert {"loss", "perplexity", "bleu", "chrf", "exact", "pairs"} <= set(json.loads(out))


def test_a_line_in_is_a_line_out_empty_ones_in_their_place(command, translator: Path, tmp_path: Path, typed) -> None:
    content, expected = "six\n\none two\r\n   \nthree", "sechs\n\neins zwei\n\ndrei\n"
    (tmp_path / "lines.txt").write_text("\ufeff" + content)
    assert command("translate", translator, tmp_path / "lines.txt") == (0, expected, "")
    typed(content.encode())
    assert command("translate", translator) == (0, expected, "")
    typed(b"")
    assert command("translate", translator, "-") == (0, "", "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "auto"])
def test_files_in_other_encodings_and_packed_ones_are_read(
    encoding: str, command, translator: Path, tmp_path: Path, typed
) -> None:
    written = "six\none two\n".encode("utf-16" if encoding == "auto" else encoding)
    for content in (written, gzip.compress(written), gzip.compress(written[:8]) + gzip.compress(written[8:])):
        (tmp_path / "lines").write_bytes(content)
        assert command("translate", translator, tmp_path / "lines", "--encoding", encoding) == (0, "sechs\neins zwei\n", "")
        typed(content)
        assert command("translate", translator, "--encoding", encoding) == (0, "sechs\neins zwei\n", "")


def test_an_encoding_that_there_is_not_is_one_line(command, translator: Path) -> None:
    code, _, errors = command("translate", translator, "--encoding", "utf-7000")
    assert code == 2
    assert "an encoding that Python knows" in errors


def test_of_a_table_the_sources_are_translated_which_is_said(command, translator: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("six\tsechs\tof Tatoeba\none two\teins zwei\n")
    said = f"{tmp_path / 'pairs.tsv'}: read as a table; what stands before the first tab of a line is translated\n"
    assert command("translate", translator, tmp_path / "pairs.tsv") == (0, "sechs\neins zwei\n", said)


def test_the_best_are_printed_with_their_scores_best_first(command, translator: Path, typed) -> None:
    typed(b"six\nseven six\n")
    code, out, _ = command("translate", translator, "--n-best", "3", "--beam", "2")
    assert code == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert len(rows) == 6
    assert rows[0][1] == "sechs"
    for several in (rows[:3], rows[3:]):
        scores = [float(score) for score, _ in several]
        assert scores == sorted(scores, reverse=True)


def test_a_line_of_ten_thousand_tokens_is_cut_and_said(command, translator: Path, typed) -> None:
    typed(b"six\n" + b"one " * 10_000 + b"\ntwo\n")
    code, out, errors = command("translate", translator, "--beam", "1")
    lines = out.splitlines()
    assert (code, len(lines), lines[0], lines[2]) == (0, 3, "sechs", "zwei")
    assert errors == "line 2: cut to its first 100 tokens, 9,900 more are not read\n"


def test_pictures_show_what_each_line_attended_to(command, translator: Path, tmp_path: Path, typed) -> None:
    typed(b"one two $x$\n\n")
    code, _, errors = command("translate", translator, "--show", tmp_path / "seen")
    assert (code, errors) == (0, "")
    pictures = sorted((tmp_path / "seen").iterdir())
    assert [one.name for one in pictures] == ["000001.png", "000002.png"]
    assert all(one.read_bytes().startswith(b"\x89PNG") for one in pictures)


def test_what_cannot_be_translated_is_one_line(command, translator: Path, tmp_path: Path, typed) -> None:
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    (tmp_path / "zeros.txt").write_bytes(b"one two\0three\n")
    (tmp_path / "short.gz").write_bytes(gzip.compress(b"one\n" * 50)[:-9])
    typed(b"one\ncaf\xe9\n")
    for name, said in (
        (tmp_path / "latin.txt", f"{tmp_path / 'latin.txt'}, line 2: expected UTF-8 text, got an invalid byte after 'caf'."),
        ("-", "standard input, line 2: expected UTF-8 text, got an invalid byte after 'caf'."),
        (tmp_path / "zeros.txt", f"{tmp_path / 'zeros.txt'}: expected text, got a binary file (it has zero bytes)."),
        (tmp_path / "short.gz", f"{tmp_path / 'short.gz'}: a damaged gzip file"),
        (tmp_path, f"{tmp_path}: expected a file of lines, got a folder."),
        (tmp_path / "none.txt", f"{tmp_path / 'none.txt'}: expected a file of lines, there is none."),
    ):
        code, _, errors = command("translate", translator, name)
        assert code == 2
        assert errors.startswith(f"error: {said}")
        assert len(errors.splitlines()) == 1


def test_a_run_of_another_task_does_not_translate(command, translator: Path, tmp_path: Path) -> None:
    shutil.copytree(translator, tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"task": "captioning"}))
    code, out, errors = command("translate", tmp_path / "other")
    assert (code, out) == (2, "")
    assert "expected a run of translation, got one of captioning" in errors
    code, out, errors = command("caption", translator, "photo.png")
    assert (code, out) == (2, "")
    assert "What that can do: translate, " in errors


def test_what_is_typed_is_answered_line_by_line(translator: Path) -> None:
    arguments = [sys.executable, "-m", "unrolled", "translate", str(translator)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line, expected in ((b"six\n", b"sechs\n"), (b"one two\n", b"eins zwei\n")):
                process.stdin.write(line)
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 60)[0], "no answer before the end of the input"
                assert process.stdout.readline() == expected
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_files_that_do_not_belong_together_are_refused_before_anything_is_trained(
    command, numbers: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "short.de").write_text("eins\n")
    for files, said in (
        ((numbers[0], tmp_path / "short.de"), f"got 84 in {numbers[0]} and 1 in {tmp_path / 'short.de'}."),
        ((numbers[0], numbers[0]), "source and target are the same file"),
        ((numbers[0],), f"{numbers[0]}, line 1: expected a tab between source and target, got none."),
        ((numbers[0], tmp_path), "expected a file of sentences, got a folder."),
        ((*numbers, *numbers), "in one file or in two, got 4 files"),
    ):
        code, out, errors = command("train", "translation", *files, "--run", tmp_path / "run", *flags())
        assert (code, out) == (2, "")
        assert said in errors
        assert not (tmp_path / "run").exists()
