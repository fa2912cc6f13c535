"""A CNN that learns along, and one that has learned."""

import shutil
from pathlib import Path

import numpy as np
import torch
from tests.tasks.captioning.tiny import TINY
from tests.tolerance import assert_same

from unrolled import encoders, tasks
from unrolled.data.captions import Photo
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
