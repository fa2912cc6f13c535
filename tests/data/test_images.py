"""Images of every kind come out as RGB, upright; what is no image is named in one line."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from unrolled.data.images import find_images, read_image
from unrolled.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture() -> Image.Image:
    """5 x 3: the upper left corner red, the upper right green, the rest blue."""
    image = Image.new("RGB", (5, 3), BLUE)
    image.putpixel((0, 0), RED)
    image.putpixel((4, 0), GREEN)
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    image = picture().resize((20, 12), Image.Resampling.NEAREST)
    options = {"sizes": [(20, 12)]} if kind == "ICO" else {}
    if kind == "QOI" and "QOI" not in Image.SAVE:
        pytest.skip("this Pillow does not write QOI")
    np.testing.assert_array_equal(pixels(read_image(encoded(image, kind, **options))), np.asarray(image))


@pytest.mark.parametrize(("kind", "needs"), [("JPEG", "jpg"), ("WEBP", "webp"), ("JPEG2000", "jpg_2000"), ("AVIF", "avif")])
def test_photo_formats_give_nearly_their_pixels(kind: str, needs: str) -> None:
    if not features.check(needs):
        pytest.skip(f"this Pillow has no {kind}")
    smooth = Image.linear_gradient("L").convert("RGB")
    difference = np.asarray(smooth).astype(int) - pixels(read_image(encoded(smooth, kind)))
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_the_exif_orientation_is_respected(kind: str, orientation: int) -> None:
    """As the EXIF standard has them: where row 0 and column 0 of the file are in what is to be seen."""
    big = picture().resize((80, 48), Image.Resampling.NEAREST)
    stored = {  # how a camera that wrote this orientation stores the upright picture
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1], 8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](np.asarray(big))  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    file = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    seen = pixels(read_image(file)).astype(int)
    assert seen.shape == (48, 80, 3)
    assert np.abs(seen - np.asarray(big)).max() < 12


def test_damaged_exif_does_not_cost_the_picture() -> None:
    file = encoded(picture(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(pixels(read_image(file)), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_on_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 51))
    file = encoded(image.convert(mode), "TIFF" if mode == "PA" else "PNG")
    assert pixels(read_image(file))[0].tolist() == [[0, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_a_transparent_colour_is_white() -> None:
    file = encoded(picture(), "PNG", transparency=BLUE)
    assert pixels(read_image(file))[:, 0].tolist() == [[*RED], [*WHITE], [*WHITE]]
    palette = encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", transparency=0)
    assert [*WHITE] in pixels(read_image(palette)).reshape(-1, 3).tolist()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "BMP", "TIFF"])
def test_palettes_give_their_colours(kind: str) -> None:
    file = encoded(picture().convert("P", palette=Image.Palette.ADAPTIVE), kind)
    np.testing.assert_array_equal(pixels(read_image(file)), np.asarray(picture()))


def test_grey_and_black_and_white() -> None:
    grey = Image.fromarray(np.array([[0, 7, 255]], dtype=np.uint8))
    assert pixels(read_image(encoded(grey, "PNG")))[0].tolist() == [[0] * 3, [7] * 3, [255] * 3]
    assert pixels(read_image(encoded(grey.convert("1", dither=Image.Dither.NONE), "PNG")))[0].tolist() == [[0] * 3] * 2 + [
        [255] * 3
    ]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_shades(kind: str) -> None:
    shades = Image.fromarray(np.array([[771, 25700, 51400, 255]], dtype=np.uint16))
    assert pixels(read_image(encoded(shades, kind)))[0, :, 0].tolist() == [3, 100, 200, 1]


def test_integers_and_floats_are_scaled_by_their_range() -> None:
    floats = encoded(Image.fromarray(np.array([[-1.0, 0.0, 1.0, np.nan]], dtype=np.float32)), "TIFF")
    assert pixels(read_image(floats))[0, :, 0].tolist() == [0, 128, 255, 128]
    integers = encoded(Image.fromarray(np.array([[-1_000_000, 0, 1_000_000]], dtype=np.int32)), "TIFF")
    assert pixels(read_image(integers))[0, :, 0].tolist() == [0, 128, 255]
    level = encoded(Image.fromarray(np.array([[0.5, 0.5]], dtype=np.float32)), "TIFF")
    assert pixels(read_image(level)).max() == 0


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(mode: str) -> None:
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (16, 16), 255), *[Image.new("L", (16, 16), 128)] * 2])
        assert pixels(read_image(encoded(image, "TIFF"))).mean() > 250  # L = 100 without colour is white
        return
    image = Image.new("RGB", (16, 16), RED).convert(mode)
    assert np.abs(pixels(read_image(encoded(image, "JPEG", quality=100))).astype(int) - RED).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(file)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert pixels(read_image(file)).reshape(-1, 3).tolist() == [[*RED]] * 16


def test_a_single_pixel_and_a_long_line_are_images() -> None:
    assert read_image(encoded(Image.new("RGB", (1, 1), RED), "PNG")).getpixel((0, 0)) == RED
    assert read_image(encoded(Image.new("1", (30_000, 1)), "PNG")).size == (30_000, 1)


def png(width: int, height: int) -> bytes:
    """A valid PNG of a few bytes whose header asks for as many pixels as one likes, without their data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(13_378, 13_378), (60_000, 60_000)])
def test_an_image_bomb_is_refused_before_it_is_unpacked(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"bomb\.png: expected an image of at most 178,956,970 pixels, got .* Make it smaller"):
        read_image(png(*size), name="bomb.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_a_truncated_image_is_named(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = encoded(Image.fromarray(noise), kind)
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / "cut.img"
        path.write_bytes(file[: int(len(file) * share)])
        with pytest.raises(DataError, match=r"cut\.img: expected") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "TGA", "ICO", "SGI", "PCX"])
def test_damage_anywhere_is_an_image_or_an_error_that_names_the_file(kind: str) -> None:
    rng = np.random.default_rng(1)
    file = encoded(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)), kind)
    for _ in range(60):
        damaged = bytearray(file)
        for place in rng.integers(0, min(len(file), 200), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            seen = read_image(bytes(damaged), name="hurt").mode
        except DataError as error:
            seen = str(error).split(" expected")[0]
        assert seen in ("RGB", "hurt:")


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "letter.jpg").write_text("Dear reader")
    for name, text in [
        ("empty.jpg", "an empty file"),
        ("letter.jpg", "11 bytes of another kind"),
        ("gone.jpg", "no such file"),
    ]:
        with pytest.raises(DataError, match=rf"{name}: expected an image, got {text}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match=r"is a directory"):
        read_image(tmp_path)


def test_images_are_found_in_files_and_folders(tmp_path: Path) -> None:
    for name in ["b.PNG", "a.jpg", "in/c.webp", "in/deep/d.tif", "notes.txt", ".hidden.png", "in/.cache/e.png", "odd.name"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path / "odd.name", tmp_path])]
    assert names == ["odd.name", "a.jpg", "b.PNG", "in/c.webp", "in/deep/d.tif"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="none: expected images in this folder, found none"):
        find_images([tmp_path / "none"])
    with pytest.raises(DataError, match=r"nosuch: no such file or folder"):
        find_images([tmp_path / "nosuch"])


def test_an_image_comes_through_a_pipe(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "teal").save(tmp_path / "a.png")
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write((tmp_path / "a.png").read_bytes())
    (path,) = find_images([f"/dev/fd/{reading}"])
    assert read_image(path).size == (3, 2)


@pytest.mark.parametrize(
    ("name", "said"), [("", "got an empty one"), ("/dev/zero", "got a device"), ("a" * 300, "File name too long")]
)
def test_what_cannot_be_an_image_is_refused(name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_images([name])
    with pytest.raises(DataError, match=said):
        read_image(name)
