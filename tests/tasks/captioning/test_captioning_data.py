"""Captioning on the files that people have: splits in the captions, too few captions, names that are not UTF-8."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.tasks.captioning.tiny import TINY

from unrolled import tasks
from unrolled.errors import DataError
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.config import Config


def captions_of(folder: Path) -> list[tuple[str, str]]:
    return [(line.split("\t")[0], line.split("\t")[1]) for line in (folder / "captions.tsv").read_text().splitlines()]


def test_karpathys_splits_are_followed_and_the_test_split_left_alone(shapes: Path, tmp_path: Path) -> None:
    names = sorted({name for name, _ in captions_of(shapes)})
    splits = dict(zip(names, ["train", "restval", "val", "test"] * len(names), strict=False))
    images = [{"filename": name, "split": split, "sentences": [{"raw": "a shape"}]} for name, split in splits.items()]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images, "dataset": "shapes"}))
    said: list[str] = []
    config = Config(data=(str(tmp_path),), images=str(shapes / "images"))
    training, validation = data.split(config, said.append)
    assert {splits[one.name] for one in training} == {"train", "restval"}
    assert {splits[one.name] for one in validation} == {"val"}
    assert len(training) == len(names) // 2
    assert said == [f"the captions' own split: {len(training)} photos for training, {len(validation)} for validation"]


def test_captions_too_few_for_minimum_count_are_refused_before_training(shapes: Path, tmp_path: Path, command) -> None:
    flags = ("--minimum-count", "500", "--max-steps", "2")
    code, _, errors = command("train", "captioning", shapes, "--run", tmp_path / "run", *flags)
    assert code == 2
    assert "no word occurs 500 times (minimum_count, --minimum-count)" in errors
    assert not (tmp_path / "run").exists()


def test_photos_whose_names_are_not_utf8_are_learned_from_and_captioned(shapes: Path, tmp_path: Path, command) -> None:
    folder = tmp_path / os.fsdecode(b"d\xe9")
    shutil.copytree(shapes, folder)
    tasks.train("captioning", folder, run=tmp_path / "run", **{**TINY, "max_steps": 2})
    photo = folder / os.fsdecode(b"caf\xe9.png")
    shutil.copy(next((folder / "images").iterdir()), photo)
    code, out, errors = command("caption", tmp_path / "run", photo)
    assert code == 0, errors
    assert out.encode().startswith(os.fsencode(tmp_path) + b"/d\\xe9/caf\\xe9.png\t")  # shown by escapes, in UTF-8
    _, out, _ = command("caption", tmp_path / "run", photo, "--json")
    out.encode()
    assert json.loads(out)["image"] == str(photo)


def test_captions_without_a_name_for_them_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.tsv").write_text("a.jpg\ta dog\n")
    with pytest.raises(DataError, match="got an empty one"):
        data.split(Config(data=("",)), print)


def test_a_photo_without_a_name_is_not_the_current_folder(captioner: Path, shapes: Path, command, monkeypatch) -> None:
    monkeypatch.chdir(shapes)
    code, out, errors = command("caption", captioner, "")
    assert (code, out) == (2, "")
    assert "got an empty one" in errors
