"""Captions are read from every usual file, and photos are found where the captions say they are."""

import json
import os
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
                {"image_id": 9, "caption": None},
                {"image_id": 8, "caption": "of a photo that is not listed"},
            ],
        }
    ),
    "karpathy.json": json.dumps(
        {
            "dataset": "flickr8k",
            "images": [
                {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog runs, fast."}, {"raw": "The dog"}]},
                {"filename": "b.jpg", "split": "val", "sentences": [{"tokens": ["a", "cat"]}]},
            ],
        }
    ),
    "list.json": json.dumps(
        [{"image": "a.jpg", "caption": ["A dog runs, fast.", "The dog"]}, {"image": "b.jpg", "caption": "a cat"}]
    ),
    "names.json": json.dumps({"a.jpg": ["A dog runs, fast.", "The dog"], "b.jpg": "a cat"}),
    "metadata.jsonl": '{"file_name": "a.jpg", "text": "A dog runs, fast."}\n{"file_name": "a.jpg", "text": "The dog"}\n\n'
    '{"file_name": "b.jpg", "text": "a cat"}\n',
    "results.csv": "image_name| comment_number| comment\na.jpg| 0| A dog runs, fast.\na.jpg| 1   The dog\nb.jpg| 0| a cat\n",
    "semicolons.csv": 'image;caption\na.jpg;"A dog runs, fast."\na.jpg;The dog\nb.jpg;a cat\n',
    "quoted.tsv": 'image\tcaption\na.jpg\t"A dog\nruns, fast."\na.jpg\tThe dog\nb.jpg\ta cat\n',
    "old_mac.csv": 'image,caption\ra.jpg,"A dog\rruns, fast."\ra.jpg,The dog\rb.jpg,a cat\r',
    "excel.csv": 'image,caption\r\na.jpg,"A dog\r\nruns, fast."\r\na.jpg,The dog\r\nb.jpg,a cat\r\n',
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_captions(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name].encode())
    assert captions.read_captions(tmp_path / name) == WANTED


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_captions_with_a_byte_order_mark_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "c.tsv").write_text("a.jpg\tein Hund läuft\n", encoding=encoding)
    assert captions.read_captions(tmp_path / "c.tsv") == {"a.jpg": ["ein Hund läuft"]}


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1e", '"\n', '"\r\n'])
@pytest.mark.parametrize("quoted", [False, True])
def test_only_a_line_end_outside_quotes_ends_a_row(tmp_path: Path, mark: str, quoted: bool) -> None:
    quote = '"' if quoted or mark.startswith('"') else ""  # line ends are always quoted
    mark = mark.removeprefix('"')
    (tmp_path / "c.csv").write_bytes(f"image,caption\na.jpg,{quote}a dog{mark}runs{quote}\nb.jpg,a cat\n".encode())
    assert captions.read_captions(tmp_path / "c.csv") == {"a.jpg": ["a dog runs"], "b.jpg": ["a cat"]}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ('a.jpg,"a dog\nb.jpg,a cat\nc.jpg,a cow\n', 2),
        ('a.jpg,"a dog"\n\nb.jpg,"a cat\nc.jpg,a cow\nd.jpg,"a pig"\n', 4),
        ('a.jpg,"a dog\nb.jpg,"\n', 2),
        ('a.jpg,"a dog\n' + "b.jpg,a cat\n" * 12000, 2),
        ('a.jpg,a dog\nb.jpg,"a "cat" sits"\n', 3),
    ],
)
def test_a_quote_that_is_not_closed_is_refused_with_its_line(tmp_path: Path, rows: str, line: int) -> None:
    (tmp_path / "c.csv").write_text("image,caption\n" + rows)
    with pytest.raises(DataError, match=rf"c\.csv: line {line}: expected quotes around a whole field, closed"):
        captions.read_captions(tmp_path / "c.csv")


def test_quotes_in_a_token_file_are_characters(tmp_path: Path) -> None:
    text = 'a.jpg#0\t" A dog " runs\na.jpg#1\t"A dog\nb.jpg#0\tsays hi"\n'
    (tmp_path / "Flickr8k.token.txt").write_text(text)
    assert captions.read_captions(tmp_path / "Flickr8k.token.txt") == {
        "a.jpg": ['" A dog " runs', '"A dog'],
        "b.jpg": ['says hi"'],
    }


def test_annotations_of_photos_that_are_not_listed_are_counted_as_absent(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")
    Image.new("RGB", (4, 3)).save(tmp_path / "b.jpg")
    (tmp_path / "coco.json").write_text(FILES["coco.json"])
    assert captions.find([str(tmp_path)]).absent == ["image_id 8"]


def test_a_text_beside_each_photo_is_its_captions(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, text in (("a", "A dog runs, fast.\nThe dog\n"), ("more/caption_b", "a cat")):
        Image.new("RGB", (4, 3)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(text)
    found = captions.find([str(tmp_path)])
    assert {one.name: one.captions for one in found.photos} == {
        "a.png": ["A dog runs, fast.", "The dog"],
        "more/caption_b.png": ["a cat"],
    }


def test_captions_through_a_pipe_need_to_be_told_where_the_photos_are(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.jpg")

    def piped() -> str:
        reading, writing = os.pipe()
        with open(writing, "wb") as file:
            file.write(b"a.jpg\ta dog\n")
        return f"/dev/fd/{reading}"

    found = captions.find([piped()], str(tmp_path))
    assert [(one.name, one.captions) for one in found.photos] == [("a.jpg", ["a dog"])]
    with pytest.raises(DataError, match=r"captions from a pipe have no folder beside them.*--images"):
        captions.find([piped()])


def folder_of(tmp_path: Path, *names: str) -> Path:
    """Photos that can be told apart, by their width."""
    for width, name in enumerate(names, 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, 1)).save(tmp_path / name)
    return tmp_path


def matched(folder: Path, *names: str) -> dict[str, str]:
    (folder / "captions.tsv").write_text("".join(f"{name}\ta dog\n" for name in names))
    return {one.name: str(Path(one.photo.path).relative_to(folder)) for one in captions.find([str(folder)]).photos}


def test_the_same_name_in_two_folders_goes_by_path(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train/1.png", "val/1.png", "val/2.png")
    assert matched(folder, "val/1.png", "/data/set/train/1.png", "other\\2.png") == {
        "val/1.png": "val/1.png",
        "/data/set/train/1.png": "train/1.png",
        "other\\2.png": "val/2.png",
    }


def test_the_same_name_in_two_folders_without_a_path_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train/1.png", "val/1.png")
    with pytest.raises(
        DataError, match=r"'1.png' stands for 2 photos: train/1.png, val/1.png. Write the folder before the name"
    ):
        matched(folder, "1.png")
    with pytest.raises(DataError, match=r"the captions of 2 photos: a/2.png, b/2.png come to one photo, val/2.png"):
        matched(folder_of(folder, "val/2.png"), "a/2.png", "b/2.png")


def test_a_photo_that_is_absent_does_not_get_one_of_its_name_elsewhere(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "train/1.png")
    assert matched(folder, "train/1.png", "val/1.png") == {"train/1.png": "train/1.png"}


def test_accents_of_either_form_are_the_same_name(tmp_path: Path) -> None:
    assert matched(folder_of(tmp_path, "cafe\u0301.png"), "caf\u00e9.png") == {"caf\u00e9.png": "cafe\u0301.png"}


def test_a_list_may_leave_out_what_is_clear_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("1\nval/2\n3.png\n")
    assert captions.read_list(tmp_path / "list.txt", ["a/1.png", "a/2.png", "val/2.png", "b/3.png"]) == [
        "a/1.png",
        "val/2.png",
        "b/3.png",
    ]
    (tmp_path / "list.txt").write_text("2\n")
    with pytest.raises(DataError, match=r"'2' stands for 2 photos: a/2.png, val/2.png"):
        captions.read_list(tmp_path / "list.txt", ["a/2.png", "val/2.png"])


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ('{"a": 1}\n{"b": 2}', "name it .jsonl"),
        ("[" * 100_000, "not valid JSON"),
        ('{"images": []}', "expected COCO's captions"),
        ('{"images": [], "annotations": {"a": 1}}', "expected COCO's captions"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": 5}]}',
            "expected a caption, got 5",
        ),
        ("[1]", "object 1: expected an object with an image and a caption, got 1"),
        ('[{"image": "a.jpg"}]', "object 1: expected an object with file_name .* got image"),
    ],
)
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
    (tmp_path / "images.tar").rename(tmp_path / "another.tar")
    assert captions.find([str(tmp_path)]).photos == in_folder.photos  # images/ before an archive of another name


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


def test_captions_and_lists_in_another_encoding_are_read_when_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "caf\xe9.png")
    (tmp_path / "captions.tsv").write_bytes("caf\xe9.png\tun caf\xe9 noir\n".encode("latin-1"))
    (tmp_path / "list").write_bytes("caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"got an invalid byte at offset 3\. Name its encoding, such as --encoding latin-1"):
        captions.find([str(tmp_path)])
    found = captions.find([str(tmp_path / "captions.tsv"), str(tmp_path / "list")], encoding="latin-1")
    assert found.photos[0].captions == ["un caf\xe9 noir"]


def test_photos_are_not_waited_for_at_a_pipe_nor_read_from_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match=r"got a (pipe|device|folder)"):
            captions.Photo(str(path)).read()
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match=r"got a (pipe|device)"):
            captions.find_photos(path)
