"""Recordings, videos and pictures are learned from and labelled, whichever way their labels are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tests.tolerance import assert_same

from unrolled import tasks
from unrolled.data.features import FeatureCache
from unrolled.data.sources import Source
from unrolled.data.video import frames
from unrolled.errors import ConfigError, DataError
from unrolled.tasks.labelling import read as read_module
from unrolled.tasks.labelling.config import Config
from unrolled.tasks.labelling.data import Encoding
from unrolled.tasks.labelling.model import Images, Labeller
from unrolled.tasks.labelling.read import kind_of, look_of, read

SETTINGS = {
    "hidden_size": 8,
    "front_size": 8,
    "batch_size": 4,
    "max_steps": 40,
    "warmup_steps": 4,
    "learning_rate": 2e-2,
    "dropout": 0.0,
    "evaluate_every": 20,
    "sample_every": 20,
    "save_every": 20,
}


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """low/ and high/, with tones of differing lengths."""
    for name, hertz in (("low", 300), ("high", 2000)):
        (tmp_path / "tones" / name).mkdir(parents=True)
        for n in range(4):
            time = np.arange(1000 + 300 * n) / 8000
            soundfile.write(tmp_path / "tones" / name / f"{n}.wav", 0.3 * np.sin(2 * np.pi * hertz * time), 8000)
    return tmp_path / "tones"


def test_recordings_in_folders_are_told_apart(recordings: Path, tmp_path: Path, command: Callable) -> None:
    settings = {**SETTINGS, "per": "sequence", "sampling_rate": 8000, "mel_bands": 12}
    tasks.train("labelling", [str(recordings)], validation=[str(recordings)], run=tmp_path / "run", **settings)
    code, output, _ = command("label", tmp_path / "run", recordings / "low" / "0.wav", recordings / "high" / "1.wav")
    assert code == 0
    assert [line.split(",")[1] for line in output.splitlines()] == ["label", "low", "high"]
    run = tasks.load(tmp_path / "run")
    assert run.evaluate(recordings)["accuracy"] == 1  # type: ignore[attr-defined]


def test_a_table_of_segments_labels_steps_and_its_steps_have_times(recordings: Path) -> None:
    (recordings / "all.csv").write_text("low/3.wav,0,0.1,a\nlow/3.wav,0.1,0.2,b\nhigh/3.wav,0.05,0.1,b\n")
    config = Config(sampling_rate=8000)
    paths = [str(recordings / "all.csv")]
    assert kind_of(config, paths) == "audio"
    first, second = read(config, "audio", paths)
    assert first.labels == ["a"] * 10 + ["b"] * 10 + [""] * 4
    assert second.labels[4:7] == ["", "b", "b"]
    assert first.times is not None
    parts = list(read(Config(sampling_rate=8000, per="sequence"), "audio", paths))
    assert [(part.labels, len(part)) for part in parts] == [("a", 10), ("b", 10), ("b", 5)]


def test_silence_alone_teaches_nothing(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "quiet" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "quiet" / name / "1.wav", np.zeros(800), 8000)
    with pytest.raises(DataError, match="expected sound, got 2 recordings of silence"):
        tasks.train("labelling", [str(tmp_path / "quiet")], run=tmp_path / "run", **SETTINGS, per="sequence")


def test_folders_of_frames_are_videos_that_a_small_cnn_learns(tmp_path: Path) -> None:
    for name, column in (("left", 2), ("right", 10)):
        for n in range(3):
            folder = tmp_path / "videos" / name / str(n)
            folder.mkdir(parents=True)
            for step in range(2 + n):
                pixels = np.zeros((16, 16, 3), np.uint8)
                pixels[4 + n : 8 + n, column : column + 4] = 200
                Image.fromarray(pixels).save(folder / f"{step}.png")
    settings = {**SETTINGS, "per": "sequence", "frame_size": 16, "validation_fraction": 0}
    tasks.train("labelling", [str(tmp_path / "videos")], run=tmp_path / "run", **settings)
    run = tasks.load(tmp_path / "run")
    labelled = run.label(str(tmp_path / "videos" / "right" / "1"))  # type: ignore[attr-defined]
    assert [one.labels for one in labelled] == ["right"]


def test_pictures_in_arrays_keep_their_shape_and_steps_without_a_label_are_left_out(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(20, 3, (7, 6, 8)).astype(np.float16)
    np.savez(tmp_path / "a.npz", celsius=pictures, label=np.array(["none", *"abcabc"]))
    (sequence,) = read(Config(), "numbers", [str(tmp_path / "a.npz")])
    assert sequence.inputs.shape == (7, 6, 8, 1)
    settings = {**SETTINGS, "max_steps": 2, "unlabelled": "none", "validation_fraction": 0}
    tasks.train("labelling", [str(tmp_path / "a.npz")], run=tmp_path / "run", **settings)
    encoding = Encoding.load(tmp_path / "run")
    assert encoding.labels == ["a", "b", "c"]
    assert (encoding.shape, len(encoding.mean)) == ([6, 8, 1], 1)
    np.savez(tmp_path / "b.npz", celsius=pictures[:, :5])
    with pytest.raises(DataError, match="expected 6 x 8 x 1 numbers a step, as in training, got 5 x 8 x 1"):
        list(tasks.load(tmp_path / "run").label(str(tmp_path / "b.npz")))  # type: ignore[attr-defined]


def test_pictures_behind_the_end_change_nothing() -> None:
    encoding = Encoding(kind="video", labels=["a", "b"], mean=[100.0] * 3, deviation=[50.0] * 3, shape=[9, 7, 3])
    model = Labeller(Config(hidden_size=5, front_size=6), encoding).eval()
    assert isinstance(model.front, Images)
    pictures = torch.randint(0, 255, (2, 4, 9, 7, 3), dtype=torch.uint8)
    lengths = torch.tensor([4, 2])
    scores = model({"numbers": pictures, "lengths": lengths}).scores
    pictures[1, 2:] = 0
    torch.testing.assert_close(model({"numbers": pictures, "lengths": lengths}).scores, scores, rtol=0, atol=0)


def test_a_front_that_does_not_fit_is_refused() -> None:
    pictures = Encoding(kind="video", labels=["a", "b"], mean=[0.0] * 3, deviation=[1.0] * 3, shape=[9, 7, 3])
    with pytest.raises(ConfigError, match="front: expected cnn for pictures, got conv"):
        Labeller(Config(front="conv"), pictures)
    numbers = Encoding(kind="numbers", labels=["a", "b"], mean=[0.0], deviation=[1.0], shape=[1])
    with pytest.raises(ConfigError, match="front: expected none, linear or conv for steps of 1 numbers, got cnn"):
        Labeller(Config(front="cnn"), numbers)


@pytest.mark.parametrize("encoder", ["small", "efficientnet-lite0"])
def test_an_encoder_is_kept_its_features_are_on_disk_and_are_the_same_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    drawn = np.random.default_rng(0)
    for n, name in enumerate(("dark", "bright", "dark", "bright")):
        folder = tmp_path / "videos" / name / str(n)
        folder.mkdir(parents=True)
        for step in range(2 + n):
            pixels = drawn.integers(0, 90, (16, 16, 3)) + (150 if name == "bright" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{step}.png")
    computed: list[int] = []
    compute = FeatureCache._compute
    monkeypatch.setattr(FeatureCache, "_compute", lambda self, pixels: computed.append(len(pixels)) or compute(self, pixels))
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    read_module._features_of.cache_clear()
    settings = {**SETTINGS, "per": "sequence", "encoder": encoder, "validation_fraction": 0, "bidirectional": False}
    tasks.train("labelling", [str(tmp_path / "videos")], run=tmp_path / "run", **settings)
    assert sum(computed) == 2 + 3 + 4 + 5
    run: Any = tasks.load(tmp_path / "run")
    assert run.evaluate(tmp_path / "videos")["accuracy"] == 1
    (labelled,) = run.label(str(tmp_path / "videos" / "bright" / "3"))
    assert labelled.labels == "bright"
    assert sum(computed) == 2 + 3 + 4 + 5  # what is on disk is not computed again
    look = look_of(run.config)
    *_, live = run.follow(look(frame.picture) for frame in frames(Source(str(tmp_path / "videos" / "bright" / "3")), 5))
    assert_same(torch.tensor(live.probabilities), torch.tensor(labelled.probabilities))
    read_module._features_of.cache_clear()


def test_an_encoder_that_is_not_here_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encoder 'resnet': expected efficientnet-lite0, small, timm:NAME or hf:NAME"):
        tasks.train("labelling", [str(tmp_path)], run=tmp_path / "run", kind="video", encoder="resnet")
    with pytest.raises(ConfigError, match="encoder: expected none for audio, got small"):
        tasks.train("labelling", [str(tmp_path)], run=tmp_path / "run", kind="audio", encoder="small")
