"""Video is labelled while it arrives, with the labels of the whole file."""

import io
import os
import sys
import threading
import types
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import click.testing
import numpy as np
import pytest
import torch
from tests.tolerance import assert_same

from unrolled import tasks
from unrolled.cli import cli
from unrolled.data import live_video
from unrolled.errors import DataError

RATE = 10


def video(frames: int, form: str = "matroska", options: dict[str, str] | None = None) -> bytes:
    """A bright square that moves over noise, 25 frames a second."""
    drawn, file = np.random.default_rng(0), io.BytesIO()
    with av.open(file, "w", format=form, options=options or {}) as container:
        stream = container.add_stream("mjpeg" if form == "matroska" else "libx264", rate=25)
        stream.width, stream.height = 32, 24  # type: ignore[attr-defined]
        stream.pix_fmt = "yuvj420p" if form == "matroska" else "yuv420p"  # type: ignore[attr-defined]
        for n in range(frames):
            pixels = drawn.integers(0, 90, (24, 32, 3)).astype(np.uint8)
            pixels[8:16, n % 24 : n % 24 + 8] = 220
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return file.getvalue()


@pytest.fixture(scope="module", params=["none", "small"])
def run(request, tmp_path_factory):
    """Read through the small CNN that learns, and through an encoder that is kept."""
    folder = tmp_path_factory.mktemp("video")
    for name in ("left", "right"):
        (folder / "videos" / name).mkdir(parents=True)
        (folder / "videos" / name / "1.mkv").write_bytes(video(12))
    (folder / "whole.mkv").write_bytes(video(60))
    (folder / "labels.csv").write_text("whole.mkv,0,1,a\nwhole.mkv,1,2.3,b\n")
    settings = {"frame_size": 16, "hidden_size": 8, "front_size": 8, "max_steps": 2, "frames_per_second": RATE}
    tasks.train(
        "labelling",
        [str(folder / "labels.csv")],
        run=folder / "run",
        bidirectional=False,
        encoder=request.param,
        validation_fraction=0,
        **settings,
    )
    return tasks.load(folder / "run")


def offline(run, path: Path):
    return next(iter(run.label(str(path))))


def live(run, path: str, form: str | None = None) -> list:
    return list(run.follow(one.inputs for one in run.arriving(path, form)))


def assert_alike(found: list, whole) -> None:
    assert [one.labels for one in found] == whole.labels
    assert_same(torch.tensor(np.stack([one.probabilities for one in found])), torch.tensor(whole.probabilities))


def test_a_pipe_is_labelled_as_the_file(run, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run.folder.parent / "whole.mkv"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    whole = offline(run, path)
    assert len(whole.labels) == 24
    assert_alike(live(run, "-"), whole)


def test_a_file_that_grows_is_waited_for_until_it_is_interrupted(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, path = (run.folder.parent / "whole.mkv").read_bytes(), tmp_path / "growing.mkv"
    path.write_bytes(content[:1000])
    rest = [content[n : n + 9000] for n in range(1000, len(content), 9000)]

    def wait(seconds: float) -> None:
        if not rest:
            raise KeyboardInterrupt
        with open(path, "ab") as file:
            file.write(rest.pop(0))

    monkeypatch.setattr(live_video.time, "sleep", wait)
    found = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for one in run.arriving(str(path)):
            found.append(one.inputs)
    assert_alike(list(run.follow(found)), offline(run, run.folder.parent / "whole.mkv"))


def test_a_label_comes_before_the_next_frames_are_there(run, tmp_path: Path) -> None:
    content, path = video(400), tmp_path / "fifo.mkv"
    os.mkfifo(path)
    first = threading.Event()

    def write() -> None:
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            assert first.wait(30)
            file.write(content[len(content) // 2 :])

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    count = 0
    for _ in run.arriving(str(path)):
        first.set()
        count += 1
    writer.join(30)
    assert count == 400 * RATE // 25


def test_the_command_prints_what_it_prints_for_the_file_and_then_the_latency(run) -> None:
    path = run.folder.parent / "whole.mkv"
    arguments = ["label", str(run.folder)]
    whole = click.testing.CliRunner().invoke(cli, [*arguments, str(path)])
    found = click.testing.CliRunner().invoke(cli, [*arguments, "--follow"], input=path.read_bytes())
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [line.split(",", 1)[1] for line in whole.stdout.splitlines()]
    assert found.stderr.startswith("24 steps; latency from arrival to label: median ")


def test_a_device_of_ffmpeg_is_followed_by_its_name(run) -> None:
    source = "testsrc=size=32x24:rate=25:duration=2"
    assert len(live(run, source, "lavfi")) == 2 * RATE


def test_damaged_frames_of_a_stream_are_left_out(tmp_path: Path) -> None:
    content = bytearray(video(50, "mpegts"))
    for start in range(len(content) // 3, len(content) // 3 + 2000, 188):
        content[start + 10 : start + 180] = bytes(170)
    (tmp_path / "damaged.ts").write_bytes(content)
    with open(tmp_path / "damaged.ts", "rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", types.SimpleNamespace(buffer=file))
        found = list(live_video.arriving("-", RATE, np.asarray))
    assert len(found) == 50 * RATE // 25


@pytest.mark.parametrize(
    ("path", "form", "message"),
    [
        ("/dev/video_that_is_not_there", None, "video_that_is_not_there: "),
        ("nothing.mkv", None, r"nothing.mkv: cannot be read \(No such file or directory\)"),
        (
            "nothing",
            "nonsense",
            "nothing: expected a format or device that PyAV has here, got nonsense. --format names another",
        ),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(path: str, form: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(live_video.arriving(path, RATE, np.asarray, form))
    assert "\n" not in str(caught.value)


def test_what_is_no_stream_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(content: bytes) -> str:
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        with pytest.raises(DataError) as caught:
            list(live_video.arriving("-", RATE, np.asarray))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "expected video that can be read from its beginning on" in read(b"hello")
    assert "expected video that can be read from its beginning on" in read(b"")
    assert "label it without --follow" in read(video(200, "mp4"))  # its index is at its end
    path = tmp_path / "a.mkv"
    path.write_bytes(video(20))
    monkeypatch.setattr(live_video.time, "sleep", lambda seconds: path.write_bytes(b""))
    with pytest.raises(DataError, match="has become shorter"):
        list(live_video.arriving(str(path), RATE, np.asarray))


def test_a_camera_that_sends_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_video, "SILENCE", 0.2)
    with pytest.raises(DataError, match=r"nothing has come for 0.2 s. Start again when it sends"):
        list(live_video.arriving("udp://127.0.0.1:0", RATE, np.asarray))


def test_a_format_is_for_video_alone(run, command: Callable, csv: Path, trained: Callable) -> None:
    code, _, error = command("label", run.folder, "a.mkv", "--format", "v4l2")
    assert (code, "expected --follow beside it" in error) == (2, True)
    numbers = trained(csv, bidirectional=False)
    code, _, error = command("label", numbers.folder, "-", "--follow", "--format", "v4l2")
    assert code == 2
    assert "expected none for a run of numbers, got v4l2" in error
