"""`unrolled paint`: what it writes, every kind of picture, and refusals before any work."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unrolled import memory
from unrolled.strokes import Painting
from unrolled.strokes.painting import as_image
from unrolled.tasks.painting import pictures
from unrolled.tasks.painting.task import SHIPPED, Run


def test_it_writes_the_painting_its_strokes_and_how_it_grows(command, painter_run: Path, photo: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"x.{name}" for name in ("svg", "json", "film")} | {"film": tmp_path / "x.gif"}
    code, out, errors = command(
        "paint", photo, "--run", painter_run, "--strokes", "30", "--size", "96",
        *[word for name, file in files.items() for word in (f"--{name}", file)],
    )  # fmt: skip
    assert (code, errors) == (0, "")
    painted = tmp_path / "photo-painted.png"
    assert out == f"{painted}\n"
    with Image.open(painted) as image, Image.open(files["film"]) as film:
        assert image.size == (96, 64)
        assert film.size == (96, 64)
        assert film.n_frames > 2  # type: ignore[attr-defined]
        shown = np.asarray(image)
    saved = Painting.load(files["json"])
    assert 0 < len(saved.strokes.opacity) <= 30
    assert files["svg"].read_text().count("<path") == len(saved.strokes.opacity)
    again = np.asarray(saved.image(96))
    assert np.abs(shown.astype(int) - again).mean() < 1  # JSON rounds


def test_the_first_sight_comes_before_the_painting_is_done(command, painter_run: Path, photo: Path, monkeypatch) -> None:
    seen: list[float] = []
    add, finish = pictures.Growing.add, pictures.Growing.finish

    def bare_share() -> float:
        with Image.open(photo.with_name("photo-painted.png")) as image:
            shown = np.asarray(image)
        return float((shown == shown[0, 0]).all(-1).mean())

    def add_and_see(self, piece) -> None:
        add(self, piece)
        seen.append(bare_share())

    def finish_and_see(self, painting) -> None:
        finish(self, painting)
        seen.append(bare_share())

    monkeypatch.setattr(pictures.Growing, "add", add_and_see)
    monkeypatch.setattr(pictures.Growing, "finish", finish_and_see)
    assert command("paint", photo, "--run", painter_run, "--strokes", "40", "--size", "60")[0] == 0
    assert len(seen) > 2
    assert seen[0] > seen[-1]


def test_optimising_comes_closer(command, painter_run: Path, photo: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("unrolled.tasks.painting.task.STEPS", 10)
    for name, more in (("plain", ()), ("closer", ("--optimise",))):
        words = ("--run", painter_run, "--strokes", "20", "--size", "48", "--json", tmp_path / f"{name}.json", *more)
        assert command("paint", photo, *words)[0] == 0
    target = pictures.pixels(photo)
    plain, closer = (pictures.error(Painting.load(tmp_path / f"{name}.json"), target) for name in ("plain", "closer"))
    assert closer < plain


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (1, 1), "red"),
        Image.new("RGB", (30, 20), "red"),
        Image.new("L", (30, 20), 90),
        Image.new("RGBA", (30, 20), (255, 0, 0, 128)),
        Image.new("CMYK", (30, 20), (0, 200, 200, 0)),
        Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)),
    ],
    ids=["1px", "one-colour", "grey", "alpha", "cmyk", "16-bit"],
)  # fmt: skip
def test_every_kind_of_picture_is_painted_in_its_shape(command, painter_run: Path, tmp_path: Path, image: Image.Image) -> None:
    path = tmp_path / f"a.{'tif' if image.mode == 'CMYK' else 'png'}"
    image.save(path)
    code, out, errors = command("paint", path, "--run", painter_run, "--strokes", "8", "--size", "60", "-o", tmp_path / "b.jpg")
    assert (code, errors) == (0, "")
    assert out == f"{tmp_path / 'b.jpg'}\n"
    with Image.open(tmp_path / "b.jpg") as painted:
        assert painted.size == (60, max(1, round(60 * image.height / image.width)))
        expected = np.asarray(as_image(pictures.pixels(path))).mean((0, 1))
        assert np.abs(np.asarray(painted).mean((0, 1)) - expected).max() < 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strokes", "0"], "--strokes"),
        (["--strokes", "1000001"], "--strokes"),
        (["--size", "0"], "--size"),
        (["--size", "20000"], "100,000,000 pixels"),
        (["--style", "oil"], "--style"),
        (["-o", "missing/x.png"], "there is no folder missing"),
        (["--svg", "missing/x.svg"], "there is no folder missing"),
        (["-o", "x.bmp"], "expected a name that ends in .png"),
        (["--film", "x.avi"], "expected a name that ends in .gif or .mp4"),
        (["--run", "missing"], "no such run folder"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(
    command, painter_run: Path, photo: Path, words: list[str], said: str
) -> None:
    words = words if "--run" in words else [*words, "--run", str(painter_run)]
    code, out, errors = command("paint", photo, *words)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert said in errors
    assert not list(photo.parent.glob("*-painted.*"))


@pytest.mark.parametrize("option", ["--output", "--film"])
def test_the_photo_itself_is_never_overwritten(command, painter_run: Path, tmp_path: Path, option: str) -> None:
    file = tmp_path / ("photo.png" if option == "--output" else "photo.gif")
    Image.new("RGB", (8, 6), "red").save(file)
    before = file.read_bytes()
    code, out, errors = command("paint", file, "--run", painter_run, option, f"{tmp_path}/../{tmp_path.name}/{file.name}")
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "the photo itself" in errors
    assert file.read_bytes() == before


def test_a_film_that_cannot_be_written_is_refused_before_any_work(command, painter_run: Path, photo: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, out, errors = command("paint", photo, "--run", painter_run, "--film", photo.with_name("x.mp4"))
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert "needs the package av" in errors
    assert not list(photo.parent.glob("*-painted.*"))


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_is_no_picture_is_named(command, painter_run: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    for name in ("a.jpg", "missing.jpg"):
        code, out, errors = command("paint", tmp_path / name, "--run", painter_run)
        assert (code, out, errors.count("\n")) == (2, "", 1)
        assert name in errors


def test_pictures_beyond_the_limit_are_refused(command, painter_run: Path, tmp_path: Path) -> None:
    Image.new("1", (18_000, 10_000)).save(tmp_path / "huge.png")
    code, _, errors = command("paint", tmp_path / "huge.png", "--run", painter_run)
    assert (code, errors.count("\n")) == (2, 1)
    assert "at most 178,956,970 pixels" in errors


def test_a_size_beyond_memory_is_refused(command, painter_run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "capacity", lambda device: 100_000_000)
    code, _, errors = command("paint", photo, "--run", painter_run, "--size", "4000")
    assert (code, errors.count("\n")) == (2, 1)
    assert re.search(r"size: a painting of 4,000 x 2,667 pixels takes 0\.7 GB of memory, and this machine has 0\.1 GB", errors)


def test_a_painting_takes_no_more_memory_than_said(painter_run: Path, photo: Path) -> None:
    import unrolled

    painting = unrolled.load(painter_run).paint(photo, 10)
    with memory.LiveBytes() as counted:
        painting.render(2400)
    assert counted.peak < pictures.BYTES_A_PIXEL * 2400 * 1600


def test_the_painter_that_ships_paints_at_once(command, photo: Path) -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4_000_000
    code, _, errors = command("paint", photo, "--strokes", "300", "--size", "64")
    assert (code, errors) == (0, "")
    with Image.open(photo.with_name("photo-painted.png")) as painted, Image.open(photo) as wanted:
        there, asked = (np.asarray(one.convert("RGB").resize((60, 40)), float) for one in (painted, wanted))
    assert ((there - asked) ** 2).mean() < 0.1 * asked.var((0, 1)).mean()


def test_inspect_steps_shows_the_painting_and_how_it_grows(command, painter_run: Path, photo: Path, monkeypatch) -> None:
    paint = Run.paint
    monkeypatch.setattr(Run, "paint", lambda self, picture: paint(self, picture, 20))
    code, out, errors = command("inspect", "steps", painter_run, photo, "--show", photo.parent / "new" / "steps")
    assert (code, errors) == (0, "")
    painted, growing = map(Path, out.splitlines())
    with Image.open(painted) as image, Image.open(growing) as film:
        assert image.size == (512, 341)
        assert film.n_frames > 2  # type: ignore[attr-defined]
    code, _, errors = command("inspect", "steps", painter_run)
    assert code == 2
    assert errors.startswith("error: expected photos to paint, got none")
