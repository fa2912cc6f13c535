"""Images and their classes from every form, the same numbers from each; what cannot be used is named in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unrolled.data.labelled_images import read
from unrolled.errors import DataError

chance = np.random.default_rng(0)
PIXELS = chance.integers(0, 256, (6, 5, 4), dtype=np.uint8)
CLASSES = ["10", "9", "9", "cat", "10", "cat"]


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def folder_of_classes(folder: Path) -> Path:
    for number, (pixels, name) in enumerate(zip(PIXELS, CLASSES, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_folders_are_classes_numbers_in_their_order(tmp_path: Path) -> None:
    found = read([folder_of_classes(tmp_path / "all")])
    assert found.classes == ["9", "10", "cat"]
    order = [0, 4, 1, 2, 3, 5]  # sorted by name: 10, 9, cat
    np.testing.assert_array_equal(found.images, PIXELS[order][:, None])
    assert found.labels.tolist() == [1, 1, 0, 0, 2, 2]


def test_images_directly_in_a_folder_have_no_class(tmp_path: Path) -> None:
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    found = read([tmp_path])
    np.testing.assert_array_equal(found.images, PIXELS[:, None])
    assert (found.classes, found.labels.tolist()) == ([], [0] * 6)
    np.testing.assert_array_equal(read([tmp_path / "3.png", tmp_path / "1.png"]).images, PIXELS[[3, 1]][:, None])


@pytest.mark.parametrize("form", ["npz", "npz x y", "floats", "idx", "idx.gz", "folder of idx"])
def test_arrays_and_idx_files_give_the_same(tmp_path: Path, form: str) -> None:
    labels = np.array([3, 1, 1, 0, 3, 0])
    if form.startswith("idx") or form == "folder of idx":
        end = ".gz" if form == "idx.gz" else ""
        for name, array in (("train-images-idx3-ubyte", PIXELS), ("train-labels-idx1-ubyte", labels)):
            content = idx(array)
            (tmp_path / f"{name}{end}").write_bytes(gzip.compress(content) if end else content)
        path = tmp_path if form == "folder of idx" else tmp_path / f"train-images-idx3-ubyte{end}"
    else:
        path = tmp_path / "a.npz"
        names = ("x", "y") if form == "npz x y" else ("images", "labels")
        np.savez(path, **{names[0]: PIXELS / 255 if form == "floats" else PIXELS, names[1]: labels})
    found = read([path])
    np.testing.assert_array_equal(found.images, PIXELS[:, None])
    assert (found.classes, found.labels.tolist()) == (["0", "1", "3"], [2, 1, 1, 0, 2, 0])


def test_idx_files_of_labels_that_are_named_are_those_of_the_images_in_their_order(tmp_path: Path) -> None:
    images, labels = [tmp_path / f"{part}.idx3-ubyte" for part in "ab"], [tmp_path / f"{part}.idx1-ubyte" for part in "cd"]
    for number in range(2):
        images[number].write_bytes(idx(PIXELS[3 * number :][:3]))
        labels[number].write_bytes(idx(np.arange(3) + number))
    for order in ([*images, *labels], [images[0], labels[0], labels[1], images[1]]):
        found = read(order)
        np.testing.assert_array_equal(found.images, PIXELS[:, None])
        assert found.labels.tolist() == [0, 1, 2, 1, 2, 3]
    for too_many in ([labels[0]], [images[0], *labels]):
        with pytest.raises(DataError, match=r"c\.idx1-ubyte: expected an IDX file of images for each one of labels, got"):
            read(too_many)


def test_colour_becomes_grey_grey_colour_and_what_is_transparent_white(tmp_path: Path) -> None:
    colours = np.zeros((1, 2, 2, 4), np.uint8)
    colours[0, 0, 0] = [255, 0, 0, 255]
    colours[0, 1, 1] = [0, 0, 255, 0]
    np.savez(tmp_path / "a.npz", images=colours)
    Image.fromarray(colours[0]).save(tmp_path / "a.png")
    for name in ("a.npz", "a.png"):
        assert read([tmp_path / name]).images.tolist() == [[[[76, 255], [255, 255]]]]
        found = read([tmp_path / name], colour=True).images
        assert found.shape == (1, 3, 2, 2)
        assert found[0, :, 0, 0].tolist() == [255, 0, 0]
    np.savez(tmp_path / "grey.npz", images=PIXELS)
    np.testing.assert_array_equal(read([tmp_path / "grey.npz"], colour=True).images, np.stack([PIXELS] * 3, 1))


def test_different_sizes_are_refused_unless_they_are_resized(tmp_path: Path) -> None:
    Image.new("L", (4, 5)).save(tmp_path / "a.png")
    Image.new("L", (4, 6), 255).save(tmp_path / "b.png")
    with pytest.raises(
        DataError, match=r"b\.png: expected images of one size, 5 x 4 as .*a\.png, got 6 x 4\. Training with --size"
    ):
        read([tmp_path])
    found = read([tmp_path], size=3).images
    assert found.shape == (2, 1, 3, 3)
    assert (found[0].max(), found[1].min()) == (0, 255)


def test_the_given_classes_number_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS[:2], labels=["b", "a"])
    assert read([tmp_path / "a.npz"], classes=["b", "c", "a"]).labels.tolist() == [0, 2]
    with pytest.raises(DataError, match="expected the classes b, c, got a, too"):
        read([tmp_path / "a.npz"], classes=["b", "c"])


def test_a_damaged_image_of_a_folder_is_left_out_and_said(tmp_path: Path) -> None:
    folder = folder_of_classes(tmp_path / "all")
    (folder / "cat" / "3.png").write_bytes(b"not an image")
    said: list[str] = []
    found = read([folder], say=said.append)
    assert (len(found.images), found.labels.tolist()) == (5, [1, 1, 0, 0, 2])
    assert said[0].startswith(f"left out 1 of 6 images: {folder / 'cat' / '3.png'}: expected an image")


def arrays(**several: np.ndarray):
    return lambda folder: np.savez(folder / "a.npz", **several)


MISTAKES = {
    "a.npz: cannot be read as a NumPy file of numbers": lambda folder: (folder / "a.npz").write_bytes(b"PK\3\4 cut"),
    "(it has Python objects, or is something else)": lambda folder: (folder / "a.npz").write_bytes(b"no arrays"),
    "a.npz: no such file or folder": lambda folder: None,
    "expected an array images (or x), got pictures": arrays(pictures=PIXELS),
    "(N, height, width, 1, 3 or 4 channels), got (6, 20)": arrays(images=PIXELS.reshape(6, 20)),
    "got (0, 5, 4).": arrays(images=PIXELS[:0]),
    "expected 6 labels, numbers or names, got int64 of shape (5,)": arrays(images=PIXELS, labels=np.zeros(5, np.int64)),
    "floats from 0 to 1, got 0.0 to 255.0. Scale them, or give bytes": arrays(images=np.array([[[0.0, 255.0]]])),
    "got numbers that are not finite": arrays(images=np.full((2, 3, 3), np.nan)),
    "bytes, 0 to 255, or of floats from 0 to 1, got int64, -300 to -": arrays(images=PIXELS.astype(np.int64) - 300),
    "bytes, 0 to 255, or of floats from 0 to 1, got uint16, 0 to 40,000": arrays(images=np.array([[[0, 40000]]], np.uint16)),
    "bytes, 0 to 255, or of floats from 0 to 1, got complex128": arrays(images=PIXELS.astype(complex)),
    "expected images of at most 256 x 256 pixels, got 300 x 4. Training with --size": arrays(
        images=np.zeros((2, 300, 4), np.uint8)
    ),
}


@pytest.mark.parametrize("expected", MISTAKES)
def test_arrays_that_cannot_be_used_are_named(tmp_path: Path, expected: str) -> None:
    MISTAKES[expected](tmp_path)
    with pytest.raises(DataError) as error:
        read([tmp_path / "a.npz"])
    assert expected in str(error.value)
    assert str(tmp_path / "a.npz") in str(error.value)
    assert "\n" not in str(error.value)


def test_images_beside_class_folders_and_classes_beside_none_are_refused(tmp_path: Path) -> None:
    folder = folder_of_classes(tmp_path / "all")
    np.savez(tmp_path / "a.npz", images=PIXELS)
    with pytest.raises(DataError, match=r"a\.npz: expected images with classes, as in .*all, got images without"):
        read([folder, tmp_path / "a.npz"])
    Image.fromarray(PIXELS[0]).save(folder / "lost.png")
    with pytest.raises(DataError, match=r"got both: .*lost\.png is in no class"):
        read([folder])


def test_idx_files_that_are_damaged_or_too_many_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(idx(PIXELS)[:-3])
    with pytest.raises(DataError, match=r"expected 120 bytes \(6 x 5 x 4\) behind its head, got 117"):
        read([path])
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match="expected an IDX file of bytes in 3 dimensions"):
        read([path])
    path.write_bytes(idx(PIXELS))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    with pytest.raises(DataError, match=r"idx1-ubyte: expected 6 labels, as .*idx3-ubyte has images, got 5"):
        read([path])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    with pytest.raises(DataError, match=r"expected one IDX file of images, got .*Name one of them"):
        read([tmp_path])
