"""Animations: as many frames as pictures, their times, and what cannot be written."""

from pathlib import Path

import pytest
from PIL import Image

from unrolled.errors import DataError
from unrolled.inspection import animation

PICTURES = [Image.new("RGB", (35, 21), colour) for colour in ("black", "red", "white")]


def test_a_gif_shows_every_picture_the_last_one_longer_and_begins_anew(tmp_path: Path) -> None:
    path = animation.write(tmp_path / "new" / "a.gif", PICTURES, seconds=0.2)
    with Image.open(path) as found:
        assert (found.n_frames, found.size, found.info["loop"]) == (3, (35, 21), 0)  # type: ignore[attr-defined]
        times = []
        for number in range(3):
            found.seek(number)
            times.append(found.info["duration"])
            assert found.convert("RGB").getpixel((3, 3)) == PICTURES[number].getpixel((3, 3))
    assert times == [200, 200, 1700]


def test_an_mp4_of_odd_sides_can_be_read_and_has_their_times(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = animation.write(tmp_path / "a.mp4", PICTURES, seconds=0.2)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time, 3) for frame in frames] == [0.0, 0.2, 0.4, 2.1]
    assert (frames[0].width, frames[0].height) == (36, 22)
    assert frames[1].to_ndarray(format="rgb24")[5, 5].tolist() == pytest.approx([255, 0, 0], abs=12)


@pytest.mark.parametrize(("name", "pictures", "expected"), [("a.gif", [], "got none"), ("a.webp", PICTURES, "got .webp")])
def test_what_cannot_be_written_is_said(tmp_path: Path, name: str, pictures: list, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        animation.write(tmp_path / name, pictures)
    assert not (tmp_path / name).exists()
