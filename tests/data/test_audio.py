"""Sound becomes the same features however it is read, and what cannot be read is named in one line."""

import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from tests.tolerance import assert_same

from unrolled.data import audio
from unrolled.data.audio import LogMel
from unrolled.data.sources import Source
from unrolled.errors import DataError

FEATURES = LogMel(rate=8000, bands=12)


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(path: Path, samples: np.ndarray, rate: int = 8000) -> Source:
    soundfile.write(path, samples, rate)
    return Source(str(path))


def test_features_are_those_of_librosa(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    read = audio.read(written(tmp_path / "a.flac", samples), FEATURES)
    samples, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")  # 16 bits, as it was kept
    shifted = np.pad(samples, (28, 512))  # librosa has the window of 200 samples in the middle of its 256
    expected = librosa.feature.melspectrogram(
        y=shifted, sr=8000, n_fft=256, win_length=200, hop_length=80, n_mels=12, center=False
    )
    assert read.inputs.shape == (100, 12)
    assert_same(torch.from_numpy(read.inputs), torch.from_numpy(np.log(expected.T[:100])))


def test_blocks_change_no_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 5003).astype(np.float32), 11025)
    whole = audio.read(source, FEATURES)
    monkeypatch.setattr(audio, "BLOCK", 701)
    assert_same(torch.from_numpy(audio.read(source, FEATURES).inputs), torch.from_numpy(whole.inputs))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_every_format_and_rate_and_number_of_channels_gives_the_same_tone(tmp_path: Path, name: str) -> None:
    expected = audio.read(written(tmp_path / "mono.wav", tone(0.5, 8000)), FEATURES).inputs
    for rate, channels in ((16000, 2), (44100, 1), (8000, 3)):
        read = audio.read(written(tmp_path / name, np.stack([tone(0.5, rate)] * channels, 1), rate), FEATURES)
        assert abs(len(read) - 50) <= 1
        assert read.inputs[10:40].argmax(1).tolist() == expected[10:40].argmax(1).tolist()
        assert read.times is not None
        assert read.times[:3].tolist() == pytest.approx([0, 0.01, 0.02])


def test_silence_is_finite_and_a_recording_without_samples_has_no_step(tmp_path: Path) -> None:
    silent = audio.read(written(tmp_path / "a.wav", np.zeros(803)), FEATURES)
    assert silent.inputs.shape == (11, 12)
    assert (silent.inputs == np.log(np.float32(audio.FLOOR))).all()
    assert audio.read(written(tmp_path / "b.wav", np.zeros(0)), FEATURES).inputs.shape == (0, 12)


def test_a_recording_shorter_than_a_window_has_a_step(tmp_path: Path) -> None:
    assert audio.read(written(tmp_path / "a.wav", tone(0.005, 8000)), FEATURES).inputs.shape == (1, 12)


def test_no_band_is_without_a_frequency() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 400).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # librosa's, which are not for a user
        assert LogMel(rate=8000, bands=128).rows(samples, 2).min() > np.log(audio.FLOOR)


def test_what_is_no_whole_recording_is_named_in_one_line(tmp_path: Path) -> None:
    written(tmp_path / "a.wav", tone(0.2, 8000))
    zero_rate = bytearray((tmp_path / "a.wav").read_bytes())
    zero_rate[24:28] = bytes(4)
    (tmp_path / "zero.wav").write_bytes(zero_rate)
    short, noise = tone(0.2, 8000), np.random.default_rng(0).normal(0, 0.1, 20_000)
    written(tmp_path / "a.flac", noise)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:20_000])
    for name, sound in {"a.wav": short, "a.aiff": short, "a.au": short, "a.ogg": noise}.items():
        content = Path(written(tmp_path / name, sound).path).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(content[: len(content) * 6 // 10])
    (tmp_path / "text.wav").write_text("hello")
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "rate.wav").write_bytes(whole[:24] + b"\xff\xff\xff\x7f" + whole[28:])
    (tmp_path / "header.wav").write_bytes(whole[:43])
    soundfile.write(tmp_path / "loud.wav", np.array([0, 1e30], np.float32), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.array([0, 0.5, np.nan, 0], np.float32), 8000, subtype="FLOAT")
    problems = {
        "zero.wav": "a sampling rate or a number of channels of zero",
        "cut.flac": "expected a whole recording",
        "cut_a.wav": "cut short after 0.12 s (its header says 3,200 bytes of sound, 1,902 are there)",
        "cut_a.aiff": "cut short after 0.12 s (its header says ",
        "cut_a.au": "cut short after 0.12 s (its header says ",
        "cut_a.ogg": " s (its last page is missing)",
        "text.wav": "expected a whole recording, got one that cannot be read",
        "nan.wav": "got nan after 0.000 s",
        "loud.wav": "got 1e+30 after 0.000 s",
        "rate.wav": "expected a sampling rate from 1 to 10,000,000 Hz, got 2,147,483,647",
        "header.wav": "cut short after 0.00 s (within its header)",
    }
    for name, problem in problems.items():
        with pytest.raises(DataError) as caught:
            audio.read(Source(str(tmp_path / name)), FEATURES)
        assert problem in str(caught.value)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_recording_that_was_written_to_a_pipe_has_no_size_and_is_read_to_its_end(tmp_path: Path) -> None:
    expected = audio.read(written(tmp_path / "a.wav", tone(0.2, 8000)), FEATURES).inputs
    content = bytearray((tmp_path / "a.wav").read_bytes())
    for unknown in (b"\xff\xff\xff\xff", b"\x00\xf0\xff\x7f"):
        content[4:8] = content[40:44] = unknown
        found = audio.read(Source("standard input", bytes(content)), FEATURES)
        np.testing.assert_array_equal(found.inputs, expected)
