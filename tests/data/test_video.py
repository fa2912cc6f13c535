"""Video is sampled by the times of its frames, from files, folders and archives; what is no whole video is named."""

import io
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from unrolled import encoders
from unrolled.data import video
from unrolled.data.features import FeatureCache
from unrolled.data.sources import Source
from unrolled.errors import DataError

CODECS = {"a.mp4": ("libx264", "yuv420p"), "a.webm": ("libvpx", "yuv420p"), "a.avi": ("mjpeg", "yuvj420p")}
FORMS = {**CODECS, "a.mkv": CODECS["a.mp4"]}


def grey(value: int, width: int = 48, height: int = 32) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def write(path: Path, times: list[int], noise: float = 0.0) -> None:
    """A video whose frame n, of brightness 20 * n, begins at times[n] milliseconds."""
    codec, form = FORMS["a" + path.suffix]
    drawn = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=20 if path.suffix == ".avi" else 1000)
        stream.width, stream.height, stream.pix_fmt = 48, 32, form  # type: ignore[attr-defined]
        base = Fraction(1, 20) if path.suffix == ".avi" else Fraction(1, 1000)
        stream.time_base = stream.codec_context.time_base = base
        for n, time in enumerate(times):
            pixels = np.full((32, 48, 3), 20 * n) + noise * drawn.normal(size=(32, 48, 3))
            frame = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), format="rgb24").reformat(format=form)
            frame.pts, frame.time_base = round(time / 1000 / base), base
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]


def shown(path: Path, rate: float) -> list[int]:
    """Which frame is shown at each step."""
    return [round(float(np.asarray(frame.picture).mean()) / 20) for frame in video.frames(Source(str(path)), rate)]


@pytest.mark.parametrize("name", CODECS)
def test_frames_of_varying_length_are_sampled_by_their_times(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [0, 100, 150, 400, 450, 900, 1000])
    frames = list(video.frames(Source(str(tmp_path / name)), 5))
    assert [frame.time for frame in frames[:6]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert shown(tmp_path / name, 5)[:6] == [0, 2, 3, 4, 4, 6]


def test_an_animation_is_a_video(tmp_path: Path) -> None:
    pictures = [grey(60 * n) for n in range(4)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100, 100])
    assert [round(n / 3) for n in shown(tmp_path / "a.gif", 10)[:5]] == [0, 1, 1, 1, 2]


def test_one_frame_is_one_step(tmp_path: Path) -> None:
    assert [frame.time for frame in video.sampled(iter([(Fraction(3), Fraction(3), _Still())]), 4, "a.avi")] == [0]


class _Still:
    rotation = 0

    def to_image(self) -> Image.Image:
        return grey(7)


def test_a_frame_that_is_turned_stands_upright() -> None:
    class Turned(_Still):
        rotation = 90

    assert video._picture(Turned()).size == (32, 48)


def test_folders_and_archives_of_frames_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(11):
        grey(20 * n).save(folder / f"frame{n}.png")
    (folder / "notes.txt").write_text("no frame")
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        archive.add(folder, "frames")
    for path in (folder, tmp_path / "frames.tar"):
        assert shown(path, 4) == list(range(11))
    assert video.read(Source(str(folder)), 4, 8).inputs.shape == (11, 8, 8, 3)
    assert video.read(Source(str(folder)), 4, 8).times.tolist() == [n / 4 for n in range(11)]  # type: ignore[union-attr]


def test_videos_in_folders_are_found_and_a_folder_of_frames_is_one(tmp_path: Path) -> None:
    (tmp_path / "b" / "frames").mkdir(parents=True)
    grey(1).save(tmp_path / "b" / "frames" / "1.png")
    write(tmp_path / "a.avi", [0])
    (tmp_path / "labels.csv").write_text("file,label\n")
    found = video.find(str(tmp_path))
    assert [one.path for one in found] == [str(tmp_path / "a.avi"), str(tmp_path / "b" / "frames")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected videos"):
        video.find(str(tmp_path / "empty"))


def test_features_are_the_encoders_and_come_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.avi", [0, 50, 100, 150])
    encoder = encoders.load("small", 16)
    cache = FeatureCache(encoder.pooled(), tmp_path / "cache")
    source = Source(str(tmp_path / "a.avi"))
    found = video.features(source, 20, cache)
    assert found.inputs.shape == (4, 64)
    pixels = [encoder.pixels(frame.picture) for frame in video.frames(source, 20)]
    expected = encoder(pixels[3].unsqueeze(0)).mean(1).half().float()
    np.testing.assert_array_equal(found.inputs[3], expected[0].detach().numpy())
    monkeypatch.setattr(cache, "_compute", lambda pixels: pytest.fail("computed twice"))
    np.testing.assert_array_equal(video.features(source, 20, cache).inputs, found.inputs)


def test_what_comes_through_a_pipe_is_read_as_from_a_file(tmp_path: Path) -> None:
    for name in CODECS:
        write(tmp_path / name, [0, 100, 150, 400])
    grey(60).save(tmp_path / "a.gif")
    folder = tmp_path / "frames"
    folder.mkdir()
    grey(20).save(folder / "1.png")
    with tarfile.open(tmp_path / "frames.tar", "w") as archive:
        archive.add(folder, "frames")
    for name in (*CODECS, "a.gif", "frames.tar"):
        file = Source(str(tmp_path / name))
        piped = Source("standard input", (tmp_path / name).read_bytes())
        np.testing.assert_array_equal(video.read(piped, 5, 8).inputs, video.read(file, 5, 8).inputs)


def test_a_video_whose_clock_does_not_begin_at_zero_is_whole(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.mp4"):
        write(tmp_path / name, [5000, 5100, 5200])
        assert shown(tmp_path / name, 10) == [0, 1, 2]


def test_a_gap_of_hours_in_the_times_of_frames_is_named_and_fills_no_memory(tmp_path: Path) -> None:
    write(tmp_path / "a.mkv", [0, 100, 200, 10**9])
    assert "expected frames that are shown for an hour at most, got 1,000,000 s without a new one" in problem_of(
        tmp_path / "a.mkv"
    )
    endless = iter([(Fraction(0), Fraction(10**6), _Still())])
    with pytest.raises(DataError, match="an hour at most"):
        list(video.sampled(endless, 4, "a.avi"))


def problem_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(video.frames(Source(str(path)), 10))
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", CODECS)
def test_a_video_that_is_cut_short_is_named_with_the_time_of_the_cut(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [100 * n for n in range(40)], noise=40)
    content = (tmp_path / name).read_bytes()
    (tmp_path / f"cut_{name}").write_bytes(content[: len(content) * 6 // 10])
    text = problem_of(tmp_path / f"cut_{name}")
    assert "whole video" in text or "cut short" in text


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.gif"])
def test_a_video_that_is_cut_in_the_middle_of_its_last_frame_is_named(tmp_path: Path, name: str) -> None:
    if name == "a.gif":
        noise = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3)).astype(np.uint8)
        pictures = list(map(Image.fromarray, noise))
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100)
    else:
        write(tmp_path / name, [100 * n for n in range(5)], noise=40)
    content = (tmp_path / name).read_bytes()
    behind = len(content) - content.rindex(b"idx1") if name == "a.avi" else 0  # the index, after the frames
    assert len(list(video.frames(Source(str(tmp_path / name)), 10))) == 5
    for missing in (1, 40, 300):
        (tmp_path / f"cut_{name}").write_bytes(content[: len(content) - behind - missing])
        assert "cut short after 0." in problem_of(tmp_path / f"cut_{name}")


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "sound.wav", np.zeros(800), 8000)
    assert "expected a video stream, got a file of audio only" in problem_of(tmp_path / "sound.wav")
    (tmp_path / "text.mp4").write_text("hello")
    assert "expected a whole video, got one that cannot be read" in problem_of(tmp_path / "text.mp4")
    assert "No such file" in problem_of(tmp_path / "nothing.mp4")
    with tarfile.open(tmp_path / "no.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    assert "expected an archive of frames" in problem_of(tmp_path / "no.tar")
    (tmp_path / "bad.tar").write_text("hello")
    assert "cannot be read as a tar archive" in problem_of(tmp_path / "bad.tar")
