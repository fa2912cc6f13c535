"""Captioning from the command line, photos that cannot be read included."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.tasks.captioning.tiny import TINY

from unrolled import tasks
from unrolled.errors import DataError
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.task import Run


def test_the_commands_train_caption_and_evaluate(command, shapes: Path, tmp_path: Path) -> None:
    flags = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    code, _, errors = command("train", "captioning", shapes, "--run", tmp_path / "run", *flags)
    assert code == 0, errors
    assert "photos with" in errors
    photo = shapes / "images" / "red-circle-left.png"
    code, out, _ = command("caption", tmp_path / "run", photo, "--captions", "2", "--json", "--show", tmp_path / "seen")
    answer = json.loads(out)
    assert code == 0
    assert answer["image"] == str(photo)
    assert [set(caption) for caption in answer["captions"]] == [{"caption", "score"}] * 2
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["0001-red-circle-left.png"]
    code, out, _ = command("evaluate", tmp_path / "run", shapes, "--json")
    assert code == 0
    assert {"loss", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "photos"} <= set(json.loads(out))
    code, other, _ = command("evaluate", tmp_path / "run", shapes, "--json", "--set", "beam=2", "--set", "consensus=3")
    assert code == 0
    assert json.loads(other)["loss"] == json.loads(out)["loss"]


def test_evaluating_tells_how_far_it_is(captioner: Path, shapes: Path) -> None:
    told: list[tuple[str, int, int]] = []
    Run(captioner).evaluate(str(shapes), report=lambda *one: told.append(one))
    assert told[-1] == ("captions", 16, 16)


def test_what_a_run_cannot_do_is_said_with_what_it_can(command, captioner: Path) -> None:
    code, out, errors = command("sample", captioner)
    assert (code, out) == (2, "")
    expected = "expected a run of language-model, got one of captioning. What that can do: caption, evaluate, export, info."
    assert errors == f"error: {captioner}: {expected}\n"


MISTAKES = {
    "beem=5": "beem: unknown setting. Did you mean 'beam'? At evaluation can be set: beam, consensus, longest, encoding.",
    "beam=0": "beam: expected greater than 0, got '0'.",
    "beam=wide": "beam: expected a whole number, got 'wide'.",
    "heads=2": "heads: cannot be changed once a model is trained. "
    "At evaluation can be set: beam, consensus, longest, encoding.",
    "beam": "--set beam: expected NAME=VALUE.",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_setting_that_cannot_be_set_at_evaluation_is_one_line(command, captioner: Path, shapes: Path, setting: str) -> None:
    code, out, errors = command("evaluate", captioner, shapes, "--set", setting)
    assert (code, out, errors) == (2, "", f"error: {MISTAKES[setting]}\n")


def test_a_setting_given_when_loading_is_what_captions_are_written_with(captioner: Path, shapes: Path) -> None:
    photo = shapes / "images" / "red-circle-left.png"
    (short,) = tasks.load(captioner, longest=1).caption(photo)
    (usual,) = tasks.load(captioner).caption(photo)
    assert len(short.captions[0].tokens) < len(usual.captions[0].tokens)


def test_a_damaged_photo_is_skipped_in_a_folder_and_an_error_alone(
    command, captioner: Path, shapes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (shapes / "images" / "red-circle-left.png").read_bytes()
    (folder / "a.png").write_bytes(good)
    (folder / "b.png").write_bytes(good[: len(good) // 2])
    (folder / "c.png").write_bytes(b"")
    code, out, errors = command("caption", captioner, folder)
    assert code == 0
    assert out.startswith((f"{folder / 'a.png'}\ta ", f"{folder / 'a.png'}\tthe "))
    assert "b.png" in errors
    assert "skipped 2 images that cannot be read" in errors
    code, out, errors = command("caption", captioner, folder / "b.png")
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1


def test_damaged_and_absent_photos_are_left_out_of_training_and_told(command, shapes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(shapes, folder)
    (folder / "images" / "red-circle-left.png").write_bytes(b"no image")
    (folder / "images" / "blue-square-left.png").unlink()
    flags = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    code, _, errors = command("train", "captioning", folder, "--run", tmp_path / "run", *flags, "--max-steps", "2")
    assert code == 0, errors
    assert "red-circle-left.png" in errors
    assert "1 photos that have captions are not there, the first 'blue-square-left.png'" in errors
    kept = data.load(tmp_path / "run")
    assert sum(len(part) for part in kept.values()) == 14
    measured = Run(tmp_path / "run").evaluate(str(folder))
    assert (measured["photos"], measured["photos_left_out"]) == (14, 2)


def test_what_cannot_be_learned_from_leaves_nothing_behind(shapes: Path, tmp_path: Path) -> None:
    for name, content in (("empty.tsv", ""), ("gone.tsv", "gone.jpg\ta dog\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError):
            tasks.train("captioning", tmp_path / name, run=tmp_path / "run", **TINY)
        assert not (tmp_path / "run").exists()


def test_without_the_package_of_the_scores_training_is_refused_before_anything_is_made(
    command, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unrolled.tasks.captioning.data.scores_installed", lambda: False)
    code, _, err = command("train", "captioning", shapes, "--run", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "pycocoevalcap: pip install" in err
    assert list(tmp_path.iterdir()) == []


def test_a_large_photo_is_shown_smaller(captioner: Path, tmp_path: Path) -> None:
    """Photos wait together to be drawn, and matplotlib takes 16 bytes for a pixel."""
    Image.new("RGB", (3000, 1500), "teal").save(tmp_path / "large.png")
    (one,) = tasks.load(captioner).caption([tmp_path / "large.png"], show=True)
    assert one.photo.size == (1024, 512)


def test_what_share_of_the_captions_is_unknown_is_told(captioner: Path, shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "some")
    (tmp_path / "some" / "captions.tsv").write_text("red-circle-left.png\ta red zebra\nred-circle-left.png\tzebra zebra red\n")
    assert tasks.load(captioner).evaluate(tmp_path / "some")["unknown_share"] == pytest.approx(3 / 6)
