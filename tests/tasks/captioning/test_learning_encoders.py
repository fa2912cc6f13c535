"""A CNN that learns along, and one that has learned."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.captioning.tiny import TINY
from tests.tolerance import assert_same

from unrolled import encoders, optimizer, tasks
from unrolled.data.captions import Photo
from unrolled.data.sentences import SentenceTokenizer
from unrolled.engine import Engine
from unrolled.tasks.captioning import data
from unrolled.tasks.captioning.config import Config
from unrolled.tasks.captioning.task import Run, Task


def test_the_encoder_learns_from_its_epoch_on_and_not_before(shapes: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 4, "save_every": 2, "evaluate_every": 4, "batch_size": 7, "fine_tune_from": 2}
    tasks.train("captioning", shapes, run=tmp_path / "run", **settings)  # 15 photos: 3 steps are an epoch
    run = Run(tmp_path / "run")
    assert run.model.encoder is run.encoder
    frozen, learned = encoders.load().body.state_dict(), run.encoder.body.state_dict()
    assert any(not torch.equal(frozen[name], learned[name]) for name in frozen)
    validation = data.load(run.folder)["validation"]
    assert len(run.preview().text.splitlines()) == min(5, len(validation))  # their features taken anew, the CNN has learned
    task = Task(run.config, tmp_path / "run")
    built = task.build()
    for step, learns in ((2, False), (3, True)):
        task.loss(built, Engine("cpu").shard(task.batch(step)), {}).loss.backward()
        assert all((p.grad is not None) == learns for p in built.encoder.parameters())


def test_photos_that_cannot_be_read_are_left_out_where_the_cnn_learns(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "shapes")
    (tmp_path / "shapes" / "images" / "red-circle-left.png").write_bytes(b"no image")
    told: list[str] = []
    (tmp_path / "run").mkdir()
    data.prepare(Config(**TINY, data=(str(tmp_path / "shapes"),), fine_tune_from=1), tmp_path / "run", told.append)
    kept = [one.name for several in data.load(tmp_path / "run").values() for one in several]
    assert len(kept) == 15
    assert "red-circle-left.png" not in kept
    assert "cannot be read and are left out" in told[-1]


def test_a_run_may_begin_with_a_cnn_that_has_learned_and_leave_it_so(shapes: Path, tmp_path: Path) -> None:
    settings = {**TINY, "max_steps": 2, "save_every": 2, "evaluate_every": 2}
    tasks.train("captioning", shapes, run=tmp_path / "first", **settings, fine_tune_from=1)
    tasks.train("captioning", shapes, run=tmp_path / "second", **settings, start=str(tmp_path / "first"))
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    task = Task(second.config, second.folder)
    assert first.encoder.fingerprint() == second.encoder.fingerprint() == task.encoder.fingerprint()
    assert first.encoder.fingerprint() != encoders.load().fingerprint()
    assert task.batch(0)["features"].dim() == 3  # taken once, with the CNN as it is
    assert not torch.equal(first.model.output.weight, second.model.output.weight)
    key = task.batches.examples[0]
    assert_same(second.encoder(data.pixels(second.encoder, key)[None]).half().float(), task.cache.read([key.key]))


def test_a_part_of_a_photo_is_another_one_each_time_and_no_larger_than_it(shapes: Path) -> None:
    encoder, chance = encoders.load(), np.random.default_rng(0)
    photo = Photo(str(shapes / "images" / "red-circle-left.png"))
    one = data.Example("red", photo, b"", b"", [])
    parts = [data.pixels(encoder, one, 0.3, chance) for _ in range(5)]
    assert len({part.numpy().tobytes() for part in parts}) == 5
    assert torch.equal(data.pixels(encoder, one, 1.0, chance), data.pixels(encoder, one))
    assert parts[0].shape == (3, 192, 192)  # 224 * sqrt(the mean share of 0.65), to the next multiple of 32


def test_the_cnn_learns_at_its_share_of_the_rate_and_the_rest_at_the_whole(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = Config(**TINY, data=(str(shapes),), fine_tune_from=1, encoder="small", encoder_rate=0.3)
    data.prepare(config, tmp_path / "run", print)
    model = Task(config, tmp_path / "run").build()
    adamw = optimizer.build(model, config)
    optimizer.set_learning_rate(adamw, 0.01)
    rate = {id(p): group["lr"] for group in adamw.param_groups for p in group["params"]}
    of_cnn = {id(p) for p in model.encoder.parameters()}
    assert {rate[one] for one in of_cnn} == {0.3 * 0.01}
    assert {rate[one] for one in rate.keys() - of_cnn} == {0.01}


def test_a_crop_has_at_least_its_share_of_the_photo_about_its_shape_and_any_place() -> None:
    side, smallest = 200, 0.3
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    photo = Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))  # each pixel says where it is

    class Whole:
        """An encoder that shows what it is given."""

        size, multiple = side, 0

        def pixels(self, photo: Image.Image, side: int) -> torch.Tensor:
            return torch.from_numpy(np.array(photo))

    file = io.BytesIO()
    photo.save(file, "PNG")
    one = data.Example("where", SimpleNamespace(read=file.getvalue), b"", b"", [])
    chance = np.random.default_rng(0)
    crops = [data.pixels(Whole(), one, smallest, chance) for _ in range(300)]
    area = np.array([crop.shape[0] * crop.shape[1] / side**2 for crop in crops])
    aspect = np.log([crop.shape[1] / crop.shape[0] for crop in crops])
    assert smallest - 0.01 < area.min() < smallest + 0.05  # a pixel of a side is half a hundredth of it
    assert area.max() > 0.9
    assert area.mean() == pytest.approx((smallest + 1) / 2, abs=0.05)
    assert np.abs(aspect).max() < 0.32
    assert np.abs(aspect).max() > 0.2
    begins = np.array([crop[0, 0, :2].tolist() for crop in crops])  # across and down
    room = np.array([(side - crop.shape[1], side - crop.shape[0]) for crop in crops])
    assert (begins <= room).all()
    share = (begins / np.maximum(room, 1))[room.min(1) > 40]
    assert len(share) > 50
    assert (share.min(0) < 0.1).all()
    assert (share.max(0) > 0.9).all()


def test_half_of_the_photos_are_mirrored_and_none_where_flips_are_off() -> None:
    tokenizer = SentenceTokenizer("word", ["word"])
    several = [data.Example(str(n), None, bytes([n, 0]), bytes([n, 1]), ["word"]) for n in range(200)]  # type: ignore[arg-type]
    cache = SimpleNamespace(read=lambda keys: keys)
    shares = {}
    for flips in (True, False):
        batches = data.Batches(Config(batch_size=200, flips=flips), several, tokenizer, None, cache)  # type: ignore[arg-type]
        keys = batches.batch(0)["features"]
        assert sorted(key[0] for key in keys) == list(range(200))
        shares[flips] = sum(key[1] for key in keys) / 200
    assert shares[False] == 0
    assert shares[True] == pytest.approx(0.5, abs=0.12)  # three standard errors and more
