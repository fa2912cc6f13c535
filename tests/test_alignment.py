"""The picture of which source tokens a translation attended to."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unrolled.inspection.alignment import draw

SCRIPTS = ["март", "مارس", "3月14日", "मार्च", "มีนาคม", "$5_{x}$", "", " ", "\n", "\u200d", "a" * 90]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("L"))


def test_a_square_is_as_dark_as_its_weight(tmp_path: Path) -> None:
    light, dark = torch.zeros(2, 3), torch.zeros(2, 3)
    light[1, 2], dark[1, 2] = 0.3, 1.0
    source, target = ["a", "b", "c"], ["x", "y"]
    none, some, most = (
        pixels(draw(tmp_path / f"{n}.png", source, target, each)).astype(int)
        for n, each in enumerate([torch.zeros(2, 3), light, dark])
    )
    changed = np.argwhere(none != most)
    assert (changed.mean(0) > np.array(none.shape) / 2).all()  # second row, third column: below and right of the middle
    assert 100 < len(changed) < none.size / 6
    assert none[none != most].mean() > some[none != most].mean() > most[none != most].mean()


@pytest.mark.parametrize("token", SCRIPTS, ids=ascii)
def test_every_script_is_drawn_without_a_warning(token: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = pixels(draw(tmp_path / "new" / "a.png", [token] * 3, [token, "<end>"], torch.full((2, 3), 1 / 3)))
        alone = pixels(draw(tmp_path / "b.png", [token], [token], None))
    assert max(picture.shape + alone.shape) < 1500
    assert picture.min() < 100


def test_sentences_of_characters_fit_and_long_ones_are_cut(tmp_path: Path) -> None:
    for length in (1, 40, 500):
        assert max(pixels(draw(tmp_path / "a.png", ["c"] * length, ["d"] * 10, torch.zeros(10, length))).shape) < 3000
        assert max(pixels(draw(tmp_path / "a.png", ["c"] * length, ["d"] * 10, None)).shape) < 3000


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected weights of 1 x 2 tokens \(target, source\), got \(2, 1\)"):
        draw(tmp_path / "a.png", ["a", "b"], ["c"], torch.zeros(2, 1))
    assert not list(tmp_path.iterdir())
