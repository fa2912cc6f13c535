"""Captions are read from every usual file, and photos are found where the captions say they are."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from unrolled.data import captions
from unrolled.errors import DataError

WANTED = {"a.jpg": ["A dog runs, fast.", "The dog"], "b.jpg": ["a cat"]}
FILES = {
    "two.tsv": "a.jpg\tA dog runs, fast.\na.jpg\tThe dog\nb.jpg\ta cat\n",
    "numbered.tsv": "a.jpg\t0\tA dog runs, fast.\na.jpg\t1\tThe dog\r\n\nb.jpg\t0\ta cat\n",
    "header.csv": 'image,caption\na.jpg,"A dog runs, fast."\na.jpg,The dog\nb.jpg,a cat\n',
    "other_header.tsv": "id\tcaption\tfile_name\n1\tA dog runs, fast.\ta.jpg\n2\tThe dog\ta.jpg\n3\ta cat\tb.jpg\n",
    "results.token.txt": "a.jpg#0\tA dog runs, fast.\na.jpg#1\tThe dog\nb.jpg#0\ta cat\n",
    "coco.json": json.dumps(
        {
            "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
            "annotations": [
                {"image_id": 7, "caption": "A dog runs, fast."},
                {"image_id": 7, "caption": "The dog"},
                {"image_id": 9, "caption": " a  cat\n"},
            ],
        }
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_captions(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert captions.read_captions(tmp_path / name) == WANTED


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.jpg\tone\ttwo\tthree\n", "expected 2 columns .* got 4"),
        ("a.jpg\tone\nb.jpg\n", "line 2: expected 2 columns as in the first line, got 1"),
        ("one two three\n", "expected 2 columns .* got 1"),
        ("photo,caption\nx\n", "line 2: expected 2 columns"),
        ("where,caption\nx,y\n", "columns named image and caption in the header, got where, caption"),
        ("first\ta dog\n", "the name of an image in the first column, such as photo.jpg, got 'first'"),
        ("a.jpg\t \na.jpg\t...\n", "no caption with a word in it is left"),
        ("", "no caption with a word in it is left"),
    ],
)
def test_columns_that_are_not_captions_are_refused_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "captions.tsv").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        captions.read_captions(tmp_path / "captions.tsv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [("{", "not valid JSON"), ('{"images": []}', "expected COCO's captions")])
def test_json_that_is_not_coco_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(DataError, match=said):
        captions.read_captions(tmp_path / "c.json")


def test_photos_in_a_folder_and_in_a_tar_are_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue")):
        Image.new("RGB", (4, 3), colour).save(folder / name)
    (tmp_path / "captions.tsv").write_text(FILES["two.tsv"])
    in_folder = captions.find([str(tmp_path)])
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, arcname="photos")
    in_tar = captions.find([str(tmp_path)])
    assert in_tar.photos[0].photo.path.endswith(".tar")
    assert [one.photo.read() for one in in_tar.photos] == [one.photo.read() for one in in_folder.photos]
    assert [one.captions for one in in_tar.photos] == list(WANTED.values())


def test_a_listed_photo_that_is_not_there_is_told_and_one_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text(FILES["two.tsv"])
    with pytest.raises(DataError, match=r"none of the 2 photos it names is in .* 'a.jpg'. Say where they are with --images"):
        captions.find([str(tmp_path)])
    Image.new("RGB", (4, 3)).save(tmp_path / "b.jpg")
    found = captions.find([str(tmp_path)])
    assert [one.name for one in found.photos] == ["b.jpg"]
    assert found.absent == ["a.jpg"]


def test_a_list_limits_the_photos_with_or_without_extensions(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text(FILES["two.tsv"])
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (4, 3)).save(tmp_path / name)
    for text in ("b.jpg\n", "b\n"):
        (tmp_path / "list.txt").write_text(text)
        assert [one.name for one in captions.find([str(tmp_path), str(tmp_path / "list.txt")]).photos] == ["b.jpg"]
    (tmp_path / "list.txt").write_text("other.jpg\n")
    with pytest.raises(DataError, match="none of its 1 names"):
        captions.find([str(tmp_path), str(tmp_path / "list.txt")])


def test_a_folder_with_two_captions_files_asks_which(tmp_path: Path) -> None:
    for name in ("x.tsv", "y.csv"):
        (tmp_path / name).write_text("a.jpg\tone\n")
    with pytest.raises(DataError, match=r"expected one captions file, got x.tsv, y.csv. Name the one"):
        captions.captions_file(tmp_path)
