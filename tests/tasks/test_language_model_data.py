"""The language model on the files that people have: encodings, folders with other files, pipes, names that are not UTF-8."""

import json
import os
from pathlib import Path

import pytest

import unrolled
from unrolled import tasks
from unrolled.errors import ConfigError, DataError

TEXT = "Füße über größere Flüsse.\n" * 60


@pytest.fixture
def settings(tiny: dict) -> dict:
    return {**tiny, "max_steps": 4, "evaluate_every": 4, "save_every": 4}


def test_text_in_another_encoding_is_learned_and_measured_alike(tmp_path: Path, settings: dict) -> None:
    for name in ("utf-8", "latin-1"):
        (tmp_path / name).write_bytes(TEXT.encode(name))
        tasks.train("language-model", str(tmp_path / name), run=tmp_path / f"run-{name}", encoding=name, **settings)
    one, other = (unrolled.load(tmp_path / f"run-{name}") for name in ("utf-8", "latin-1"))
    wanted = one.evaluate(str(tmp_path / "utf-8"))
    assert other.evaluate(str(tmp_path / "latin-1")) == wanted
    with pytest.raises(DataError, match="expected UTF-8 text, got an invalid byte at offset 1"):
        one.evaluate(str(tmp_path / "latin-1"))
    assert unrolled.load(tmp_path / "run-utf-8", encoding="latin-1").evaluate(str(tmp_path / "latin-1")) == wanted


def test_an_unknown_encoding_and_one_of_bytes_are_refused(tmp_path: Path, settings: dict) -> None:
    (tmp_path / "t").write_text(TEXT)
    with pytest.raises(ConfigError, match=r"encoding: expected an encoding that Python knows, .* got 'nosuch'"):
        tasks.train("language-model", str(tmp_path / "t"), run=tmp_path / "run", encoding="nosuch", **settings)
    with pytest.raises(ConfigError, match="encoding: bytes are learned as they are"):
        tasks.train("language-model", str(tmp_path / "t"), run=tmp_path / "run", encoding="latin-1", unit="byte", **settings)


def test_files_of_a_folder_that_are_left_out_are_said(tmp_path: Path, settings: dict, command, tiny_flags: list[str]) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT)
    (tmp_path / "texts" / "b.txt").write_text(TEXT, encoding="utf-16")
    code, _, errors = command(
        "train", "language-model", tmp_path / "texts", "--run", tmp_path / "run", *tiny_flags, "--max-steps", "2"
    )
    assert code == 0
    assert "left out 1 file that is not text" in errors
    assert "b.txt is UTF-16 text. Add --encoding auto" in errors
    code, out, _ = command("evaluate", tmp_path / "run", tmp_path / "texts", "--json")
    assert json.loads(out)["files_left_out"] == 1
    code, out, _ = command("evaluate", tmp_path / "run", tmp_path / "texts", "--json", "--set", "encoding=auto")
    both = json.loads(out)
    assert "files_left_out" not in both
    assert both["tokens"] == 2 * len(TEXT) - 1


@pytest.mark.parametrize("data", ["", "/dev/zero"])
def test_data_that_cannot_be_is_refused_and_leaves_no_run(tmp_path: Path, data: str, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    code, _, errors = command("train", "language-model", data, "--run", "run")
    assert code == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert os.listdir() == ["text.txt"]


def test_paths_that_are_not_utf8_are_learned_from_and_resumed(tmp_path: Path, settings: dict) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text(TEXT)
    tasks.train("language-model", str(path), run=tmp_path / "run", **settings)
    assert unrolled.load(tmp_path / "run").config.data == (str(path),)
    assert tasks.resume(tmp_path / "run").counters.step == 4


def test_a_prompt_that_is_not_utf8_is_continued_by_bytes_and_else_refused(tmp_path: Path, settings: dict, command) -> None:
    (tmp_path / "t").write_text(TEXT)
    prompt = os.fsdecode(b"F\xfc")
    for unit, wanted in (("byte", 0), ("char", 2)):
        tasks.train("language-model", str(tmp_path / "t"), run=tmp_path / unit, unit=unit, **settings)
        code, out, errors = command("sample", tmp_path / unit, "--prompt", prompt, "--length", "3")
        assert code == wanted, errors
        assert out.startswith("F\ufffd" if unit == "byte" else "")
