"""Features are taken once per photo and encoder, survive kills, and can be taken by two processes at once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from unrolled.data.features import DIGEST, FeatureCache, digest
from unrolled.encoders import Encoder
from unrolled.errors import DataError

SIZE = 8


def encoder(name: str = "tiny") -> Encoder:
    torch.manual_seed(0)
    return Encoder(name, nn.Conv2d(3, 5, 3, stride=3), SIZE, (0.5,) * 3, (0.25,) * 3)


def photo(position: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(position)
    return torch.randint(256, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


KEYS = [digest(bytes([n])) for n in range(7)]


def test_features_are_the_encoders_and_taken_once(tmp_path: Path) -> None:
    cache, asked = FeatureCache(encoder(), tmp_path), []
    cache.fill(KEYS[:5], lambda n: asked.append(n) or photo(n))
    cache.fill(KEYS, lambda n: asked.append(n) or photo(n))
    assert asked == list(range(7))
    with torch.no_grad():
        expected = encoder()(torch.stack([photo(6), photo(2)])).half().float()
    assert torch.equal(cache.read([KEYS[6], KEYS[2]]), expected)
    assert torch.equal(FeatureCache(encoder(), tmp_path).read([KEYS[6], KEYS[2]]), expected)


def test_mirrored_features_are_those_of_the_mirrored_photo(tmp_path: Path) -> None:
    cache, mirrored = FeatureCache(encoder(), tmp_path), [digest(bytes([n]), mirrored=True) for n in range(3)]
    cache.fill(KEYS[:3], photo, mirrored)
    with torch.no_grad():
        assert torch.equal(cache.read([mirrored[1]])[0], encoder()(photo(1).flip(-1)[None])[0].half().float())


def test_a_photo_that_cannot_be_read_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    def broken(position: int) -> torch.Tensor:
        if position == 1:
            raise DataError("b.jpg: damaged")
        return photo(position)

    cache = FeatureCache(encoder(), tmp_path)
    assert cache.fill(KEYS[:3], broken) == {1: "b.jpg: damaged"}
    assert cache.missing(KEYS[:3]) == [1]


@pytest.mark.parametrize("extra", [b"x" * 5, b""])
def test_what_a_kill_left_behind_the_last_key_is_overwritten(tmp_path: Path, extra: bytes) -> None:
    FeatureCache(encoder(), tmp_path).fill(KEYS[:2], photo)
    folder = next((tmp_path / "features").iterdir())
    with open(folder / "features.bin", "ab") as file:  # a row and a half, whose keys were never written
        file.write(b"\1" * 37)
    with open(folder / "keys.bin", "ab") as file:  # a key cut short
        file.write(extra)
    cache = FeatureCache(encoder(), tmp_path)
    cache.fill(KEYS[:4], photo)
    assert len((folder / "keys.bin").read_bytes()) == 4 * DIGEST
    with torch.no_grad():
        assert torch.equal(cache.read(KEYS[:4]), encoder()(torch.stack([photo(n) for n in range(4)])).half().float())


@pytest.mark.parametrize("keep", [0, 1, 2.5, None])
@pytest.mark.parametrize("name", ["features.bin", "keys.bin"])
def test_what_a_damaged_cache_lacks_is_computed_anew(tmp_path: Path, name: str, keep: float | None) -> None:
    FeatureCache(encoder(), tmp_path).fill(KEYS[:4], photo)
    path = next((tmp_path / "features").iterdir()) / name
    content = path.read_bytes()
    path.unlink() if keep is None else path.write_bytes(content[: int(len(content) // 4 * keep)])
    cache = FeatureCache(encoder(), tmp_path)
    assert cache.missing(KEYS[:4]) == list(range(int(keep or 0), 4))
    cache.fill(KEYS[:5], photo)
    with torch.no_grad():
        assert torch.equal(cache.read(KEYS[:5]), encoder()(torch.stack([photo(n) for n in range(5)])).half().float())


@pytest.mark.parametrize("content", [b"", b"\xff" * 10_000])
def test_a_cache_that_is_damaged_while_it_is_used_says_so_and_is_filled_anew(tmp_path: Path, content: bytes) -> None:
    cache = FeatureCache(encoder(), tmp_path)
    cache.fill(KEYS[:2], photo)
    (cache.folder / "features.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"the cached features were damaged and are removed\. Run this command again"):
        cache.read(KEYS[:2])
    cache.fill(KEYS[:2], photo)
    assert cache.read(KEYS[:2]).isfinite().all()


def test_encoders_of_other_weights_or_names_have_other_caches(tmp_path: Path) -> None:
    one, other = encoder(), encoder()
    with torch.no_grad():
        next(other.body.parameters())[0] += 1
    assert len({encoder().fingerprint(), encoder("x").fingerprint(), other.fingerprint()}) == 3
    assert one.fingerprint() == encoder().fingerprint()


def test_two_processes_fill_one_cache(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, tests.data.test_features as t\n"
        "cache = t.FeatureCache(t.encoder(), pathlib.Path(sys.argv[1]))\n"
        "for n in map(int, sys.argv[2].split()): cache.fill([t.digest(bytes([n]))], lambda _: t.photo(n))\n"
    )
    orders = ["0 1 2 3 4 5 6", "6 5 4 3 2 1 0"]
    several = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), order]) for order in orders]
    assert [process.wait(60) for process in several] == [0, 0]
    cache = FeatureCache(encoder(), tmp_path)
    assert cache.missing(KEYS) == []
    assert len(cache._rows) == 7
    with torch.no_grad():
        expected = torch.cat([encoder()(photo(n)[None]) for n in range(7)]).half().float()
    assert torch.equal(cache.read(KEYS), expected)
