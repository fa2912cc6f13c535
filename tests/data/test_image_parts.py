"""A run's images on disk."""

from pathlib import Path

import numpy as np
import pytest

from unrolled.data.batches import ShuffledBatches
from unrolled.data.image_parts import TRAINING, Facts, Labelled, Part, split, write
from unrolled.errors import RunError

FACTS = Facts(channels=1, height=2, width=3, classes=["a", "b"])


def part(folder: Path, labels: list[int]) -> Part:
    images = np.zeros((len(labels), 1, 2, 3), np.uint8)
    write(folder, FACTS, Labelled(images, np.array(labels)), Labelled(images[:0], np.array(labels[:0])))
    return Part(folder / TRAINING, FACTS)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert part(tmp_path, [0, 1, 1]).labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_class_are_refused(tmp_path: Path, label: int) -> None:
    with pytest.raises(RunError, match="none of its 2 classes"):
        part(tmp_path, [0, label])


def test_every_image_is_learned_from_or_held_out() -> None:
    rest, held = split(11, 0.3, seed=5)
    assert len(held) == 3
    assert sorted([*rest, *held]) == list(range(11))
    assert split(11, 0.3, seed=6)[1].tolist() != held.tolist()


def test_an_epoch_has_no_item_twice_and_the_next_one_another_order() -> None:
    batches = ShuffledBatches(10, 3, seed=0)
    first, second = (np.concatenate([batches[epoch * 3 + n] for n in range(3)]).tolist() for epoch in range(2))
    assert len(set(first)) == len(set(second)) == 9
    assert first != second
    assert ShuffledBatches(10, 3, seed=0)[4].tolist() == batches[4].tolist()
