"""The picture of a caption: the photo, its words, and a map for each of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unrolled.inspection.attention_maps import _overlaid, draw


def photo(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_each_word_has_its_map_and_without_attention_there_is_the_photo_alone(tmp_path: Path) -> None:
    words = ["word"] * 7
    alone = size(draw(tmp_path / "new" / "alone.png", photo(), words))
    maps = size(draw(tmp_path / "maps.png", photo(), words, torch.softmax(torch.randn(7, 9), -1)))
    more = size(draw(tmp_path / "more.png", photo(), words * 3, torch.softmax(torch.randn(21, 9), -1)))
    assert alone[0] < maps[0]
    assert maps[1] < more[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.png", "more.png", "new"]


@pytest.mark.parametrize("word", ["$5", "$x_{", "", "a" * 90, "日"], ids=["dollar", "brace", "empty", "long", "script"])
@pytest.mark.parametrize("shape", [(1, 1), (500, 3), (3, 500)], ids=str)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_word_and_any_shape_of_photo_can_be_drawn(word: str, shape: tuple[int, int], tmp_path: Path) -> None:
    assert max(size(draw(tmp_path / "a.png", photo(*shape), [word], torch.full((1, 4), 0.25)))) < 3000
    assert max(size(draw(tmp_path / "b.png", photo(*shape), [word]))) < 3000


def test_a_caption_without_words_is_drawn(tmp_path: Path) -> None:
    assert size(draw(tmp_path / "a.png", photo(), [], torch.zeros(0, 49)))


def test_the_photo_is_clear_where_the_model_looked() -> None:
    weights = np.zeros((2, 3))
    weights[1, 2] = 0.4
    seen, original = np.asarray(_overlaid(photo(), weights)).astype(int), np.asarray(photo()).astype(int)
    different = np.abs(seen - original).mean(-1)
    assert different[30, 55] < 2  # the middle of the place at row 1, column 2
    assert different[:20, :40].mean() > 20


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected weights of 2 words x 3 x 3 places, got \(2, 12\)\. Give grid="):
        draw(tmp_path / "a.png", photo(), ["a", "b"], torch.zeros(2, 12))
    with pytest.raises(ValueError, match="expected weights of 3 words"):
        draw(tmp_path / "a.png", photo(), ["a", "b", "c"], torch.zeros(2, 12), grid=(3, 4))
    assert not list(tmp_path.iterdir())
